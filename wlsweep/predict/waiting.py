"""How long an engine that predicts during the training waits for a condition's model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from wlsweep.run.layout import RunDir
from wlsweep.run.lease import holder
from wlsweep.run.status import RunStatus

POLL_S = 0.5
"""How soon an engine that waits for a model looks for it again, at first."""
LONGEST_POLL_S = 60.0
"""And how soon at last; in between a twentieth of the time that it has waited."""
PATIENCE_S = 180.0
"""How long an engine waits while nobody trains what it waits for: a group that starts again may want its room."""


class ModelWait:
    """Called with a condition's name; returns once its model is there, or will not come. Travels to the engine's process."""

    def __init__(self, root: str, names: Sequence[str], training: Path | None, late: bool) -> None:
        """What is waited for.

        Args:
            root: the run directory.
            names: all conditions of the search space.
            training: a file that exists while conditions are being trained; without it nothing is waited for.
            late: the engine started when the last conditions were being trained, and waits only for what is; one that
                started with the training waits also for what comes later, as long as something is trained.
        """
        self.run, self.names, self.training, self.late = RunDir(Path(root)), tuple(names), training, late
        self.seen: float | None = None  # when what is waited for was last being trained

    def __call__(self, name: str) -> None:
        """Wait for a condition's model for as long as it may still come."""
        began = time.monotonic()
        self.seen = self.seen or began
        states = RunStatus(self.run)
        while self.training is not None and self.training.exists() and not self.run.failed(name).exists():
            held = holder(self.run.lease(name)) is not None
            if not held and states.trained(name):
                break
            if held:
                self.seen = time.monotonic()
            elif time.monotonic() - self.seen > PATIENCE_S:
                if self.late or not any(holder(self.run.lease(n)) for n in self.names):
                    return
                self.seen = time.monotonic()
            time.sleep(min(LONGEST_POLL_S, max(POLL_S, (time.monotonic() - began) / 20)))
        self.seen = time.monotonic()
