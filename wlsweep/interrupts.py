"""How a command ends at once on a signal: one line, exit code 128 + its number, no traceback, and nothing half-written.

    end_on_signals()    # first thing of the command line; `wlsweep run` takes the signals over once its launch has begun

It ends without raising: an exception in the middle of an import becomes whatever the imported library makes of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

unfinished: set[Path] = set()
"""Temporary files and folders that are being written; removed when a signal ends the process."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end this process at once; one that its parent ignores stays ignored.

    Main thread only.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def open_streams() -> None:
    """Open what was closed of standard input, output and error, so that no other file gets their numbers."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(null)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def remove_unfinished() -> None:
    """Remove what is half-written, before the process ends at once; also what a thread is still writing."""
    for path in [*unfinished, *unfinished]:  # the thread may have made one more file in a folder
        discard(path)


def discard(path: Path) -> None:
    """Remove a temporary file or folder, as far as the system lets us."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _end(number: int, _frame: FrameType | None) -> None:
    remove_unfinished()
    with suppress(OSError):
        os.write(2, f"\nstopped by {signal.Signals(number).name}: nothing is half-written; run it again\n".encode())
    os._exit(128 + number)
