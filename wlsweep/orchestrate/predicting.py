"""Prediction, during the training and as the stage after it; and which models outlive their predictions.

Where engines fit beside all worker groups they start with the training and wait for its models. Elsewhere they start when
the last conditions train and a group has ended, in the room that it left. In both cases only once some group trains:
where two sweeps share a cluster, engines that came first could take the room that the groups wait for, and wait for their
models. What fails during the training is left to the stage that follows, which tries it once more.
"""

from __future__ import annotations

import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from wlsweep.orchestrate.capacity import Capacity
from wlsweep.orchestrate.launch import ENOUGH, Launch
from wlsweep.orchestrate.signals import new_mark
from wlsweep.run.causes import one_line
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import holder
from wlsweep.run.status import RunStatus, record_failure
from wlsweep.spec.condition import first_stage
from wlsweep.spec.config import Sweep

PredictDuringTraining = Callable[[Sequence[str], int, Path, bool], Iterator[dict[str, Any]]]
"""(names in the order in which they are trained, engines, a file that exists while they are, whether to start late)."""
PredictConditions = Callable[[Sequence[str], int], Iterator[dict[str, Any]]]
"""Predicts conditions with so many engines at the same time; yields each one's result as it ends: `condition`, and `cause`
if it failed."""


class OverlappedPrediction:
    """Hears how training goes, and decides when engines start."""

    def __init__(self, launch: Launch, capacity: Capacity, predict: PredictDuringTraining) -> None:
        self.launch, self.capacity, self.predict = launch, capacity, predict
        self.begin = threading.Event()
        self._over = False
        self.stepped: set[str] = set()

    def hear(self, name: str, metrics: dict[str, Any], going: set[str], last: bool) -> None:
        """News of a condition that trains.

        Args:
            name: the condition.
            metrics: with its `step`, 0 as long as its group waits for room or starts.
            going: conditions that were handed to groups, or will be, and have not ended.
            last: whether no others will follow these.
        """
        if metrics.get("step"):
            self.stepped.add(name)
        has_room = self.capacity.beside > 0 or (self.capacity.late > 0 and last and len(going) < self.capacity.groups)
        if has_room and not self.stepped.isdisjoint(going):
            self.begin.set()

    @contextmanager
    def predicting(self, names: Sequence[str]) -> Iterator[None]:
        """Predict for the length of the block, and after it what was trained in it; without names nothing starts."""
        if not names:
            yield
            return
        launch = self.launch
        training = new_mark(launch.run.root, "training")
        training.touch()
        thread = threading.Thread(target=self._predict, args=(names, training), daemon=True)
        thread.start()
        try:
            yield
        finally:
            training.unlink(missing_ok=True)
            if not self.begin.is_set():
                self._over = True
                self.begin.set()
        launch.stall.waiting_for = "predictions that began during the training"
        launch.join(thread, saves=False)

    def _predict(self, names: Sequence[str], training: Path) -> None:
        self.begin.wait()
        if self._over or self.launch.stop.asked():
            return
        states = RunStatus(self.launch.run)
        trained_first = sorted(names, key=lambda name: states.trained(name) is None)
        engines = self.capacity.beside or self.capacity.late
        try:
            with self.launch.hearing_rows():
                for result in self.predict(trained_first, engines, training, not self.capacity.beside):
                    self.launch.stall.heard()
                    if RunStatus(self.launch.run).predicted(name := result["condition"]):
                        self.launch.view.on_predicted(name)
        except Exception:  # noqa: BLE001 - in driver.log; see above
            traceback.print_exc()


class Prediction:
    """Predicts what is trained; conditions that another launch predicts are waited for."""

    def __init__(self, launch: Launch, predict: PredictConditions) -> None:
        self.launch, self.predict = launch, predict
        self.tried: set[str] = set()
        self.fruitless = 0
        """Times in a row that all engines were lost before any result."""

    def left(self) -> list[str]:
        """Conditions that are trained, not predicted, and not yet tried by this launch."""
        states = RunStatus(self.launch.run)
        trained = [c.name for c in self.launch.chosen if c.name not in self.tried and states.trained(c.name)]
        return [name for name in trained if not states.predicted(name)]

    def run(self, engines: int) -> None:
        """Predict until nothing is left that this launch can try."""
        while not self.launch.stop.asked() and (names := self.left()):
            if free := [n for n in names if not holder(self.launch.run.lease(n))]:
                work = partial(self._round, free, engines)
                self.launch.beside(work, False, "the first prediction of an engine, or its next")
            else:
                self.launch.wait_for_others(names, "predicts")

    def _round(self, names: Sequence[str], engines: int) -> None:
        """One pass; what turned out to be in another launch's hands is not counted as tried."""
        heard: set[str] = set()
        try:
            with self.launch.hearing_rows():
                for result in self.predict(names, engines):
                    heard.add(result["condition"])
                    self._on_result(result["condition"], result["cause"])
        except Exception as e:  # noqa: BLE001 - processes of the engines or of Ray Data were lost
            traceback.print_exc()  # to driver.log
            self.fruitless = 0 if heard else self.fruitless + 1
            cause = f"the engine could not be kept running: {type(e).__name__}: {e}"
            if self.fruitless < ENOUGH:
                self.launch.view.note(f"{one_line(cause)}; tried again")
                return
            for name in set(names) - heard:
                record_failure(self.launch.run, name, "predict", cause)
                self.launch.view.on_condition(name, {"state": "failed", "cause": cause})
            self.tried.update(names)

    def _on_result(self, name: str, cause: str) -> None:
        self.launch.stall.heard()
        if cause:
            record_failure(self.launch.run, name, "predict", cause)
        elif RunStatus(self.launch.run).predicted(name):
            self.launch.run.failed(name).unlink(missing_ok=True)
        else:
            return  # another launch holds it
        self.tried.add(name)
        self.launch.view.on_condition(name, {"state": "failed" if cause else "done", "cause": cause})


def drop_models(sweep: Sweep, run: RunDir) -> None:
    """Delete the models that `keep_models` does not keep: only after their predictions are complete, and none from which a
    second stage still starts."""
    if sweep.keep_models == "all":
        return
    states = RunStatus(run)
    records = {c.name: states.trained(c.name) for c in sweep.conditions}
    losses = {n: r.unweighted_loss for n, r in records.items() if r and run.model(n).is_dir()}
    kept = {first_stage(c).name for c in sweep.conditions if c.two_stage and not records[c.name]}
    if sweep.keep_models == "best" and losses:
        kept.add(min(losses, key=losses.__getitem__))
    for name in losses:
        if name not in kept and states.predicted(name):
            shutil.rmtree(run.model(name))
