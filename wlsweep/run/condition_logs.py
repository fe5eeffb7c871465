"""`wlsweep logs`: which files of a run say what happened to a condition, and their last lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wlsweep.run.layout import RunDir, read_json

TAIL_BYTES = 64 << 10
"""Read from the end of a log: engines write logs of gigabytes, and a terminal shows some lines."""


class LogPart(NamedTuple):
    """The end of one log."""

    path: Path
    lines: list[str]


def log_files(run: RunDir, name: str) -> list[Path]:
    """Logs of a condition's own processes, the oldest first; where it has none, those of processes that it shared."""
    # another condition's name may begin with this one's
    own = [p for p in run.logs.rglob("*.log") if p.name.startswith((f"{name}_train", f"{name}_predict"))]
    found = own or [p for pattern in ("train_*.log", "predict_*.log") for p in run.logs.glob(pattern)]
    return sorted(found, key=lambda p: p.stat().st_mtime)


def cause_of_failure(run: RunDir, name: str) -> str | None:
    """What `failed.json` says in full: stage, attempts and cause; None where the condition did not fail."""
    if not run.failed(name).is_file():
        return None
    record = read_json(run.failed(name))
    return (
        f"{record['stage']} failed in attempt {record['attempts']}, {record['failed_at']}:\n{record['cause'].rstrip()}"
    )


def last_lines(path: Path, count: int) -> LogPart:
    """The last lines of a file, without blank ones; of a progress bar its last state."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return LogPart(path, [line for line in lines if line][-count:])


def parts(run: RunDir, name: str | None, count: int) -> Iterator[LogPart]:
    """The ends of a condition's logs that hold something, then of its metric log; without a name, of the driver's log."""
    files = [run.logs / "driver.log"] if name is None else [*log_files(run, name), run.metric_log(name)]
    for path in files:
        if path.is_file() and path.stat().st_size:
            yield last_lines(path, count)
