"""Processes that an engine starts (vLLM's EngineCore, one worker a GPU) end with the process that started the engine.

They hold most of a GPU's memory. vLLM ends them when its own process ends in good order, and so does Ray where it can; a
process that is killed can do nothing, nor can Ray where it was killed, too. So a small process watches: when its parent is
gone, it kills what the parent had started.

    python -m wlsweep.predict.orphans PID
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil

LOOK_S = 0.5
"""Seconds between two looks."""


def end_children_with_this_process() -> None:
    """Start the watcher of this process; it ends by itself soon after this process does."""
    command = [sys.executable, "-m", "wlsweep.predict.orphans", str(os.getpid())]
    # A session of its own: what kills this process's group must not kill its watcher.
    subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=True, start_new_session=True)


def watch(pid: int) -> None:
    """Return once a process is gone and all that it had started was killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    own = os.getpid()
    children: list[psutil.Process] = []
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            children = [c for c in parent.children(recursive=True) if c.pid != own]
            time.sleep(LOOK_S)
    except psutil.NoSuchProcess:
        pass
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.is_running():  # the same process, not another one with its number
                child.kill()


if __name__ == "__main__":
    watch(int(sys.argv[1]))
