"""The prediction stage of a launch: what is trained and not predicted, until nothing is left to try."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from wlsweep.orchestrate.launch import ENOUGH, Launch
from wlsweep.run.causes import one_line
from wlsweep.run.lease import holder
from wlsweep.run.status import RunStatus, record_failure


class PredictConditions(Protocol):
    """Predicts conditions and yields each one's result as it ends: `condition`, and `cause` if it failed."""

    def __call__(self, names: Sequence[str], engines: int) -> Iterator[dict[str, Any]]:
        """Predict with so many engines at the same time."""


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
                self.launch.beside(
                    lambda free=free: self._round(free, engines),  # type: ignore[misc]
                    False,
                    "the first prediction of an engine, or its next",
                )
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
