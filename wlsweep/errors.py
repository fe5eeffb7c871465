"""The one error that users see: what is wrong, where, and what to do. Anything else that surfaces is a bug."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path


class WlsweepError(Exception):
    """Something that the user can fix. The message names the place, what was found, and the fix."""


class DamagedError(WlsweepError):
    """A file that is there but not whole: empty, cut short, or not in the form that it should have."""


class UnreadableError(WlsweepError):
    """A file that the system does not let this process read. It may be whole, so it is never made again."""


class SharedFailure(WlsweepError):
    """A failure that every condition of the sweep would share (model, machine, set-up): the sweep stops at the first."""


def refuse_all(heading: str, problems: Sequence[str], show: int = 20) -> None:
    """Raise one `WlsweepError` that lists every problem (the first `show` in full), or return if there is none."""
    if not problems:
        return
    lines = [f"  - {p}" for p in problems[:show]]
    if len(problems) > show:
        lines.append(f"  ... and {len(problems) - show} more")
    raise WlsweepError("\n".join([heading, *lines]))


_REMEDIES = {
    errno.ENOSPC: "free some space on that disk, then run the same command again",
    errno.EDQUOT: "free some space in your quota, then run the same command again",
    errno.EACCES: "give this account the permission (ls -ld shows who has it), then run the same command again",
    errno.EPERM: "give this account the permission (ls -ld shows who has it), then run the same command again",
    errno.EROFS: "the file system is mounted read-only; use another folder, or mount it for writing",
    errno.EISDIR: "a folder stands where a file belongs: move it away, then run the same command again",
    errno.ENOTDIR: "a file stands where a folder belongs: move it away, then run the same command again",
    errno.EEXIST: "something else stands in its place: move it away, then run the same command again",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ENOENT: "check the path",
    errno.ENOTSUP: "put a file in its place, then run the same command again",
    errno.ELOOP: "a link points to itself: put the file in its place",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the same command again",
}


def short_path(path: Path | str) -> str:
    """A path that fits a message."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:90]} ... {text[-90:]} ({len(text):,} characters)"


def os_error_text(e: OSError, path: Path | str | None = None, doing: str = "read") -> str:
    """One line for a failed system call: which path, what the system said, what to do.

    Args:
        e: what the system raised.
        path: what was meant, where the error names a temporary file or nothing.
        doing: `read` or `written`.
    """
    name = short_path(path or e.filename or "a file of this command")
    said = (e.strerror or str(e) or type(e).__name__).strip().splitlines()[0]
    remedy = _REMEDIES.get(e.errno or 0, "check the disk or file server, then run the same command again")
    return f"{name} cannot be {doing}: {said}; {remedy}"


def is_of_files(e: OSError) -> bool:
    """Whether an error is of a file or folder, not of a network or a process."""
    return e.filename is not None or e.errno in _REMEDIES
