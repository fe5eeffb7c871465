"""A lease keeps two launches off one condition, across processes, nodes and jobs that share the run directory.

    with hold(run.lease(name), owner="job 42") as mine: ...

It is a file made with O_EXCL whose modification time is a heartbeat; a beat is one request to the file system, which many
holders share. A lease without a beat for `STALE_S` seconds, by the
clock of the file system that it lies on, or of a process of this machine that is gone, is dead and may be taken over.
Take-over is a rename, which one process wins; who finds that the file it renamed was not the dead one that it had read
puts it back. A holder touches and deletes only its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from wlsweep.errors import UnreadableError, WlsweepError, os_error_text
from wlsweep.files import open_file, read_file
from wlsweep.run.records import LeaseRecord

BEAT_S = 50.0
"""Seconds between heartbeats: 64 groups on one file system are 1.3 a second."""
FIRST_S = 1.0
"""Seconds until the first heartbeat, which opens the file."""
AGAIN_S = 5.0
"""Seconds until a heartbeat that the file system refused is tried again."""
STALE_S = 120.0
"""Seconds without a heartbeat after which a holder counts as dead: beyond `BEAT_S` more than shared file systems cache times
(60 s)."""
CLOCK_S = 30.0
"""Seconds for which a measured distance between this machine's clock and a file system's is used."""


def _machine() -> str:
    """Host and process-number space, so that a process number means the same process."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks, or None if it is gone: a number alone may have been used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def holder(path: Path) -> LeaseRecord | None:
    """Who holds a lease now, or None if it is free or its holder is dead.

    A lease that is no whole record counts as held until it is stale: somebody may be writing it just now.

    Raises:
        UnreadableError: if the system does not let this process read it.
    """
    try:
        with open_file(path) as f:
            data, written = f.read(), os.fstat(f.fileno()).st_mtime
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UnreadableError(os_error_text(e, path)) from None
    try:
        found = LeaseRecord.model_validate_json(data)
    except ValidationError:
        found = LeaseRecord(
            owner=f"someone unknown ({path} is no whole lease: it counts as free {STALE_S:g} s after it was written; "
            "delete it if no launch runs)",
            machine="",
            pid=0,
            started=None,
        )
    if found.machine == _machine() and _started(found.pid) != found.started:
        return None
    age = _file_server_time(path) - written
    if age <= -STALE_S:  # this machine slept, or a clock was set: the distance of the clocks is another one now
        _clocks.clear()
        age = _file_server_time(path) - written
    # Still dated into the future: that clock was set back since, and no heartbeat has come.
    return found if abs(age) < STALE_S else None


_clocks: dict[int, tuple[float, float]] = {}
"""By device: when its clock was read, and how far it is from this machine's monotonic clock."""


def _file_server_time(path: Path) -> float:
    """Now, by the clock that dates the files beside `path`, which may be a file server's: that of a file touched just now.

    The distance of the two clocks is measured anew every `CLOCK_S` seconds. Who may not write there uses the local clock.
    """
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        device, now = path.parent.stat().st_dev, time.monotonic()
        measured, apart = _clocks.get(device, (-math.inf, 0.0))
        if now - measured > CLOCK_S:
            try:
                probe.touch()
                apart = probe.stat().st_mtime - time.monotonic()
            finally:
                probe.unlink(missing_ok=True)
            _clocks[device] = now, apart
    except OSError:
        return time.time()
    return time.monotonic() + apart


def _take(path: Path, owner: str) -> str | None:
    """The record that was written, or None if the lease was not to be had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if holder(path):
            return None
        dead = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.dead.tmp")
        try:
            seen = path.read_bytes()
            if holder(path):
                return None
            path.rename(dead)
        except FileNotFoundError:
            return None  # another process was faster
        if dead.read_bytes() != seen:
            # Between reading and renaming, another process took the lease over: this is its live one.
            with contextlib.suppress(FileExistsError):
                os.link(dead, path)
            dead.unlink()
            return None
        dead.unlink()
    mine = LeaseRecord(
        owner=owner,
        machine=_machine(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        nonce=uuid.uuid4().hex,
    ).model_dump_json()
    try:
        with path.open("x") as f:
            f.write(mine)
    except FileExistsError:
        return None
    except OSError:  # a full disk: what was written is no lease
        path.unlink(missing_ok=True)
        raise
    return mine


@contextmanager
def hold(path: Path, owner: str, patience_s: float = 0.0) -> Iterator[bool]:
    """Hold a lease for the length of the block; yields whether it was to be had within `patience_s` seconds.

    Raises:
        WlsweepError: if the system does not let this process write there.
    """
    end = time.monotonic() + patience_s
    try:
        while (mine := _take(path, owner)) is None and time.monotonic() < end:
            time.sleep(0.2)
    except OSError as e:
        raise WlsweepError(os_error_text(e, path, "written")) from None
    if mine is None:
        yield False
        return
    over = threading.Event()

    def beat() -> None:
        # Of the open file: after a take-over another one stands at the path, which is not touched.
        file, wait_s = None, FIRST_S
        while not over.wait(wait_s):
            try:
                if file is None:
                    file = path.open("rb")
                    if file.read() != mine.encode():
                        break
                os.utime(file.fileno())
                wait_s = BEAT_S
            except OSError:  # a file server's hiccup, or its restart, after which the open file is stale
                if file is not None:
                    file.close()
                file, wait_s = None, AGAIN_S
        if file is not None:
            file.close()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):  # a lease that cannot be deleted is stale soon
            if read_file(path) == mine.encode():
                path.unlink(missing_ok=True)
