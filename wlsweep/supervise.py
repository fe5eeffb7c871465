"""`wlsweep run` is two processes: the one that the user started, and its child, which does the work.

    supervised(command_line)    # does not return

Some ends cannot be heard inside the process that meets them: Ray's C++ code ends a process with exit code 1 and without a
word where the node process (raylet) that it talks to is gone; the kernel ends one that takes too much memory. The first
process says so, ends what the launch had started (what lost its own parent too: it is the "child subreaper" of
prctl(2)), and ends with 75, as every launch does that can go on. It passes signals on, and if it dies, so does its child.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT)
_END_S = 10.0
"""How long what is left of a launch may take to be gone after SIGKILL."""
_in_order: int | None = None
"""In the child: where it says that the end which follows is its own."""


def supervised(work: Callable[[], None]) -> NoReturn:
    """Do `work` in a child process and end as it ends; where it did not end by itself, say so and end with 75.

    First thing of a command, before anything has started a thread.

    Args:
        work: the command line; it ends its process or returns.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    heard, said = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_PASSED_ON, signal.SIGTSTP, signal.SIGCHLD])
    parent, child = os.getpid(), os.fork()
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _begin_child(before, said)
        try:
            work()
        finally:
            ends_in_order()  # also where a traceback follows
        sys.exit(0)
    os.close(said)
    os.set_blocking(heard, False)
    status = _wait(child)
    code = os.waitstatus_to_exitcode(status)
    with suppress(BlockingIOError):
        if code >= 0 and (code != 1 or os.read(heard, 1)):
            _end_descendants()
            os._exit(code)
    _end_descendants()
    why = f"{_what_ended_it(code)}; what was being worked on goes on from its checkpoint with: "
    with suppress(OSError):
        os.write(1, f"{why}wlsweep {shlex.join(sys.argv[1:])}\n".encode())
    os._exit(75)


def ends_in_order() -> None:
    """Say that the end of this process, which follows, is meant; nothing where it has no supervisor."""
    if _in_order is not None:
        with suppress(OSError):
            os.write(_in_order, b".")


def _begin_child(mask: set[signal.Signals] | set[int], said: int) -> None:
    global _in_order
    _in_order = said
    # A group of its own: what a terminal sends to its foreground group comes once, from the supervisor.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may write to that terminal all the same
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _wait(child: int) -> int:
    """Pass signals on until the child has ended; returns its wait status."""
    while True:
        number = signal.sigwait([*_PASSED_ON, signal.SIGTSTP, signal.SIGCHLD])
        if number == signal.SIGCHLD:
            while (ended := _reaped()) is not None:
                if ended[0] == child:
                    return ended[1]
        elif number == signal.SIGTSTP:  # Ctrl-Z
            os.killpg(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.killpg(child, signal.SIGCONT)
        else:
            os.kill(child, number)


def _reaped() -> tuple[int, int] | None:
    """A child that has ended (orphans of the launch are children, too), with its wait status; None if there is none."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _end_descendants() -> None:
    """End what the launch started and that still runs; by number, never by name."""
    import psutil

    end = time.monotonic() + _END_S
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < end:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        while _reaped():
            continue
        time.sleep(0.02)


def _what_ended_it(code: int) -> str:
    if code >= 0:
        return "Ray ended this launch: its node process (raylet) on this machine is gone"
    name = signal.Signals(-code).name
    why = " (by the system where memory ran out, or by hand)" if name == "SIGKILL" else ""
    return f"the process of this launch was ended by {name}{why}"
