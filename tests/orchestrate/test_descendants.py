"""What a launch started ends with it, also what its own processes started before they were killed."""

import contextlib
import subprocess
import sys
import time

import psutil

PROGRAM = """
import subprocess, sys, time
import psutil
from wlsweep.orchestrate.descendants import kill_descendants, note_descendants

child = subprocess.Popen(["bash", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
grandchild = int(child.stdout.readline())
if sys.argv[1] == "noted":
    note_descendants()
child.kill()
child.wait()
assert psutil.Process(grandchild).ppid() != child.pid
kill_descendants()
print(grandchild)
"""


def is_over(pid, seconds=30):
    """Whether a process ends; on a busy machine a signal takes its time, and a zombie may wait for init."""
    end = time.monotonic() + seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
    return True


def test_a_grandchild_whose_parent_was_killed_is_ended_too():
    done = subprocess.run([sys.executable, "-c", PROGRAM, "noted"], capture_output=True, text=True, check=True)
    assert is_over(int(done.stdout))


def test_processes_of_others_are_left_alone():
    other = subprocess.Popen(["sleep", "1000"])
    try:
        subprocess.run([sys.executable, "-c", PROGRAM, "noted"], capture_output=True, check=True)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
