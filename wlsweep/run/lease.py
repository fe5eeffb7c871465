"""A lease keeps two launches off one condition, across processes, nodes and jobs that share the run directory.

    with hold(run.lease(name), owner="job 42") as mine: ...

It is a file made with O_EXCL whose modification time is a heartbeat. A lease without a beat for `STALE_S` seconds, or of a
process of this machine that is gone, is dead and may be taken over. Take-over is a rename, which one process wins; who finds
that the file it renamed was not the dead one that it had read puts it back. A holder touches and deletes only its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BEAT_S = 5.0
"""Seconds between heartbeats."""
STALE_S = 60.0
"""Seconds without a heartbeat after which a holder counts as dead; more than shared file systems cache times."""


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


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lease now, or None if it is free or its holder is dead."""
    try:
        text, age = path.read_text(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        found = {"owner": "a process that just took it"}
    if found.get("machine") == _machine() and _started(found["pid"]) != found["started"]:
        return None
    return found if age < STALE_S else None


def _take(path: Path, owner: str) -> str | None:
    """The record that was written, or None if the lease was not to be had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if holder(path):
            return None
        dead = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.dead")
        try:
            seen = path.read_text()
            if holder(path):
                return None
            path.rename(dead)
        except FileNotFoundError:
            return None  # another process was faster
        if dead.read_text() != seen:
            # Between reading and renaming, another process took the lease over: this is its live one.
            with contextlib.suppress(FileExistsError):
                os.link(dead, path)
            dead.unlink()
            return None
        dead.unlink()
    mine = json.dumps(
        {
            "owner": owner,
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "nonce": uuid.uuid4().hex,
        }
    )
    try:
        with path.open("x") as f:
            f.write(mine)
    except FileExistsError:
        return None
    return mine


def _is(path: Path, mine: str) -> bool:
    try:
        return path.read_text() == mine
    except OSError:
        return False


@contextmanager
def hold(path: Path, owner: str, patience_s: float = 0.0) -> Iterator[bool]:
    """Hold a lease for the length of the block; yields whether it was to be had within `patience_s` seconds."""
    end = time.monotonic() + patience_s
    mine = _take(path, owner)
    while mine is None and time.monotonic() < end:
        time.sleep(0.2)
        mine = _take(path, owner)
    if mine is None:
        yield False
        return
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            if _is(path, mine):
                with contextlib.suppress(OSError):  # a file server's hiccup; the next beat tells
                    os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        over.set()
        thread.join()
        if _is(path, mine):
            path.unlink(missing_ok=True)
