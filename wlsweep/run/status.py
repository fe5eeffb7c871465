"""What is done, running, failed or missing: read off the artifacts themselves, never off exit codes or logs.

A stage is done when its artifact is whole and belongs to this run: training when `trained.json` carries the run's
fingerprint, prediction when every test row occurs exactly once with the fingerprint of the trained model. `status`, `run`,
`evaluate`, `report`, `forecast` and `export` all ask here, so that they cannot differ. Imports no engine.

An artifact that is not done is one of

    missing      it was never made; the next run makes it
    foreign      it belongs to another configuration, model or test set; the next run makes it again
    damaged      it is there but not whole (cut short, empty, garbage); the next run makes it again
    unreadable   the system does not let us read it; it may be whole, so nothing is made again until it can be read
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from wlsweep.errors import DamagedError, UnreadableError, WlsweepError, refuse_all
from wlsweep.files import JsonObject
from wlsweep.run.causes import details, one_line
from wlsweep.run.data_record import DataRecord
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import holder
from wlsweep.run.logs import log_of_failure
from wlsweep.run.metric_log import last_metric_line
from wlsweep.run.predictions import DoNotFit, Scores, Truth, prediction_files, read_scores, read_truth
from wlsweep.run.records import FailedRecord, SkippedRecord, SweepRecord, TrainedRecord
from wlsweep.run.usage import usage_of
from wlsweep.spec.condition import Condition, condition_from, first_stage

ArtifactState = Literal["done", "missing", "foreign", "damaged", "unreadable"]
StageStatus = Literal["done", "running", "failed", "missing", "foreign", "damaged", "unreadable"]

_READERS = 8
"""Threads that read predictions of a large sweep: on a network file system most of it is waiting."""


class Artifact(NamedTuple):
    """Whether something is done, and why not."""

    state: ArtifactState
    why: str = ""
    """Empty where it is done or missing."""


@dataclass(frozen=True)
class ConditionStatus:
    """Where one condition stands."""

    index: int
    name: str
    train: StageStatus
    predict: StageStatus
    step: int | None = None
    """Last logged optimizer step."""
    of: int | None = None
    """Optimizer steps in all."""
    cause: str | None = None
    """Why it is not done, where that is known, or who works on it now."""
    validation: dict[str, float] | None = None
    """Where it is trained and was validated: `loss`, `bce`, `auc`, `accuracy` and `accept_rate` at its end."""

    @property
    def done(self) -> bool:
        """Trained and predicted."""
        return self.train == "done" and self.predict == "done"


@dataclass(frozen=True)
class RunStatus:
    """Reads a run's artifacts. What it has read of `sweep.json` and the test set it keeps; conditions it reads anew."""

    run: RunDir

    @cached_property
    def record(self) -> SweepRecord:
        """`sweep.json`."""
        return SweepRecord.read(self.run.sweep_json)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions in the order of the search space.

        Raises:
            DamagedError: if one is none.
        """
        try:
            return tuple(condition_from(c.model_dump()) for c in self.record.conditions)
        except WlsweepError as e:
            raise DamagedError(f"{self.run.sweep_json} is damaged (conditions: {e}); {SweepRecord.REMEDY}") from None

    @cached_property
    def data_record(self) -> DataRecord | None:
        """`data/data.json`, once the data stage is done.

        Raises:
            WlsweepError: if it is damaged or unreadable.
        """
        return DataRecord.find(self.run.data_json)

    @cached_property
    def truth(self) -> Truth | None:
        """The test set, once the data stage is done.

        Raises:
            WlsweepError: if it is damaged or unreadable: then no prediction can be judged.
        """
        if self.data_record is None:
            return None
        return read_truth(self.run.test_parquet, self.record.task)

    @property
    def data(self) -> Artifact:
        """Where the data stage stands."""
        try:
            return Artifact("missing" if self.truth is None else "done")
        except WlsweepError as e:
            return Artifact(_kind(e), str(e))

    def training(self, name: str) -> tuple[Artifact, TrainedRecord | None]:
        """Where the training of a condition stands, and its record where it is done."""
        path = self.run.trained(name)
        try:
            found = TrainedRecord.find(path)
        except WlsweepError as e:
            return Artifact(_kind(e), str(e)), None
        if found is None:
            return Artifact("missing"), None
        if found.sweep_fingerprint != self.record.fingerprint:
            return Artifact(
                "foreign",
                f"{path} is of another configuration (fingerprint {found.sweep_fingerprint[:40]}, this run's is "
                f"{self.record.fingerprint}); {TrainedRecord.REMEDY}",
            ), None
        return Artifact("done"), found

    def prediction(self, name: str) -> tuple[Artifact, Scores | None]:
        """Where the prediction of a condition stands, and what it says where it is done.

        Raises:
            WlsweepError: if the test set is damaged or unreadable.
        """
        trained, record = self.training(name)
        truth = self.truth
        try:
            files = prediction_files(self.run.prediction(name))
            if not files or truth is None:
                return Artifact("missing"), None
            if record is None:
                return Artifact(
                    trained.state if trained.state == "unreadable" else "foreign",
                    f"{self.run.prediction(name)} is of no model that this run has trained "
                    f"({self.run.trained(name)} is {trained.state})",
                ), None
            return Artifact("done"), read_scores(files, truth, record.model.fingerprint)
        except DoNotFit as e:
            return Artifact(e.kind, f"{e}; the next wlsweep run predicts it again"), None
        except UnreadableError as e:
            return Artifact("unreadable", str(e)), None

    def trained(self, name: str) -> TrainedRecord | None:
        """The training record of a condition, if it is whole and belongs to this run's configuration.

        Raises:
            UnreadableError: if that cannot be told.
        """
        artifact, record = self.training(name)
        if artifact.state == "unreadable":
            raise UnreadableError(artifact.why)
        return record

    def predicted(self, name: str) -> bool:
        """Whether every test row was predicted exactly once by the model that was trained.

        Raises:
            UnreadableError: if that cannot be told.
        """
        key = self._signature(name)
        if key is not None and key in _checked:
            return True
        artifact, _ = self.prediction(name)
        if artifact.state == "unreadable":
            raise UnreadableError(artifact.why)
        if artifact.state == "done" and key is not None:
            _checked.add(key)
        return artifact.state == "done"

    def _signature(self, name: str) -> tuple[Any, ...] | None:
        """What the answer of `predicted` rests on, told by size, time and number of the files; None if one is missing."""
        try:
            files = prediction_files(self.run.prediction(name))
            rests_on = [self.run.sweep_json, self.run.data_json, self.run.test_parquet, self.run.trained(name), *files]
            stats = [(str(p), p.stat()) for p in rests_on]
        except (OSError, WlsweepError):
            return None
        return tuple((p, s.st_size, s.st_mtime_ns, s.st_ino) for p, s in stats) if files else None

    def of(self, condition: Condition) -> ConditionStatus:
        """Where one condition stands.

        Raises:
            WlsweepError: if the test set is damaged or unreadable.
        """
        return self.scored(condition)[0]

    def scored(self, condition: Condition) -> tuple[ConditionStatus, Scores | None]:
        """The same, with what its predictions say where they are done."""
        name = condition.name
        (trained, record), predicted = self.training(name), Artifact("missing")
        scores: Scores | None = None
        if trained.state == "done":
            predicted, scores = self.prediction(name)
        failure = _failure(self.run, name, trained.state == "done")
        who = None if predicted.state == "done" else holder(self.run.lease(name))
        train, predict = _stage(trained, who is not None, failure is not None), _stage(predicted, False, False)
        if train == "done":
            predict = _stage(predicted, who is not None, failure is not None and failure.stage == "predict")
        cause = predicted.why or trained.why or None
        if "failed" in (train, predict) and failure:
            cause = failure.cause
        elif "running" in (train, predict) and who:
            cause = who.owner
        last = last_metric_line(self.run.metric_log(name))
        step, of = (last.step, last.of) if last else (None, None)
        validation = record.final.validation if record else None
        return ConditionStatus(condition.index, name, train, predict, step, of, cause, validation), scores

    def all(self) -> list[ConditionStatus]:
        """Where every condition stands, in order."""
        _ = self.truth  # read once, before the threads ask for it
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self.of, self.conditions))

    def as_json(self) -> JsonObject:
        """For `wlsweep status --json`."""
        return {
            "sweep": self.record.name,
            "data": self.data.state,
            "evaluate": "done" if self.run.metrics_json.is_file() else "missing",
            "report": "done" if self.run.report.is_file() else "missing",
            "conditions": [asdict(s) for s in self.all()],
            "usage": usage_of(self.run).as_json(),
        }


_checked: set[tuple[Any, ...]] = set()
"""Predictions that were found complete, by `RunStatus._signature`: a launch asks for each of them many times."""


def _kind(e: WlsweepError) -> ArtifactState:
    return "unreadable" if isinstance(e, UnreadableError) else "damaged"


def _stage(artifact: Artifact, held: bool, failed: bool) -> StageStatus:
    if artifact.state in ("done", "unreadable"):
        return artifact.state
    return "running" if held else "failed" if failed else artifact.state


def _failure(run: RunDir, name: str, trained: bool) -> FailedRecord | None:
    """The record of a failure; a damaged one is still a failure, of unknown cause."""
    try:
        return FailedRecord.find(run.failed(name))
    except WlsweepError as e:
        stage = "predict" if trained else "train"
        return FailedRecord(
            condition=name, stage=stage, cause=f"not known: {e}", attempts=0, log=str(run.logs), failed_at=""
        )


def why_not_done(
    run: RunDir, status: ConditionStatus
) -> tuple[Literal["trained", "failed", "missing", "unreadable"], str]:
    """In one word and one sentence, for tables of results: why a condition has none."""
    if "unreadable" in (status.train, status.predict):
        return "unreadable", status.cause or ""
    if status.train == "done":
        if status.predict == "failed":
            return "failed", f"predict: {status.cause}"
        return "trained", status.cause if status.predict != "running" and status.cause else "trained, not yet predicted"
    if status.train == "failed":
        return "failed", f"train: {status.cause}"
    if status.train == "running":
        return "missing", f"in the hands of {status.cause} right now"
    if status.cause:
        return "missing", status.cause
    skipped = SkippedRecord.find(run.skipped_json)
    why = (skipped.model_extra or {}).get(status.name) if skipped else None
    return "missing", f"left out by --until-decided: {why}" if why else "not yet trained"


def refuse_unreadable(run: RunDir, conditions: Iterable[Condition]) -> None:
    """Refuse to go on with a run of which something cannot be read: it may be whole, and would be made again.

    Raises:
        WlsweepError: listing every such file of the conditions.
    """
    if not run.sweep_json.is_file():
        return
    status = RunStatus(run)
    found = [status.training(c.name)[0] for c in conditions]
    found += [status.prediction(c.name)[0] for c in conditions]
    refuse_all(
        f"parts of {run.root} cannot be read; they may be whole, so nothing is made again:",
        list(dict.fromkeys(a.why for a in found if a.state == "unreadable")),
    )


def record_failure(run: RunDir, name: str, stage: str, cause: str, attempts: int = 1) -> None:
    """Leave a condition's cause of failure, one line and all that is known; the next run deletes it when it tries again."""
    FailedRecord(
        condition=name,
        stage=stage,
        cause=one_line(cause),
        details=details(cause),
        attempts=attempts,
        log=str(log_of_failure(run, name, stage, attempts)),
        failed_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    ).write(run.failed(name))


def starting_model(run: RunDir, condition: Condition, base: str) -> str:
    """What a condition's training starts from: the base, or the first stage's model under two-stage training."""
    return str(run.model(first_stage(condition).name)) if condition.two_stage else base


def refuse_other_configuration(run: RunDir, fingerprint: str, name: str) -> None:
    """Refuse to continue a run directory with a configuration that would give other results.

    Raises:
        WlsweepError: if `sweep.json` there has another fingerprint, or is damaged.
    """
    found = SweepRecord.find(run.sweep_json)
    if found is not None and found.fingerprint != fingerprint:
        raise WlsweepError(
            f"{run.root} holds a run of another configuration (fingerprint {found.fingerprint}, "
            f"now {fingerprint}): compare {run.sweep_json} with the search space {name!r}, then give --out with a new "
            f"folder, or delete {run.root}"
        )
