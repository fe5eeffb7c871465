"""What an engine's process started ends with it, however it ended."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import subprocess, sys, time
from wlsweep.predict.orphans import end_children_with_this_process
end_children_with_this_process()
child = subprocess.Popen([sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"],
                         stdin=subprocess.PIPE)
time.sleep(0.2)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_and_grandchildren_of_a_killed_process_are_ended(how):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    end = time.monotonic() + 10
    while len(found := psutil.Process(parent.pid).children(recursive=True)) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    assert len(found) == 3, "the watcher, a child and its child"
    time.sleep(0.7)  # the watcher looks twice a second
    os.kill(parent.pid, how)
    parent.wait(5)
    _, left = psutil.wait_procs(found, timeout=10)
    assert not left, [p.cmdline() for p in left]
