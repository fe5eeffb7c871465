"""What a launch started ends with it, also what its own processes started before they were killed."""

import contextlib
import subprocess
import sys

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


def test_a_grandchild_whose_parent_was_killed_is_ended_too():
    done = subprocess.run([sys.executable, "-c", PROGRAM, "noted"], capture_output=True, text=True, check=True)
    grandchild = int(done.stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_processes_of_others_are_left_alone():
    other = subprocess.Popen(["sleep", "1000"])
    try:
        subprocess.run([sys.executable, "-c", PROGRAM, "noted"], capture_output=True, check=True)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
