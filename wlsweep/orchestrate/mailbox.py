"""What passes between Tune trials and worker groups: two small actors, and the plain data that they hold.

This module imports neither torch nor Ray, so that the actors' processes start in a moment and stay small.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

State = Literal["done", "failed", "stopped", "elsewhere"]


class Outcome(NamedTuple):
    """How an assigned condition ended."""

    state: State
    cause: str | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Assignment:
    """A condition for a group: everything a worker needs to know, as plain data."""

    sweep: Any
    condition: Any
    root: str
    base: str
    stop_file: str
    owner: str
    attempt: int = 0


class GroupMailbox:
    """Where a trial leaves a condition and its group's rank 0 picks it up; an async Ray actor."""

    def __init__(self, max_retries: int) -> None:
        self.max_retries = max_retries
        self.assignment: Assignment | None = None
        self.attempts = 0
        self.cause: str | None = None
        self.lines: list[dict[str, Any]] = []
        self.outcome: Outcome | None = None
        self.taker = ""
        self.closed = False
        self.changed = asyncio.Condition()

    async def assign(self, assignment: Assignment) -> None:
        """Leave the next condition."""
        async with self.changed:
            self.assignment, self.attempts, self.cause, self.lines, self.outcome = assignment, 0, None, [], None
            self.changed.notify_all()

    async def watch(self) -> str:
        """Lasts as long as the assigned condition; called under its name, it shows it in Ray's dashboard.

        Raises:
            RuntimeError: the cause, if the condition failed.
        """
        async with self.changed:
            await self.changed.wait_for(lambda: self.outcome is not None)
            assert self.outcome is not None
            if self.outcome.state == "failed":
                raise RuntimeError(self.outcome.cause)
            return self.outcome.state

    async def take(self, taker: str) -> Assignment | None:
        """Wait for a condition that is not finished; called by rank 0 whenever it is free or was started again.

        Nothing is left to take once the desk is closed, nor for a taker that was replaced by a later one (its process
        is dead, its call still waits).
        """
        async with self.changed:
            self.taker = taker
            self.changed.notify_all()
            while True:
                await self.changed.wait_for(
                    lambda: self.closed or self.taker != taker or (self.assignment is not None and self.outcome is None)
                )
                if self.closed or self.taker != taker or self.assignment is None:
                    return None
                if self.attempts <= self.max_retries:
                    self.attempts += 1
                    return replace(self.assignment, attempt=self.attempts)
                cause = self.cause or "a worker process died without a word (killed, or out of memory)"
                self.outcome = Outcome("failed", cause, self.attempts)
                self.changed.notify_all()

    async def withdraw(self) -> None:
        """Take the condition back if no group has begun with it (one that still waits for room)."""
        async with self.changed:
            if self.outcome is None and not self.attempts:
                self.outcome = Outcome("stopped", None, 0)
                self.changed.notify_all()

    async def close(self) -> None:
        """Send the group home: its workers end, and their resources are free."""
        async with self.changed:
            self.closed = True
            self.changed.notify_all()

    async def note(self, cause: str) -> None:
        """Remember why the group is about to fall."""
        self.cause = self.cause or cause

    async def log(self, line: dict[str, Any]) -> None:
        """A line of the metric log."""
        async with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    async def finish(self, state: State, cause: str | None = None) -> None:
        """The condition's end."""
        async with self.changed:
            self.outcome = Outcome(state, cause, self.attempts)
            self.changed.notify_all()

    async def follow(self, seen: int) -> tuple[list[dict[str, Any]], Outcome | None]:
        """New lines since `seen`, and the outcome once there is one; returns empty-handed after a while."""
        async with self.changed:
            news = self.changed.wait_for(lambda: len(self.lines) > seen or self.outcome is not None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news, timeout=5)
            return self.lines[seen:], self.outcome


class TrialCounter:
    """Counts trials that began and conditions that are trained: a group learns from it that no other will come; a Ray
    actor."""

    def __init__(self, names: list[str], done: int) -> None:
        self.left = set(names)
        self.done = done

    def start(self, name: str) -> None:
        """A trial begins, or begins again."""
        self.left.discard(name)

    def end(self, state: State) -> int:
        """A trial ended; returns how many conditions of the sweep are trained."""
        self.done += state == "done"
        return self.done

    def is_over(self) -> bool:
        """Whether every trial was started."""
        return not self.left
