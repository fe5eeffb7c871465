"""What all stages of one launch share: what is to be done, who asks, and how it waits."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from wlsweep.console import Progress
from wlsweep.orchestrate.signals import StopRequest
from wlsweep.orchestrate.stall import LaunchEnded, StallLimit
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import hold, holder
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import Sweep

Stage = Literal["data", "train", "predict", "evaluate", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
TICK_S = 0.2
"""Seconds between two looks of the main thread at signals, at the cluster and at the clock."""
ROWS_S = 5.0
"""Seconds between two looks at how many rows engines have predicted."""
OTHERS_S = 2.0
"""Seconds between two looks at what other launches hold."""
ENOUGH = 3
"""After so many rounds in a row that lost processes and got nothing done, a launch or a stage gives up."""


def _owner() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"{socket.gethostname()} process {os.getpid()}" + (f" of job {job}" if job else "")


@dataclass
class Launch:
    """One launch of `wlsweep run`."""

    sweep: Sweep
    run: RunDir
    chosen: Sequence[Condition]
    """What was selected with `--only`."""
    last: Stage
    """The stage after which it ends."""
    command: str
    """How the user started it, to be named as the way to go on."""
    view: Progress
    stop: StopRequest
    stall: StallLimit
    cluster_lost: Callable[[], str | None] = lambda: None
    """Why the Ray cluster cannot be used any more, or None; looked at several times a second."""
    tell: Callable[[str], None] = lambda word: None
    """Tells the processes on all nodes a word; does not wait."""
    told_rows: Callable[[], Mapping[str, tuple[int, int]]] = dict
    """What engines told last: by condition, how many of how many rows they have predicted. May take a while."""
    others: Callable[[], str | None] = lambda: None
    """Who holds the room of the Ray cluster that this launch waits for, or None: a wait for them is no stall."""
    owner: str = field(default_factory=_owner)
    """Named in leases."""
    _told: bool = field(default=False, init=False)

    def check(self) -> None:
        """Look whether the launch can go on; called again and again wherever something is waited for.

        Raises:
            LaunchEnded: if the cluster is gone, or nothing happened for too long.
        """
        if cause := self.cluster_lost():
            raise LaunchEnded(cause)
        if self.stop.asked() and not self._told:
            self._told = True
            self.tell(self.stop.word)
        silence = self.stall.silence
        silence.tick()
        if silence.seconds > silence.limit_s / 2 and (who := self.others()):
            self.view.note(f"waiting for room that others hold: {who}")
            self.stall.excused()
        self.view.while_silent(silence.seconds, self.stall.waiting_for, self.run.logs / "driver.log")
        self.stall.check()

    def pause(self, seconds: float) -> None:
        """Wait, hearing a request to stop and noticing the end of what is waited for."""
        end = time.monotonic() + seconds
        while not self.stop.asked() and (left := end - time.monotonic()) > 0:
            time.sleep(min(TICK_S, left))
            self.check()

    def wait_for_others(self, names: Sequence[str], doing: str) -> None:
        """Wait a moment for conditions that other launches hold; their names make it no stall."""
        owners = {found.owner for name in names if (found := holder(self.run.lease(name)))}
        if owners:
            self.stall.excused()
        self.view.note(f"waiting for {len(names)} conditions that another launch {doing}: {', '.join(sorted(owners))}")
        self.pause(OTHERS_S)

    def beside(self, work: Callable[[], Any], saves: bool, waiting_for: str, grace_s: float = 0.0) -> Any:
        """Run `work` in a thread; the main thread stays free to take signals and to notice that it will never end.

        Args:
            work: what is done; Tune and Ray Data would install signal handlers of their own in the main thread.
            saves: when the sweep is to stop, wait for the work's end; other work is left, it loses nothing.
            waiting_for: what the launch does, as its user would say it.
            grace_s: how long work that is left may take to end by itself.

        Returns:
            what `work` returned, or None where it was left.

        Raises:
            LaunchEnded: if the work cannot end any more.
        """
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as e:  # noqa: BLE001 - raised again below
                future.set_exception(e)

        self.stall.waiting_for = waiting_for
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.join(thread, saves)
        if self.stop.asked():
            thread.join(timeout=grace_s)
        return future.result() if future.done() else None

    def join(self, thread: threading.Thread, saves: bool) -> None:
        """Wait for a thread as `beside` does."""
        while thread.is_alive() and not (self.stop.asked() and not saves):
            thread.join(timeout=TICK_S)
            self.check()

    @contextmanager
    def hearing_rows(self) -> Iterator[None]:
        """For the length of the block, rows that engines predict are shown, and are no silence: a queue may take hours."""
        over, before = threading.Event(), dict(self.told_rows())

        def listen() -> None:
            while not over.wait(ROWS_S):
                for name, rows in self.told_rows().items():
                    if before.get(name) != rows:
                        before[name] = rows
                        self.stall.heard()
                        self.view.on_rows(name, *rows)

        threading.Thread(target=listen, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    @contextmanager
    def holding(self, lease: Path) -> Iterator[bool]:
        """Hold a lease, waiting for another launch as long as it takes; False if this one was asked to stop."""
        while not self.stop.asked():
            with hold(lease, self.owner, patience_s=1) as mine:
                if mine:
                    self.stall.heard()
                    yield True
                    return
            if other := holder(lease):
                self.stall.excused()
                self.view.note(f"waiting for {other.owner}, which holds {lease}")
            self.check()
        yield False
