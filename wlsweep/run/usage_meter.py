"""What a process holds, and for how long: each process that holds GPUs or cores keeps its own account of it.

    meter = UsageMeter(run.usage, "group", gpus=1, cpus=8, rank=0)
    with meter.during("work", ["accept_gamma2.0_prop1_2"], attempt=1): ...
    meter.close()

The account is a file that only this process writes: when work begins and ends, and in between each time it has gone on for
as long again, at most ten minutes. So a killed process loses at most that, and an attempt that was killed counts like any
other. Of a group's other ranks, whose account tells hardly more than the first one's, it is the end of work, and in between
ten minutes to an hour: there are hundreds of them, and one file system. It never raises: an account that cannot be written
does not end a training.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from wlsweep.run.layout import json_text
from wlsweep.run.records import UsageRecord, UsageSpan

BEAT_S = 2.0
"""Least seconds between two writes."""
LONGEST_S = 600.0
"""Most seconds between two writes of a process, of the first rank of a group; the least of other ranks."""
LONGEST_OTHERS_S = 3600.0
"""Most seconds between two writes of other ranks."""
LOOK_S = 10.0
"""Least seconds between two looks at how large the run is."""
LOOK_SHARE = 2e-5
"""Largest share of the time that such looks take. A look asks a dozen questions a condition; where an answer takes a tenth
of a millisecond, that is one in five seconds."""
GOES_ON = "goes on"
"""Outcome of a span of work that another one, such as the start of an engine, divides in two."""
MOST_SPANS = 60
"""A file with more is left as it is and another one begun, so that a write stays small."""

What = Literal["start", "work", "wait"]


class UsageMeter:
    """The account of this process. Methods may be called from any thread; the last span that began is the current one."""

    def __init__(
        self,
        folder: Path,
        holder: Literal["launch", "group", "engine"],
        stage: str,
        gpus: float = 0,
        cpus: float = 0,
        rank: int = 0,
        size: Callable[[], int] | None = None,
    ) -> None:
        """`size` tells how many bytes the run has now; it is asked now and then."""
        self._folder, self._holder, self._stage = folder, holder, stage
        self._gpus, self._cpus, self._rank = gpus, cpus, rank
        self._size, self._largest = size, None if size is None else 0
        self._looked = time.monotonic()
        self._look_s = LOOK_S
        self._energy: Callable[[], float | None] = lambda: None
        self._guard = threading.RLock()
        self._over = threading.Event()
        self._spans: list[UsageSpan] = []
        self._least, self._most = (BEAT_S, LONGEST_S) if rank == 0 else (LONGEST_S, LONGEST_OTHERS_S)
        self._written = time.monotonic()
        self._open_file()
        self._begin(UsageSpan(what="start", stage=stage, seconds=0.0))
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def measure_energy(self, energy: Callable[[], float | None]) -> None:
        """From now on, ask this function for the joules that the process's GPUs have used since some time."""
        with self._guard:
            self._energy = energy
            self._joules = energy()

    @contextmanager
    def during(
        self, what: What, conditions: Sequence[str] = (), attempt: int = 0, stage: str | None = None
    ) -> Iterator[None]:
        """A span for the length of the block; afterwards what was done before goes on."""
        with self._guard:
            before = self._spans[-1]
            if before.what == "work" and before.outcome is None:
                self._change(outcome=GOES_ON)
            self._begin(
                UsageSpan(
                    what=what, stage=stage or self._stage, conditions=list(conditions), attempt=attempt, seconds=0.0
                )
            )
        if self._rank == 0:
            self._write()  # an attempt counts from its first moment
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            with self._guard:
                if self._spans[-1].outcome is None:
                    self._change(outcome=outcome)
                self._begin(before.model_copy(update={"seconds": 0.0, "energy_joules": None, "checkpoint_bytes": 0}))
            self._write()  # an engine whose work is done is killed, not closed

    def wait(self) -> None:
        """From now on the process waits for its next condition."""
        with self._guard:
            self._begin(UsageSpan(what="wait", stage=self._stage, seconds=0.0))

    def outcome(self, said: str) -> None:
        """How the current span ended, where the end of its block does not tell."""
        with self._guard:
            self._change(outcome=said)

    def shared_by(self, conditions: Sequence[str]) -> None:
        """The current span works on these conditions."""
        with self._guard:
            self._change(conditions=list(conditions))

    def wrote_checkpoint(self, size: int) -> None:
        """So many bytes went into a resume checkpoint."""
        with self._guard:
            self._change(checkpoint_bytes=self._spans[-1].checkpoint_bytes + size)
        self._write()

    def close(self) -> None:
        """The process gives back what it held."""
        self._over.set()
        self._thread.join()
        self.look()
        self._write()

    def _open_file(self) -> None:
        self._path = self._folder / f"{self._holder}_{uuid.uuid4().hex[:12]}.json"
        self._began = time.time()

    def _begin(self, span: UsageSpan) -> None:
        self._tick()
        if len(self._spans) >= MOST_SPANS:
            self._write()
            self._spans.clear()
            self._open_file()
        self._spans.append(span)
        self._at, self._joules = time.monotonic(), self._energy()

    def _tick(self) -> None:
        """Bring the current span up to now."""
        if self._spans:
            joules = self._energy()
            used = None if joules is None or self._joules is None else joules - self._joules
            self._change(
                seconds=time.monotonic() - self._at, energy_joules=used if used is not None and used >= 0 else None
            )

    def _change(self, **fields: object) -> None:
        self._spans[-1] = self._spans[-1].model_copy(update=fields)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            if time.monotonic() - self._looked >= self._look_s:
                self.look()
            if self._is_due():
                self._write()

    def _is_due(self) -> bool:
        """Whether the current span is twice as long as at the last write, within the limits."""
        now = time.monotonic()
        return now - self._written >= min(self._most, max(self._least, (now - self._at) / 2))

    def look(self) -> None:
        """Look how large the run is now; also called between two such looks, where much is about to be deleted."""
        if self._size is None:
            return
        began = time.monotonic()
        with suppress(OSError):
            self._largest = max(self._largest or 0, self._size())
        self._looked = time.monotonic()
        self._look_s = max(LOOK_S, (self._looked - began) / LOOK_SHARE)

    def _write(self) -> None:
        with self._guard:
            self._tick()
            self._written = time.monotonic()
            record = UsageRecord(
                holder=self._holder,
                rank=self._rank,
                host=platform.node(),
                gpus=self._gpus,
                cpus=self._cpus,
                began=self._began,
                spans=list(self._spans),
                largest_bytes=self._largest,
            )
            temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
            text = json_text(record.model_dump(mode="json"))
            try:
                try:
                    temporary.write_text(text, encoding="utf-8")
                except FileNotFoundError:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    temporary.write_text(text, encoding="utf-8")
                temporary.replace(self._path)
            except OSError as e:
                print(f"what this process uses could not be written to {self._path}: {e}", flush=True)
