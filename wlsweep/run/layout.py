"""Where everything of a run lies, and how it gets there whole: the only module that knows these paths.

`RunDir` is the table of them; docs/run-directory.md says more of what they hold.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wlsweep.errors import DamagedError, UnreadableError, WlsweepError, os_error_text
from wlsweep.files import read_file
from wlsweep.interrupts import discard, unfinished


class _Below:
    """A path of `RunDir` by its place below the root."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __get__(self, run: RunDir, owner: type[RunDir]) -> Path:
        return run.root / self._place


class _OfCondition:
    """The same of a condition, as a function of its name, which stands for `{}`."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __get__(self, run: RunDir, owner: type[RunDir]) -> Callable[[str], Path]:
        return lambda name: run.root / self._place.format(name)


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    root: Path

    sweep_json = _Below("sweep.json")
    """Resolved configuration and provenance."""
    data = _Below("data")
    """Folder of the data stage."""
    data_json = _Below("data/data.json")
    """Record of the finished data stage: counts, duplicates, truncation, hashes, where the token tables lie."""
    test_parquet = _Below("data/test.parquet")
    """The truth: one row per test paper."""
    validation_parquet = _Below("data/validation.parquet")
    """The papers of validation, which no mix holds."""
    condition = _OfCondition("conditions/{}")
    """Folder of one condition."""
    condition_config = _OfCondition("conditions/{}/config.json")
    """Resolved configuration of one condition, written when its training begins."""
    metric_log = _OfCondition("conditions/{}/metrics.jsonl")
    """JSON Lines, one object per logged step."""
    model = _OfCondition("conditions/{}/model")
    """The final model: safetensors and tokenizer."""
    checkpoints = _OfCondition("conditions/{}/checkpoints")
    """Resume checkpoints; gone when the condition is trained."""
    trained = _OfCondition("conditions/{}/trained.json")
    """Record of finished training, written last."""
    failed = _OfCondition("conditions/{}/failed.json")
    """Record of failure: stage, cause, attempts, log."""
    lease = _OfCondition("conditions/{}/lease.json")
    """Who trains or predicts the condition right now."""
    data_lease = _Below("data.lease")
    """Who makes the data right now."""
    report_lease = _Below("report.lease")
    """Who evaluates and reports right now."""
    predictions = _Below("predictions")
    """Hive-partitioned Parquet of all conditions."""
    prediction = _OfCondition("predictions/condition={}")
    """Parquet folder of one condition."""
    metrics_json = _Below("metrics/all_metrics.json")
    """All metrics of all conditions."""
    metrics_parquet = _Below("metrics/all_metrics.parquet")
    """The same, as a table."""
    analysis_json = _Below("metrics/analysis.json")
    """Comparisons, verdicts, curves and what the page is drawn from."""
    by_year_parquet = _Below("metrics/by_year.parquet")
    """Metrics of all conditions, a row a condition and year."""
    skipped_json = _Below("skipped.json")
    """Conditions that `--until-decided` left out, and why."""
    plan_json = _Below("plan.json")
    """What `wlsweep plan` said when the run began."""
    usage = _Below("usage")
    """What each process held and for how long."""
    usage_json = _Below("metrics/usage.json")
    """What was used, summed up when the page was written."""
    tracking = _Below("tracking")
    """What trackers were sent, and files of those that work offline."""
    tracking_lease = _Below("tracking.lease")
    """Which process sends to trackers right now."""
    exported = _OfCondition("export/{}/predictions.jsonl")
    """Predictions of one condition as LLaMA-Factory writes them."""
    report = _Below("report/index.html")
    """The page."""
    plots = _Below("report/plots")
    """PNG figures."""
    logs = _Below("logs")
    """Engine chatter."""

    def manifest(self, k: int) -> Path:
        """Row id and multiplicity of the training rows at proportion 1/k."""
        return self.data / f"manifest_prop1_{k}.parquet"

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
        discard(temporary)
        unfinished.discard(temporary)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed to `path` if the block ends well, deleted if not.

    Where another process was faster, its folder stays: this is for results that are the same whoever makes them.

    Raises:
        WlsweepError: as `atomic_file` does.
    """
    with _written_beside(path) as temporary:
        temporary.mkdir()
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise


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
