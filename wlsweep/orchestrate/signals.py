"""The request to stop and the signals that make it; marks in the run directory that tell processes of a launch something."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wlsweep.interrupts import end_on_signals

_MARK = re.compile(r"\.(?:training|all-begun)-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}")
TOGETHER_S = 1.0
"""Signals within so many seconds are one request: `ray job stop` sends one to each process of a job, and the supervisor
passes its own on."""


def new_mark(folder: Path, kind: str) -> Path:
    """A name for a file whose existence says something, `training` or `all-begun`, to all processes of a launch; not made
    yet."""
    return folder / f".{kind}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def remove_dead_marks(folder: Path) -> None:
    """Remove what launches on this machine left that were killed."""
    for path in folder.glob(".*"):
        found = _MARK.fullmatch(path.name)
        if found and found["host"] == socket.gethostname() and not Path(f"/proc/{found['pid']}").exists():
            with suppress(OSError):
                path.unlink()


class StopRequest:
    """Whether this launch was asked to stop. A driver that waits for its processes tells them (`Launch.check`)."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.word = f"stop {socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        """By which its processes know it."""
        self._say = say
        self._taken = self._asked = False
        self._heard = 0.0

    def asked(self) -> bool:
        """Whether the launch was asked to stop."""
        return self._asked

    def ask(self) -> None:
        """Ask all processes of the launch to stop: those that train save a checkpoint first."""
        self._asked = True

    def clear(self) -> None:
        """Take the request back; signals end the process again."""
        if self._taken and threading.current_thread() is threading.main_thread():  # handlers can be set there alone
            end_on_signals()
        self._asked = False

    def take_signals(self) -> None:
        """SIGINT, SIGTERM and SIGUSR1 ask to stop; the second one ends the process at once. Main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        self._taken = True

    def _on_signal(self, number: int, frame: object) -> None:
        if self.asked():
            if time.monotonic() - self._heard < TOGETHER_S:
                return
            raise KeyboardInterrupt
        self._heard = time.monotonic()
        self.ask()
        name = signal.Signals(number).name
        self._tell(f"{name}: running conditions save a checkpoint, then the sweep stops (again to end at once)")

    def _tell(self, text: str) -> None:
        """Say it whatever the signal interrupted: another line, or the import of what says it."""
        try:
            self._say(text)
        except Exception:  # noqa: BLE001 - of what was half done
            with suppress(OSError):
                os.write(1, f"{text}\n".encode())
