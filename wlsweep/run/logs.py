"""Sends what a worker process and the C++ libraries in it print to a file of the run, away from the user's terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from wlsweep.files import refuse_special_target


def log_process_to(log: Path) -> None:
    """Send this process's output, and that of the C++ libraries in it, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    refuse_special_target(log)
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.close(to)


_terminal: int | None = None


def keep_errors_in(log: Path) -> None:
    """Send this process's standard error to a file until `show_errors_again`; engines talk there from C++ too."""
    global _terminal
    if _terminal is None:
        log.parent.mkdir(parents=True, exist_ok=True)
        refuse_special_target(log)
        sys.stderr.flush()
        _terminal = os.dup(2)
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(to, 2)
        os.close(to)


def show_errors_again() -> None:
    """Give the terminal its standard error back."""
    global _terminal
    if _terminal is not None:
        sys.stderr.flush()
        os.dup2(_terminal, 2)
        os.close(_terminal)
        _terminal = None
