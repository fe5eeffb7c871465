"""Prediction beside training: conditions are predicted while later ones still train.

Where engines fit beside all worker groups they start with the training and wait for its models. Elsewhere they start when
the last conditions train and a group has gone home, in the room that it left. In both cases only once some group trains:
where two sweeps share a cluster, engines that came first could take the room that the groups wait for, and wait for their
models.

What fails here is left to the stage that follows, which tries it once more.
"""

from __future__ import annotations

import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from wlsweep.orchestrate.capacity import Capacity
from wlsweep.run.layout import RunDir
from wlsweep.run.status import RunStatus
from wlsweep.spec.config import Sweep


class OverlappedPrediction:
    """Hears how training goes, and says when engines start."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.begin = threading.Event()
        self.stepped: set[str] = set()

    def hear(self, name: str, metrics: dict[str, Any], going: set[str], last: bool) -> None:
        """News of a condition that trains.

        Args:
            name: of the condition.
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
    def predicting(
        self,
        sweep: Sweep,
        run: RunDir,
        names: Sequence[str],
        owner: str,
        stopping: Callable[[], bool],
        on_predicted: Callable[[str], None],
    ) -> Iterator[None]:
        """Predict for the length of the block, and after it what was trained in it.

        Args:
            sweep: the search space.
            run: where models lie and predictions go.
            names: conditions, in the order in which they are trained; without any nothing starts.
            owner: named in leases.
            stopping: whether the sweep was asked to stop, so that nothing is waited for.
            on_predicted: hears of each condition that is.
        """
        if not names:
            yield
            return
        from wlsweep.predict.stage import predict_conditions

        training = run.root / f".training-{uuid.uuid4().hex[:8]}"
        engines = self.capacity.beside or self.capacity.late

        def predict() -> None:
            while not self.begin.wait(timeout=0.5):
                if not training.exists():
                    return
            if stopping():
                return
            states = RunStatus(run)
            trained_first = sorted(names, key=lambda name: states.trained(name) is None)
            try:
                for result in predict_conditions(
                    sweep, run, trained_first, engines, owner, training, late=not self.capacity.beside
                ):
                    if RunStatus(run).predicted(name := result["condition"]):
                        on_predicted(name)
            except Exception:  # noqa: BLE001 - in driver.log; see above
                traceback.print_exc()

        training.touch()
        thread = threading.Thread(target=predict, daemon=True)
        thread.start()
        try:
            yield
        finally:
            training.unlink(missing_ok=True)
            while thread.is_alive() and not stopping():
                thread.join(timeout=0.2)
