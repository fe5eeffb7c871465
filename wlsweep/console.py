"""What a user sees while a sweep runs: one live line on a terminal; in a log, what takes long and a line a
finished condition."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from wlsweep.estimate import clock
from wlsweep.run.causes import one_line

SLOW_S = 300.0
"""A launch that heard nothing for so long says what it waits for."""


class Progress:
    """Progress of one stage at a time; all methods may be called from any thread."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._reset("", 0, 0)

    def _reset(self, stage: str, total: int, done: int) -> None:
        self.stage, self.total, self.done, self.failed = stage, total, done, 0
        self.ended = 0
        """Conditions that ended since the stage began."""
        self.predicted = 0
        self.running: dict[str, str] = {}
        self.finished: set[str] = set()
        self.began = time.monotonic()
        self.first_done: float | None = None
        self.first_wave = 1
        self.rows_said = self.began
        self.noted: set[str] = set()
        self.silent = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Something passing: replaces the live line on a terminal; a log gets it once a stage, its numbers aside."""
        if self._live:
            self._live.update(Text(f"{self.stage}: {text}"))
        elif self.stage and not self.console.is_terminal:
            kind = re.sub(r"(?<![\w/])\d+(?![\w/])", "", text.split(":")[0])  # a count, and no part of "1/8" or a path
            if kind not in self.noted:
                self.noted.add(kind)
                self.say(f"  {text}")

    def while_silent(self, seconds: float, waiting_for: str, driver_log: Path) -> None:
        """Called again and again; says once a silence what is waited for, if nothing was heard for long."""
        if seconds < SLOW_S:
            self.silent = False
        elif not self.silent:
            self.silent = True
            self.say(
                f"  nothing new for {clock(SLOW_S)}, waiting for {waiting_for}: workers and engines load a model, or wait "
                f"for CPUs and GPUs that others have (ray status); {driver_log} keeps what Ray says"
            )

    @contextmanager
    def during(self, stage: str, total: int, done: int = 0) -> Iterator[None]:
        """Show a stage of `total` conditions for the length of the block; a log gets a line at its start.

        So many were `done` before.
        """
        self._reset(stage, total, done)
        if not self.console.is_terminal:
            before = f", {done} of them done before" if done else ""
            self.say(f"{stage}: {total} conditions{before}" if total else f"{stage}: begins")
            yield
            return
        # Standard error stays with the file that it was sent to; Live would fetch it back onto the screen.
        with Live(
            Text(""),
            console=self.console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def on_condition(self, name: str, metrics: dict[str, Any]) -> None:
        """News of one condition: `state`, and what else there is to show."""
        state = metrics.get("state")
        if name in self.finished:
            return
        if state == "running":
            step, of = metrics.get("step"), metrics.get("of")
            self.running[name] = f"{name} {step}/{of}" if of else f"{name} starting"
        elif state in ("done", "failed", "stopped", "elsewhere"):
            self.running.pop(name, None)
            self.finished.add(name)
            self.done += state == "done"
            self.failed += state == "failed"
            if state in ("done", "failed"):
                self.ended += 1
                if self.first_done is None:
                    self.first_done, self.first_wave = time.monotonic(), 1 + len(self.running)
            if state == "failed":
                self.say(f"  {name} FAILED: {one_line(str(metrics.get('cause') or ''))}")
            elif not self.console.is_terminal:
                self.say(f"  {self._progress()}  {name} {state}")
        self._redraw()

    def on_rows(self, name: str, done: int, of: int) -> None:
        """An engine has predicted so many rows of a condition and of those that share its queue; a log hears it rarely."""
        if name in self.finished:
            return
        self.running[name] = f"{name} {done:,}/{of:,} rows"
        if not self.console.is_terminal and time.monotonic() - self.rows_said >= SLOW_S:
            self.rows_said = time.monotonic()
            self.say(f"  {self._progress()}  {self.running[name]} predicted")
        self._redraw()

    def on_predicted(self, name: str) -> None:
        """A condition was predicted before the training stage was over."""
        self.predicted += 1
        if not self.console.is_terminal:
            self.say(f"  {self._progress()}  {name} predicted")
        self._redraw()

    def _redraw(self) -> None:
        if self._live:
            idle = "starting" if self.done + self.failed < self.total else "predicting"
            self._live.update(Text(f"{self._progress()}  {', '.join(self.running.values()) or idle}"))

    def _progress(self) -> str:
        parts = [f"{self.stage} {self.done}/{self.total} done"]
        if self.running:
            parts.append(f"{len(self.running)} running")
        if self.predicted:
            parts.append(f"{self.predicted} predicted")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.ended > self.first_wave and self.first_done is not None:
            # The first conditions pay for the start of workers, and groups end theirs together; the rest tell the rate.
            each = (time.monotonic() - self.first_done) / (self.ended - self.first_wave)
            left = max(0, self.total - self.done - self.failed)
            parts += [f"{each:.1f} s each", f"{clock(each * left)} left"]
        else:
            parts.append(clock(time.monotonic() - self.began))
        return " | ".join(parts)


WATCH_S = 2.0
"""Seconds between two looks."""
WATCH_MANY = 50
"""Conditions beyond which looks become rarer: 1,000 of them are looked at every 40 s."""


def watch(
    show: Callable[[], None],
    over: Callable[[], bool],
    pause: Callable[[float], None] = time.sleep,
    conditions: int = 1,
) -> None:
    """Call `show` again and again until `over`, on a terminal each time on an empty screen; Ctrl-C ends it.

    Many `conditions` are looked at less often, since each look asks the file system for all of them.
    """
    screen = Console()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            last = over()  # asked first, so that the last picture shows the end
            screen.clear()
            show()
            if last:
                return
            pause(WATCH_S * max(1.0, conditions / WATCH_MANY))
    except KeyboardInterrupt:
        return
