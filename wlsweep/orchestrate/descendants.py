"""The processes that this one started, directly or not, so that all of them end with it.

A process whose parent died belongs to init: a worker or dashboard agent of a raylet that was killed is nobody's child any
more, and lived on for up to half a minute. So they are noted while they can be found.
"""

from __future__ import annotations

import contextlib
import threading

import psutil

_noted: set[psutil.Process] = set()
"""Each with its start time, so that a number that is used again is not taken for the old process."""

_lock = threading.Lock()


def note_descendants() -> None:
    """Note what this process has started by now and still runs; called every few seconds."""
    with _lock, contextlib.suppress(psutil.Error):
        found = {*_noted, *psutil.Process().children(recursive=True)}
        _noted.clear()
        _noted.update(process for process in found if process.is_running())


def kill_descendants() -> None:
    """Kill what this process started and that still runs."""
    note_descendants()
    with _lock:
        found = list(_noted)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # psutil looks at the start time first
