"""Logs of a run: what processes and the C++ libraries in them print goes there, away from the user's terminal; and which of
them say what happened to a condition, for `wlsweep logs`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from wlsweep.files import open_file, refuse_special
from wlsweep.run.layout import RunDir
from wlsweep.run.records import FailedRecord

TAIL_BYTES = 64 << 10
"""Read from the end of a log: engines write logs of gigabytes, and a terminal shows some lines."""


def log_files(run: RunDir, name: str) -> list[Path]:
    """Logs of a condition's own processes, the oldest first; where it has none, those of processes that it shared."""
    # another condition's name may begin with this one's
    own = [p for p in run.logs.rglob("*.log") if p.name.startswith((f"{name}_train", f"{name}_predict"))]
    found = own or [p for pattern in ("train_*.log", "predict_*.log") for p in run.logs.glob(pattern)]
    return sorted(found, key=lambda p: p.stat().st_mtime)


def cause_of_failure(run: RunDir, name: str) -> str | None:
    """What `failed.json` says in full: stage, attempts and cause; None where the condition did not fail."""
    record = FailedRecord.find(run.failed(name))
    if record is None:
        return None
    cause = (record.details or record.cause).rstrip()
    return f"{record.stage} failed in attempt {record.attempts}, {record.failed_at}:\n{cause}"


def log_of_failure(run: RunDir, name: str, stage: str, attempts: int) -> Path:
    """The one log to read after a failure: that of rank 0 in the last attempt, else the newest of the condition, else the
    driver's; the folder where there is none."""
    files = log_files(run, name)
    last = [p for p in files if p.name.startswith(f"{name}_{stage}_attempt{attempts}")]
    driver = run.logs / "driver.log"
    if last:
        return min(last, key=lambda p: p.name)
    if files:
        return files[-1]
    return driver if driver.is_file() else run.logs


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, without blank ones; of a progress bar its last state."""
    with open_file(path) as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return [line for line in lines if line][-count:]


def parts(run: RunDir, name: str | None, count: int) -> Iterator[tuple[Path, list[str]]]:
    """(path, last lines) of a condition's logs that hold something, then of its metric log; without a name, of the driver's
    log."""
    files = [run.logs / "driver.log"] if name is None else [*log_files(run, name), run.metric_log(name)]
    for path in files:
        if path.is_file() and path.stat().st_size:
            yield path, last_lines(path, count)


def log_process_to(log: Path) -> None:
    """Send this process's output, and that of the C++ libraries in it, to a file."""
    to = _opened(log)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.close(to)


def _opened(log: Path) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        refuse_special(log)
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


_terminal: int | None = None


def keep_errors_in(log: Path) -> None:
    """Send this process's standard error to a file until `show_errors_again`; engines talk there from C++ too."""
    global _terminal
    if _terminal is None:
        to = _opened(log)
        sys.stderr.flush()
        _terminal = os.dup(2)
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
