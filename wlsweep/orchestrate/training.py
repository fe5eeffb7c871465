"""The training stage of a launch: rounds of trials until nothing is left to try.

Three things end a condition's round without its model: its own failure, which is recorded and not tried again by this
launch; another launch that holds it, which is waited for and taken over from if it dies; and the loss of a process or a node
that is not the condition's fault, after which it is simply tried again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.capacity import Capacity
from wlsweep.orchestrate.launch import ENOUGH, Launch
from wlsweep.orchestrate.predicting import OverlappedPrediction
from wlsweep.orchestrate.stall import LaunchEnded
from wlsweep.run.causes import one_line
from wlsweep.run.lease import holder
from wlsweep.run.status import RunStatus, record_failure
from wlsweep.spec.condition import Condition, first_stage

OnTrial = Callable[[str, dict[str, Any]], None]
"""Hears (condition name, metrics with `state` and `step`)."""


OFTEN = 10
"""A condition whose processes were lost so often in one launch is recorded as failed after all."""


TrainConditions = Callable[[str, Sequence[Condition], int, OnTrial], None]
"""(base model, conditions in the order in which they are trained, how many at the same time, who hears of each step that is
logged and of each condition that ends); returns when none is left to try in this round."""


class RoundProgress:
    """What is known of one round of trials; its `hear` may be called from any thread."""

    def __init__(self, launch: Launch, names: Sequence[str], last_ones: bool, overlap: OverlappedPrediction) -> None:
        self.launch, self.overlap, self.last_ones = launch, overlap, last_ones
        self.going = set(names)
        self.elsewhere: set[str] = set()
        self.lost: dict[str, str] = {}
        """Conditions whose processes were lost through no fault of theirs, and how."""
        self.shared_cause = ""
        """Why every condition would fail alike, if one said so."""
        self.got_on = False
        """Whether a step was logged or a condition ended."""

    def hear(self, name: str, metrics: dict[str, Any]) -> None:
        """News of a trial."""
        state = metrics.get("state")
        if state != "running":
            self.going.discard(name)
        if "of" in metrics or state in ("done", "failed", "stopped"):
            self.got_on = True
            self.launch.stall.heard()
        self.overlap.hear(name, metrics, self.going, self.last_ones)
        if state == "elsewhere":
            self.elsewhere.add(name)
        elif state == "lost":
            self.lost[name] = str(metrics.get("cause"))
        else:
            self.lost.pop(name, None)
            if metrics.get("shared"):
                self.shared_cause = f"{name}: {metrics.get('cause')}"
                self.launch.stop.ask()
            self.launch.view.on_condition(name, metrics)


class Training:
    """Trains what is not trained; what another launch holds is waited for, and taken over if that launch dies."""

    def __init__(self, launch: Launch, train: TrainConditions, overlap: OverlappedPrediction) -> None:
        self.launch, self.train, self.overlap = launch, train, overlap
        self.tried: set[str] = set()
        self.losses: Counter[str] = Counter()
        self.fruitless = 0
        """Rounds in a row that lost processes and got nothing done."""

    def run(self, base: str, capacity: Capacity) -> None:
        """Train until nothing is left that this launch can try.

        Raises:
            WlsweepError: if a condition failed in a way in which all would.
            LaunchEnded: if the processes that train are lost again and again.
        """
        launch = self.launch
        while not launch.stop.asked():
            left = untrained(launch)
            ready = [c for c in left if can_start(launch, c)]
            free = [c for c in ready if c.name not in self.tried and not holder(launch.run.lease(c.name))]
            if free:
                self._round(base, free, capacity.groups, last_ones=len(free) == len(left))
            elif all(c.name in self.tried for c in ready):
                break
            else:
                launch.wait_for_others([c.name for c in ready if c.name not in self.tried], "trains")
        for c in [] if launch.stop.asked() else untrained(launch):
            if not can_start(launch, c):
                cause = f"its first stage, {first_stage(c).name}, could not be trained"
                record_failure(launch.run, c.name, "train", cause)

    def _round(self, base: str, conditions: Sequence[Condition], groups: int, last_ones: bool) -> None:
        names = [c.name for c in conditions]
        progress = RoundProgress(self.launch, names, last_ones, self.overlap)
        work = partial(self.train, base, conditions, groups, progress.hear)
        self.launch.beside(work, True, "the first step of a condition, or its next")
        if progress.shared_cause:
            raise WlsweepError(f"{progress.shared_cause}\nevery condition would fail alike, so the sweep stopped here")
        states = RunStatus(self.launch.run)
        for name in set(names) - progress.elsewhere:
            if not (states.trained(name) or self.launch.run.failed(name).is_file()):
                progress.lost.setdefault(name, "its trial process was killed or could not be started")
        self.tried |= set(names) - progress.elsewhere - set(progress.lost)
        if progress.lost and not self.launch.stop.asked():
            self._lost(progress)

    def _lost(self, progress: RoundProgress) -> None:
        self.losses.update(progress.lost.keys())
        for name in [n for n in progress.lost if self.losses[n] >= OFTEN]:
            cause = f"its processes were lost {OFTEN} times; the last time: {progress.lost.pop(name)}"
            record_failure(self.launch.run, name, "train", cause)
            self.launch.view.on_condition(name, {"state": "failed", "cause": cause})
            self.tried.add(name)
        if not progress.lost:
            return
        name, cause = next(iter(progress.lost.items()))
        self.fruitless = 0 if progress.got_on else self.fruitless + 1
        if self.fruitless >= ENOUGH:
            raise LaunchEnded(
                f"the processes that train were lost {ENOUGH} times in a row before any step; the last time "
                f"{name}: {one_line(cause)}"
            )
        many = f"{name} and {len(progress.lost) - 1} others" if len(progress.lost) > 1 else name
        self.launch.view.say(f"  {many}: {one_line(cause)}; this is not the condition's fault, it is tried again")


def untrained(launch: Launch) -> list[Condition]:
    """What is not trained yet, with the first stages that two-stage conditions still lack."""
    states = RunStatus(launch.run)

    def lacks(name: str) -> bool:
        if states.trained(name) is None:
            return True
        # A model that was dropped after its predictions, and these are lost: it has to be made again.
        return launch.last != "train" and not launch.run.model(name).is_dir() and not states.predicted(name)

    left = {c.name: c for c in launch.chosen if lacks(c.name)}
    lacking = [first_stage(c) for c in left.values() if not can_start(launch, c)]
    return list({c.name: c for c in (*lacking, *left.values())}.values())


def can_start(launch: Launch, condition: Condition) -> bool:
    """Whether the model that a condition starts from is there."""
    if not condition.two_stage:
        return True
    first = first_stage(condition).name
    return launch.run.model(first).is_dir() and RunStatus(launch.run).trained(first) is not None
