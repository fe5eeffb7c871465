"""Where everything of a run lies, and how it gets there whole: the only module that knows these paths.

runs/NAME/
  sweep.json                       resolved configuration and provenance
  plan.json                        what `wlsweep plan` said when the run began
  data/                            manifests of the mixes, test.parquet (the truth), validation.parquet, data.json
  conditions/CONDITION/            config.json, metrics.jsonl, model/, checkpoints/, trained.json | failed.json, lease.json
  predictions/condition=CONDITION/ Parquet
  metrics/                         all_metrics.json, all_metrics.parquet, by_year.parquet, analysis.json
  export/CONDITION/                predictions.jsonl, on request
  tracking/                        what trackers (MLflow, W&B, TensorBoard) were sent
  report/                          index.html, plots/
  usage/                           what each process held and for how long
  logs/                            what the engines had to say
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wlsweep.errors import DamagedError, UnreadableError, WlsweepError, os_error_text
from wlsweep.files import read_file
from wlsweep.interrupts import unfinished


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    root: Path

    @property
    def sweep_json(self) -> Path:
        """Resolved configuration and provenance."""
        return self.root / "sweep.json"

    @property
    def data(self) -> Path:
        """Folder of the data stage."""
        return self.root / "data"

    @property
    def data_json(self) -> Path:
        """Record of the finished data stage: counts, duplicates, truncation, hashes, where the token tables lie."""
        return self.data / "data.json"

    @property
    def test_parquet(self) -> Path:
        """The truth: one row per test paper."""
        return self.data / "test.parquet"

    @property
    def validation_parquet(self) -> Path:
        """The papers of validation, which no mix holds."""
        return self.data / "validation.parquet"

    def manifest(self, k: int) -> Path:
        """Row id and multiplicity of the training rows at proportion 1/k."""
        return self.data / f"manifest_prop1_{k}.parquet"

    def condition(self, name: str) -> Path:
        """Folder of one condition."""
        return self.root / "conditions" / name

    def condition_config(self, name: str) -> Path:
        """Resolved configuration of one condition, written when its training begins."""
        return self.condition(name) / "config.json"

    def metric_log(self, name: str) -> Path:
        """JSON Lines, one object per logged step."""
        return self.condition(name) / "metrics.jsonl"

    def model(self, name: str) -> Path:
        """The final model: safetensors and tokenizer."""
        return self.condition(name) / "model"

    def checkpoints(self, name: str) -> Path:
        """Resume checkpoints; gone when the condition is trained."""
        return self.condition(name) / "checkpoints"

    def trained(self, name: str) -> Path:
        """Record of finished training, written last."""
        return self.condition(name) / "trained.json"

    def failed(self, name: str) -> Path:
        """Record of failure: stage, cause, attempts, log."""
        return self.condition(name) / "failed.json"

    def lease(self, name: str) -> Path:
        """Who trains or predicts the condition right now."""
        return self.condition(name) / "lease.json"

    @property
    def data_lease(self) -> Path:
        """Who makes the data right now."""
        return self.root / "data.lease"

    @property
    def report_lease(self) -> Path:
        """Who evaluates and reports right now."""
        return self.root / "report.lease"

    @property
    def predictions(self) -> Path:
        """Hive-partitioned Parquet of all conditions."""
        return self.root / "predictions"

    def prediction(self, name: str) -> Path:
        """Parquet folder of one condition."""
        return self.predictions / f"condition={name}"

    @property
    def metrics_json(self) -> Path:
        """All metrics of all conditions."""
        return self.root / "metrics" / "all_metrics.json"

    @property
    def metrics_parquet(self) -> Path:
        """The same, as a table."""
        return self.root / "metrics" / "all_metrics.parquet"

    @property
    def analysis_json(self) -> Path:
        """Comparisons, verdicts, curves and what the page is drawn from."""
        return self.root / "metrics" / "analysis.json"

    @property
    def by_year_parquet(self) -> Path:
        """Metrics of all conditions, a row a condition and year."""
        return self.root / "metrics" / "by_year.parquet"

    @property
    def skipped_json(self) -> Path:
        """Conditions that `--until-decided` left out, and why."""
        return self.root / "skipped.json"

    @property
    def plan_json(self) -> Path:
        """What `wlsweep plan` said when the run began."""
        return self.root / "plan.json"

    @property
    def usage(self) -> Path:
        """What each process held and for how long."""
        return self.root / "usage"

    @property
    def usage_json(self) -> Path:
        """What was used, summed up when the page was written."""
        return self.root / "metrics" / "usage.json"

    @property
    def tracking(self) -> Path:
        """What trackers were sent, and files of those that work offline."""
        return self.root / "tracking"

    @property
    def tracking_lease(self) -> Path:
        """Which process sends to trackers right now."""
        return self.root / "tracking.lease"

    def exported(self, name: str) -> Path:
        """Predictions of one condition as LLaMA-Factory writes them."""
        return self.root / "export" / name / "predictions.jsonl"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report" / "index.html"

    @property
    def plots(self) -> Path:
        """PNG figures."""
        return self.root / "report" / "plots"

    @property
    def logs(self) -> Path:
        """Engine chatter."""
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        """Token tables, synthetic papers and base models: shared by the runs that lie beside this one."""
        return self.root.parent / ".cache"


def existing_run(path: str | Path) -> RunDir:
    """The run in a folder.

    Raises:
        WlsweepError: if there is none.
    """
    run = RunDir(Path(path))
    try:
        run.sweep_json.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise WlsweepError(
            f"{path} holds no run (no sweep.json); start one with: wlsweep run SWEEP.toml --out {path}"
        ) from None
    except OSError as e:
        raise UnreadableError(os_error_text(e, run.sweep_json)) from None
    return run


_ON_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


def _temporary(path: Path) -> Path:
    """A hidden name beside `path`; `remove_partial_artifacts` knows its form."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` if the block ends well, deleted if not.

    Raises:
        WlsweepError: where the system refuses: naming `path`, what it said and what to do.
    """
    with _written_beside(path) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[Path]]:
    """Temporary paths for files that belong together: none is renamed before all are written.

    Raises:
        WlsweepError: as `atomic_file` does.
    """
    with ExitStack() as stack:
        temporaries = [stack.enter_context(_written_beside(path)) for path in paths]
        yield temporaries
        for path in paths:
            if path.is_dir():
                raise WlsweepError(
                    os_error_text(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), path, "written")
                )
        for temporary, path in zip(temporaries, paths, strict=True):
            try:
                temporary.replace(path)
            except OSError as refused:
                raise WlsweepError(os_error_text(refused, path, "written")) from refused


@contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    temporary = _temporary(path)
    unfinished.add(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as e:
        if _concerns(e, path.parent):
            raise WlsweepError(os_error_text(e, path, "written")) from e
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        unfinished.discard(temporary)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed to `path` if the block ends well, deleted if not.

    Where another process was faster, its folder stays: this is for results that are the same whoever makes them.

    Raises:
        WlsweepError: as `atomic_file` does.
    """
    temporary = _temporary(path)
    unfinished.add(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as e:
        if _concerns(e, path.parent):
            raise WlsweepError(os_error_text(e, path, "written")) from e
        raise
    finally:
        unfinished.discard(temporary)


def _concerns(e: OSError, folder: Path) -> bool:
    """Whether an error is of writing below `folder`: one that names another file is of what was read for it."""
    if e.filename is None:  # write(2) names nothing
        return e.errno in _ON_WRITING
    return str(e.filename).startswith(str(folder)) or str(folder).startswith(str(e.filename))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all: a field a line, of a list an item a line.

    NaN and infinity are refused: a number that is not there is null.

    Raises:
        WlsweepError: where the system refuses to write, naming the file.
    """
    text = json_text(value)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """JSON as the run's files have it."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]\n"
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON that `write_json` wrote.

    Raises:
        DamagedError: if the file is missing or not whole JSON, naming it.
        UnreadableError: if the system does not let this process read it.
    """
    try:
        return json.loads(read_file(path).decode("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError) as e:
        said = "no such file" if isinstance(e, FileNotFoundError) else e
        raise DamagedError(f"{path} cannot be read: {said}; delete it and run the stage that writes it again") from None
    except OSError as e:
        raise UnreadableError(os_error_text(e, path)) from None
