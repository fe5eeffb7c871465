"""Prediction during training: conditions are predicted while later ones still train.

Where engines fit beside all worker groups they start with the training and wait for its models. Elsewhere they start when
the last conditions train and a group has ended, in the room that it left. In both cases only once some group trains:
where two sweeps share a cluster, engines that came first could take the room that the groups wait for, and wait for their
models.

What fails here is left to the stage that follows, which tries it once more.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wlsweep.orchestrate.capacity import Capacity
from wlsweep.orchestrate.launch import Launch
from wlsweep.orchestrate.signals import new_mark
from wlsweep.run.status import RunStatus

PredictDuringTraining = Callable[[Sequence[str], int, Path, bool], Iterator[dict[str, Any]]]
"""(names in the order in which they are trained, engines, a file that exists while they are, whether to start late)."""


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
        """Predict for the length of the block, and after it what was trained in it.

        Args:
            names: conditions, in the order in which they are trained; without any nothing starts.
        """
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
