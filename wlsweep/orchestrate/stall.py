"""A launch that waits for something that will not come ends itself.

On a cluster a process that waits for ever burns an allocation without a word. So whatever shows that work goes on is
counted here, and a silence that the sweep's own pace makes absurd ends the launch with the exit code of a stop: the batch
script brings it back, and everything that was done is skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FACTOR = 20.0
"""A silence is absurd once it is so many times longer than the longest one after which the work went on."""
LONGEST_TICK_S = 5.0
"""What one look at the clock counts at most: a process that was suspended has not waited."""


class LaunchEnded(Exception):
    """This launch cannot go on, and the same command can: what happened, in words for the user."""


class Silence:
    """How long nothing was heard. One thread ticks and asks, any thread may break the silence."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self._looked = clock()
        self.seconds = 0.0

    def tick(self) -> None:
        """Count the time since the last tick."""
        now = self._clock()
        self.seconds += min(now - self._looked, LONGEST_TICK_S)
        self._looked = now

    def broken(self) -> None:
        """Something was heard."""
        self.seconds = 0.0

    @property
    def over(self) -> bool:
        """Whether it lasted too long."""
        return self.seconds > self.limit_s


class StallLimit:
    """Ends a launch in which nothing happens; one thread calls `check`, any thread may call the others."""

    def __init__(self, floor_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.floor_s = floor_s
        self.silence = Silence(floor_s, clock)
        self.waiting_for = "the launch to begin"
        """What the launch does now, as its user would say it."""

    def heard(self) -> None:
        """Something happened: a step, a prediction, the end of a condition, a stage."""
        self.silence.limit_s = max(self.silence.limit_s, FACTOR * self.silence.seconds)
        self.silence.broken()

    def excused(self) -> None:
        """The launch waits for another launch, whose name it knows: that is no silence of its own."""
        self.silence.broken()

    def check(self) -> None:
        """Count the time since the last call.

        Raises:
            LaunchEnded: if nothing happened for too long.
        """
        self.silence.tick()
        if self.silence.over:
            raise LaunchEnded(
                f"nothing happened for {self.silence.seconds / 60:.0f} minutes while waiting for {self.waiting_for}; "
                f"this launch ends itself (stall_minutes = {self.floor_s / 60:g} in the search space)"
            )
