"""How often a training saves itself: often enough to lose little, and never for more than 3 % of the time.

A resume checkpoint of 7B parameters is 91 GB: 91 s at 1 GB/s, and `train.checkpoint_every` steps may take five minutes. So
the cost of the last one is measured, and one that would come too soon is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_SHARE = 0.03
"""Share of the time that may go into checkpoints."""
FREE_S = 1.0
"""A checkpoint of so few seconds is always made."""


class CheckpointPace:
    """Says whether a checkpoint that is due by its step is worth its time; rank 0 asks, for all ranks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.cost = 0.0
        self.ended = clock()

    def is_worth_it(self) -> bool:
        """Whether enough was computed since the last checkpoint for its cost to stay below `LONGEST_SHARE`."""
        return self.cost <= FREE_S or self.clock() - self.ended >= self.cost / LONGEST_SHARE

    def saved(self, began: float) -> None:
        """A checkpoint was made that began at this time of the clock."""
        self.ended = self.clock()
        self.cost = self.ended - began
