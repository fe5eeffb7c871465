"""A launch without engines: stages that write the records which say that something is done, in milliseconds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tests.made_run import make_run, trained_record, write_predictions
from wlsweep.orchestrate.capacity import Capacity
from wlsweep.orchestrate.driver import Driver, new_launch
from wlsweep.orchestrate.launch import Launch
from wlsweep.orchestrate.stages import Stages
from wlsweep.orchestrate.training import OnTrial
from wlsweep.run.layout import RunDir, write_json
from wlsweep.run.status import RunStatus, record_failure
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.config import Sweep, load_sweep

SMALL = load_sweep(Path(__file__).parents[1] / "end_to_end" / "small.toml")
NAMES = [c.name for c in SMALL.conditions]


@lru_cache(maxsize=1)
def _made_data() -> Path:
    """The data of a made run, to be copied."""
    return make_run(Path(tempfile.mkdtemp()), [NAMES[0]], n=20).data


def write_data(run: RunDir) -> None:
    """What a finished data stage leaves."""
    shutil.copytree(_made_data(), run.data, dirs_exist_ok=True)


def write_trained(run: RunDir, name: str, loss: float = 1.0, fingerprint: str = SMALL.fingerprint()) -> None:
    """What a finished training leaves."""
    run.model(name).mkdir(parents=True, exist_ok=True)
    record = trained_record(parse_name(name), {"step": 240}, fingerprint)
    write_json(run.trained(name), record | {"unweighted_loss": loss})


def write_predicted(run: RunDir, name: str) -> None:
    """What a finished prediction leaves."""
    write_predictions(run, name, np.zeros(20))


@dataclass
class FakeStages:
    """Plans what each round does: a name's fate is taken from `fates`, first come first; without one it is trained."""

    fates: dict[str, list[str | Callable[[Launch], None]]] = field(default_factory=dict)
    predictions: dict[str, list[str]] = field(default_factory=dict)
    engine_losses: int = 0
    on_predict: Callable[[Launch], None] = lambda launch: None
    rounds: list[list[str]] = field(default_factory=list)
    predicted: list[list[str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    on_base: Callable[[Launch], None] = lambda launch: None
    on_report: Callable[[Launch], None] = lambda launch: None

    def stages(self) -> Stages:
        return Stages(
            check=lambda launch: self.calls.append("check"),
            base=self.base,
            prepare=lambda launch, base, note: write_data(launch.run),
            plan=lambda launch: None,
            connect=lambda launch: Capacity(1, 1),
            train=self.train,
            predict=self.predict,
            evaluate=lambda launch: self.calls.append("evaluate"),
            report=self.report,
        )

    def base(self, launch: Launch, note: Callable[[str], None]) -> str:
        self.on_base(launch)
        note("making it")
        return "base"

    def train(self, launch: Launch, base: str, conditions: Sequence[Condition], groups: int, on_trial: OnTrial) -> None:
        self.rounds.append([c.name for c in conditions])
        for c in conditions:
            if launch.stop.asked():
                on_trial(c.name, {"state": "stopped"})
                continue
            fate = self.fates[c.name].pop(0) if self.fates.get(c.name) else "done"
            if callable(fate):
                fate(launch)
                fate = "stopped" if launch.stop.asked() else "done"
            if fate == "silent":
                continue
            if fate == "step and lost":
                on_trial(c.name, {"state": "running", "step": 1, "of": 2})
                fate = "lost"
            if fate == "done":
                write_trained(launch.run, c.name)
            if fate in ("failed", "shared"):
                record_failure(launch.run, c.name, "train", "its own fault")
            on_trial(
                c.name, {"state": "failed" if fate == "shared" else fate, "cause": fate, "shared": fate == "shared"}
            )

    def predict(
        self, launch: Launch, names: Sequence[str], engines: int, training: Path | None, late: bool
    ) -> Iterator[dict[str, Any]]:
        self.predicted.append(list(names))
        self.on_predict(launch)
        if self.engine_losses:
            self.engine_losses -= 1
            raise RuntimeError("the engine's process died")
        for name in names:
            fate = self.predictions[name].pop(0) if self.predictions.get(name) else ""
            if not fate:
                write_predicted(launch.run, name)
            yield {"condition": name, "cause": fate}

    def report(self, launch: Launch) -> tuple[Any, str]:
        self.calls.append("report")
        self.on_report(launch)
        return None, ""


@dataclass
class Ran:
    """How a launch ended."""

    code: int
    said: str
    launch: Launch

    def done(self) -> list[str]:
        states = RunStatus(self.launch.run)
        return [name for name in NAMES if states.predicted(name)]


def launch_of(
    root: Path, last: str = "predict", sweep: Sweep = SMALL, only: str | None = None
) -> tuple[Launch, StringIO]:
    """A launch whose console is a string."""
    text = StringIO()
    run = RunDir(root)
    run.root.mkdir(parents=True, exist_ok=True)
    launch = new_launch(sweep, run, only, last, "wlsweep run x", Console(file=text, width=200))
    return launch, text


def go(root: Path, fakes: FakeStages, last: str = "predict", sweep: Sweep = SMALL, **changes: Any) -> Ran:
    """Run a launch on fake stages."""
    launch, text = launch_of(root, last, sweep)
    launch = replace(launch, **changes)
    code = Driver(launch, fakes.stages()).go()
    return Ran(code, text.getvalue(), launch)
