"""What is done, running, failed or missing: read off the artifacts themselves, never off exit codes or logs.

A stage is done when its artifact is whole and belongs to this run: training when `trained.json` carries the run's
fingerprint, prediction when every test row occurs exactly once with the fingerprint of the trained model. Imports no engine.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from wlsweep.errors import WlsweepError
from wlsweep.run.causes import details, one_line
from wlsweep.run.layout import RunDir, read_json, write_json
from wlsweep.run.lease import holder
from wlsweep.spec.condition import Condition, condition_from, first_stage

StageStatus = Literal["done", "running", "failed", "missing"]


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
    """Why it failed, or who trains it now."""


@dataclass(frozen=True)
class RunStatus:
    """Reads a run's artifacts."""

    run: RunDir

    @cached_property
    def record(self) -> dict[str, Any]:
        """`sweep.json`."""
        found: dict[str, Any] = read_json(self.run.sweep_json)
        return found

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions in the order of the search space."""
        return tuple(condition_from(c) for c in self.record["conditions"])

    @cached_property
    def test_ids(self) -> list[str] | None:
        """Sorted row ids of the test set, once the data stage is done."""
        if not (self.run.data_json.is_file() and self.run.test_parquet.is_file()):
            return None
        return sorted(pq.read_table(self.run.test_parquet, columns=["row_id"])["row_id"].to_pylist())

    def trained(self, name: str) -> dict[str, Any] | None:
        """The training record of a condition, if it belongs to this run's configuration."""
        if not self.run.trained(name).is_file():
            return None
        record: dict[str, Any] = read_json(self.run.trained(name))
        return record if record["sweep_fingerprint"] == self.record["fingerprint"] else None

    def predicted(self, name: str) -> bool:
        """Whether every test row was predicted exactly once by the model that was trained."""
        record = self.trained(name)
        files = sorted(self.run.prediction(name).glob("*.parquet"))
        if record is None or not files or self.test_ids is None:
            return False
        try:
            tables = [pq.read_table(f, columns=["row_id", "model_fingerprint"]) for f in files]
        except (pa.ArrowException, OSError):
            return False
        table = pa.concat_tables(tables)
        by_this_model = set(table["model_fingerprint"].to_pylist()) <= {record["model"]["fingerprint"]}
        return by_this_model and sorted(table["row_id"].to_pylist()) == self.test_ids

    def of(self, condition: Condition) -> ConditionStatus:
        """Where one condition stands."""
        name = condition.name
        failure = read_json(self.run.failed(name)) if self.run.failed(name).is_file() else None
        trained, who = self.trained(name) is not None, holder(self.run.lease(name))
        predicted = trained and self.predicted(name)
        train: StageStatus = "done" if trained else "running" if who else "failed" if failure else "missing"
        predict: StageStatus = (
            "done"
            if predicted
            else "running"
            if trained and who
            else "failed"
            if failure and failure["stage"] == "predict"
            else "missing"
        )
        cause = None
        if "failed" in (train, predict) and failure:
            cause = failure["cause"]
        elif train == "running" and who:
            cause = str(who["owner"])
        last = _last_line(self.run.metric_log(name))
        return ConditionStatus(condition.index, name, train, predict, last.get("step"), last.get("of"), cause)

    def all(self) -> list[ConditionStatus]:
        """Where every condition stands, in order."""
        return [self.of(c) for c in self.conditions]

    def as_json(self) -> dict[str, Any]:
        """For `wlsweep status --json`."""
        return {
            "sweep": self.record["sweep"]["name"],
            "data": "done" if self.test_ids is not None else "missing",
            "evaluate": "done" if self.run.metrics_json.is_file() else "missing",
            "report": "done" if self.run.report.is_file() else "missing",
            "conditions": [asdict(s) for s in self.all()],
        }


def _last_line(log: Path) -> dict[str, Any]:
    if not log.is_file():
        return {}
    with log.open("rb") as f:
        f.seek(max(0, log.stat().st_size - 4096))
        for line in reversed(f.read().decode(errors="replace").splitlines()):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def record_failure(run: RunDir, name: str, stage: str, cause: str, attempts: int = 1) -> None:
    """Leave a condition's cause of failure, one line and all that is known; the next run deletes it when it tries again."""
    write_json(
        run.failed(name),
        {
            "condition": name,
            "stage": stage,
            "cause": one_line(cause),
            "details": details(cause),
            "attempts": attempts,
            "log": str(run.logs),
            "failed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


def starting_model(run: RunDir, condition: Condition, base: str) -> str:
    """What a condition's training starts from: the base, or the first stage's model under two-stage training."""
    return str(run.model(first_stage(condition).name)) if condition.two_stage else base


def refuse_other_configuration(run: RunDir, fingerprint: str, name: str) -> None:
    """Refuse to continue a run directory with a configuration that would give other results.

    Raises:
        WlsweepError: if `sweep.json` there has another fingerprint.
    """
    if run.sweep_json.is_file() and (found := read_json(run.sweep_json)).get("fingerprint") != fingerprint:
        raise WlsweepError(
            f"{run.root} holds a run of another configuration (fingerprint {found.get('fingerprint')}, "
            f"now {fingerprint}): compare {run.sweep_json} with the search space {name!r}, then give --out with a new "
            f"folder, or delete {run.root}"
        )


def status_table(state: RunStatus) -> None:
    """Print where a run stands."""
    from rich.console import Console
    from rich.table import Table

    states = state.all()
    table = Table(box=None, pad_edge=False)
    for column in ("#", "condition", "train", "predict", "step", "cause"):
        table.add_column(column)
    for s in states:
        step = f"{s.step}/{s.of}" if s.step else ""
        table.add_row(str(s.index), s.name, s.train, s.predict, step, one_line(s.cause) if s.cause else "")
    console = Console()
    console.print(table)
    done = sum(s.predict == "done" for s in states)
    failed = sum("failed" in (s.train, s.predict) for s in states)
    running = sum("running" in (s.train, s.predict) for s in states)
    console.print(f"{done} of {len(states)} done, {running} running, {failed} failed", highlight=False)
    if done < len(states) and not running:
        console.print(f"go on with: {state.record['command']}", highlight=False, soft_wrap=True)
