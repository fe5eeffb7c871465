"""One class for each tracker, with its own client library: a run for a condition, and one that holds the report.

Methods may raise anything; `Follower` tries again later. Ids are the tracker's, and stay the same for a condition.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.run.layout import RunDir
from wlsweep.spec.config import Tracker

End = Literal["finished", "failed", "stopped"]
Values = Mapping[str, float]
Line = tuple[int, Values]
"""An optimizer step, and values at it."""
MODULES: dict[Tracker, str] = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardX"}
"""What each tracker's client is imported as."""


class Client(ABC):
    """One tracker, for one sweep."""

    def __init__(self, run: RunDir, sweep: str) -> None:
        self.run, self.sweep = run, sweep

    @abstractmethod
    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """Open the run of a condition, or of the report; `known` is its id where it exists. Returns its id."""

    @abstractmethod
    def log(self, run_id: str, lines: Sequence[Line]) -> None:
        """Values at optimizer steps of an open run, in order."""

    @abstractmethod
    def conclude(self, run_id: str, step: int, values: Values, notes: Mapping[str, str]) -> None:
        """Values and texts that describe an open run as a whole; `step` is the last one that was logged."""

    @abstractmethod
    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """Files and folders for an open run."""

    @abstractmethod
    def end(self, run_id: str, how: End) -> None:
        """Close an open run; `begin` with its id opens it again."""


class TensorBoard(Client):
    """Event files under `tensorboard/` of the run directory, a folder a condition; without a server."""

    def __init__(self, run: RunDir, sweep: str) -> None:
        super().__init__(run, sweep)
        self._writers: dict[str, Any] = {}

    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """The id is the name of the folder; each time that it is opened it gets a file."""
        # not SummaryWriter, whose queue is not empty after its flush, and whose file of the same second is overwritten
        from tensorboardX.event_file_writer import EventsWriter

        folder = self.run.root / "tensorboard" / name
        folder.mkdir(parents=True, exist_ok=True)
        self._writers[name] = EventsWriter(str(folder / "events"), f".{secrets.token_hex(4)}")
        if known is None:
            self._text(name, "configuration", f"```\n{json.dumps(config, indent=1)}\n```")
        return name

    def _write(self, run_id: str, step: int, summary: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writers[run_id].write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _text(self, run_id: str, key: str, text: str) -> None:
        from tensorboardX import summary

        self._write(run_id, 0, summary.text(key, text))

    def log(self, run_id: str, lines: Sequence[Line]) -> None:
        """Scalars."""
        from tensorboardX import summary

        for step, values in lines:
            for key, value in values.items():
                self._write(run_id, step, summary.scalar(key, value))
        self._writers[run_id].flush()

    def conclude(self, run_id: str, step: int, values: Values, notes: Mapping[str, str]) -> None:
        """Scalars at the last step, and texts."""
        self.log(run_id, [(step, values)])
        for key, text in notes.items():
            self._text(run_id, key, text)

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """Event files hold no files: their paths."""
        self._text(run_id, "files", "\n\n".join(str(f.resolve()) for f in files))

    def end(self, run_id: str, how: End) -> None:
        """Close the event file."""
        self._writers.pop(run_id).close()


class Mlflow(Client):
    """An experiment a sweep (or MLFLOW_EXPERIMENT_NAME), whose runs lie below one that holds the report.

    Where it goes is MLflow's own setting: MLFLOW_TRACKING_URI, such as `http://server:5000` or `sqlite:///mlflow.db`.
    """

    PARAMETERS, METRICS = 100, 1000
    """Most that MLflow takes in one request."""

    def __init__(self, run: RunDir, sweep: str) -> None:
        super().__init__(run, sweep)
        # A server that does not answer is tried again by the follower; MLflow's own seven tries take minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        self.client, self.folder = MlflowClient(), str(run.root.resolve())

    @cached_property
    def experiment(self) -> str:
        """The id of the sweep's experiment, which is made if there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.sweep
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    @cached_property
    def parent(self) -> str:
        """The id of the sweep's own run, which is made if there is none."""
        run_id = self._find(self.sweep)
        if run_id is None:
            run_id = self._create(self.sweep, {})
            self.client.set_terminated(run_id)  # it only holds the others, until there is a report
        return run_id

    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """A run below the sweep's own, which is found again by its tag."""
        from mlflow.entities import Param

        if name == self.sweep:
            return self.parent
        run_id = known or self._find(name)
        if run_id is None:
            run_id = self._create(name, {"mlflow.parentRunId": self.parent})
            flat = [Param(key, str(value)[:500]) for key, value in flattened(config).items()]
            for at in range(0, len(flat), self.PARAMETERS):
                self.client.log_batch(run_id, params=flat[at : at + self.PARAMETERS])
        self.client.update_run(run_id, status="RUNNING")
        return run_id

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        tags = {**tags, "wlsweep.folder": self.folder, "wlsweep.name": name}
        return str(self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id)

    def _find(self, name: str) -> str | None:
        quoted = self.folder.replace("'", "\\'")
        query = f"tags.`wlsweep.name` = '{name}' and tags.`wlsweep.folder` = '{quoted}'"
        found = self.client.search_runs([self.experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def log(self, run_id: str, lines: Sequence[Line]) -> None:
        """Metrics at their steps, many in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for step, values in lines for key, value in values.items()]
        for at in range(0, len(metrics), self.METRICS):
            self.client.log_batch(run_id, metrics=metrics[at : at + self.METRICS])

    def conclude(self, run_id: str, step: int, values: Values, notes: Mapping[str, str]) -> None:
        """Metrics at the last step, and tags."""
        self.log(run_id, [(step, values)])
        for key, text in notes.items():
            self.client.set_tag(run_id, key, text[:5000])

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """Artifacts."""
        for file in files:
            if file.is_dir():
                self.client.log_artifacts(run_id, str(file), file.name)
            else:
                self.client.log_artifact(run_id, str(file))

    def end(self, run_id: str, how: End) -> None:
        """FINISHED, FAILED or KILLED."""
        status = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[how]
        self.client.set_terminated(run_id, status=status)


class Wandb(Client):
    """A run a condition in the group of the sweep; the project is WANDB_PROJECT, or `wlsweep`.

    Its own settings hold: WANDB_MODE=offline writes files below `tracking/wandb/` for `wandb sync`.
    """

    PATIENCE_S = 30.0
    """Longest wait for the server at the start of a run."""

    def __init__(self, run: RunDir, sweep: str) -> None:
        super().__init__(run, sweep)
        self._open: dict[str, Any] = {}

    def begin(self, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """Ids are made here, since an offline run has no server that could."""
        import wandb

        run_id = known or secrets.token_hex(6)
        folder = self.run.tracking
        folder.mkdir(parents=True, exist_ok=True)
        self._open[run_id] = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "wlsweep",
            group=self.sweep,
            job_type="report" if name == self.sweep else "condition",
            name=name,
            id=run_id,
            resume="allow",
            config=dict(config),
            dir=str(folder),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, init_timeout=self.PATIENCE_S),
        )
        return run_id

    def log(self, run_id: str, lines: Sequence[Line]) -> None:
        """Rows of the run's history."""
        for step, values in lines:
            self._open[run_id].log(dict(values), step=step)

    def conclude(self, run_id: str, step: int, values: Values, notes: Mapping[str, str]) -> None:
        """The run's summary."""
        self._open[run_id].summary.update({**values, **notes})

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """One artifact of type `report`."""
        import wandb

        artifact = wandb.Artifact(f"{self.sweep}-report", type="report")
        for file in files:
            if file.is_dir():
                artifact.add_dir(str(file), name=file.name)
            else:
                artifact.add_file(str(file))
        self._open[run_id].log_artifact(artifact)

    def end(self, run_id: str, how: End) -> None:
        """With exit code 0, or 1 for a failed condition."""
        self._open.pop(run_id).finish(exit_code=int(how == "failed"))


CLIENTS: dict[Tracker, type[Client]] = {"wandb": Wandb, "mlflow": Mlflow, "tensorboard": TensorBoard}


def trackers_named(names: Sequence[str]) -> list[Tracker]:
    """Trackers by their names.

    Raises:
        WlsweepError: for a name that is none, and where there are none.
    """
    known = ", ".join(CLIENTS)
    refuse_all("--track:", [f"{n!r} is no tracker; they are {known}" for n in names if n not in CLIENTS])
    if not names:
        raise WlsweepError(f"the run names no tracker: give --track NAME with one of {known}")
    return [tracker for tracker in CLIENTS if tracker in names]


def refuse_missing_clients(trackers: Sequence[Tracker]) -> None:
    """Refuse trackers whose client library is not installed, before anything is spent.

    Raises:
        WlsweepError: with the command that installs them.
    """
    missing = [t for t in trackers if find_spec(MODULES[t]) is None]
    refuse_all(
        "track names what is not installed here:",
        [f"{t}: pip install {MODULES[t]} (or 'wlsweep[{t}]')" for t in missing],
    )


def flattened(value: Any, at: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists as JSON; what is None is left out."""
    if isinstance(value, Mapping):
        parts = (flattened(v, f"{at}.{k}".lstrip(".")) for k, v in value.items())
        return {k: v for part in parts for k, v in part.items()}
    if value is None:
        return {}
    return {at: json.dumps(value) if isinstance(value, (list, tuple)) else value}


def numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers of a record under `prefix/`, also those one level down (`prefix/key/inner`)."""
    found: dict[str, float] = {}
    for key, value in values.items():
        inner = {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
        for name, number in inner.items():
            if isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number):
                found[f"{prefix}/{name}"] = float(number)
    return found
