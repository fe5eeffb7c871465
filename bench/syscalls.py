"""Counts what a program asks of a file system: its system calls on paths below a folder, as strace saw them.

    traced(["python", "-m", "..."], log)            # runs it, with all that it starts
    for asked in read(log, below): ...              # below a folder

One system call is one operation, as if nothing were cached: opening, looking at (`stat`, `access`), listing, renaming,
linking, deleting, making folders, setting times and sizes. Reading, writing, closing and looking at an open file are none:
they go to what the opening brought. A file system's client asks its server for less where its cache answers, and for more
where a path is long (a look for each folder on the way). Memory-mapped files are read without a call; opening them is one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_CALLS = "%file,getdents64,ftruncate,fchmod,clone,clone3,fork,vfork"
_LINE = re.compile(r"(\d+) +(\d+\.\d+) (?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<at>[^>]*)>)?(?:, )?(?:"(?P<path>[^"]*)")?')
_MADE = re.compile(r"= (\d+)$")
MARK = "/mark-of-a-bench"
"""Looks below it are no operations, but words to whoever reads the trace."""


class Asked(NamedTuple):
    """One operation."""

    at: float
    """Seconds since the epoch."""
    thread: int
    first: bool
    """Whether the process that was started did it; else one that it started."""
    call: str
    path: str
    """Within the folder that was read for; that of a mark as it is."""


def _strace(log: Path) -> list[str]:
    if shutil.which("strace") is None:
        raise SystemExit("strace is needed: apt-get install strace")
    return ["strace", "-f", "-qq", "-y", "-ttt", "-e", "signal=none", "-e", f"trace={_CALLS}", "-o", str(log)]


def traced(command: Sequence[str], log: Path) -> str:
    """Run a command that must succeed under strace, which writes every call to a file; returns what it prints."""
    done = subprocess.run([*_strace(log), "--seccomp-bpf", *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def threads(pid: int) -> set[int]:
    """The threads that a process has now."""
    return {int(t.name) for t in Path(f"/proc/{pid}/task").iterdir()}


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for parent in found:
        for thread in threads(parent):
            with suppress(OSError):
                found += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text().split())
    return found


@contextmanager
def attached(pids: Sequence[int], log: Path) -> Iterator[None]:
    """Trace running processes, and what they start, for the length of the block."""
    with subprocess.Popen([*_strace(log), *(f"--attach={pid}" for pid in pids)]) as strace:
        try:
            yield
        finally:
            strace.terminate()  # lets go of them


def mark(word: str) -> None:
    """Leave a word in the trace of this process."""
    os.access(f"{MARK}/{word}", os.F_OK)


def read(log: Path, below: Path, own: Collection[int] = ()) -> Iterator[Asked]:
    """The operations on paths below a folder, and the marks, in the order in which they were asked.

    `own` are the threads of the process that is called the first, where it was not started under strace.
    """
    folder, first, flags = str(below.resolve()), set(own), dict[int, str]()
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not (found := _LINE.match(line)):
                continue
            thread, call, rest = int(found[1]), found[3], found[4]
            first = first or {thread}
            resumed = " resumed>" in line[:60]
            if call in ("clone", "clone3", "fork", "vfork"):
                said = flags.pop(thread, "") + rest
                if made := _MADE.search(rest):
                    if "CLONE_THREAD" in said and thread in first:
                        first.add(int(made[1]))
                else:
                    flags[thread] = said
                continue
            if resumed or call == "execve" or "AT_EMPTY_PATH" in rest:
                continue
            parts = _PATH.match(rest)
            path = os.path.normpath(Path(parts["at"] or "", parts["path"] or "")) if parts else ""
            inside = path == folder or path.startswith(f"{folder}/")
            if inside or path.startswith(MARK):
                where = os.path.relpath(path, folder) if inside else path
                yield Asked(float(found[2]), thread, thread in first, call, where)
