"""A lease is held by one process at a time, and never for ever."""

import json
import os
import subprocess
import sys
import time

import pytest

from wlsweep.run.lease import STALE_S, hold, holder

TAKE = """
import sys, time
from pathlib import Path
from wlsweep.run.lease import hold
with hold(Path(sys.argv[1]), "other") as mine:
    print(mine, flush=True)
    if mine:
        time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "lease.json"


def other(path, seconds):
    process = subprocess.Popen([sys.executable, "-c", TAKE, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip() == "True"


def test_a_second_process_does_not_get_a_held_lease(path):
    with hold(path, "me") as mine:
        assert mine
        assert holder(path).owner == "me"
        process, theirs = other(path, 0)
        process.wait()
        assert not theirs
    assert holder(path) is None and not path.exists()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(path):
    process, theirs = other(path, 600)
    assert theirs
    with hold(path, "me") as mine:
        assert not mine
    process.kill()
    process.wait()
    with hold(path, "me") as mine:
        assert mine


def test_a_reused_process_number_is_not_its_holder(path):
    with hold(path, "me"):
        record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"started": "1"}))
    assert holder(path) is None


def test_a_lease_of_another_machine_lives_as_long_as_its_heartbeat(path):
    path.parent.mkdir()
    path.write_text(json.dumps({"owner": "node 7", "machine": "elsewhere", "pid": 1, "started": "1"}))
    assert holder(path).owner == "node 7"
    with hold(path, "me") as mine:
        assert not mine
    old = time.time() - STALE_S - 1
    os.utime(path, (old, old))
    assert holder(path) is None
    with hold(path, "me") as mine:
        assert mine


def test_a_half_written_lease_counts_as_held_until_it_is_stale(path):
    path.parent.mkdir()
    path.write_text('{"owner"')
    assert holder(path) is not None
    old = time.time() - STALE_S - 1
    os.utime(path, (old, old))
    with hold(path, "me") as mine:
        assert mine


def test_of_many_that_take_over_a_dead_lease_one_wins(path):
    path.parent.mkdir()
    path.write_text(json.dumps({"owner": "dead", "machine": "elsewhere", "pid": 1, "started": "1"}))
    old = time.time() - STALE_S - 1
    os.utime(path, (old, old))
    started = [
        subprocess.Popen([sys.executable, "-c", TAKE, str(path), "20"], stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    try:
        assert [p.stdout.readline().strip() for p in started].count("True") == 1
    finally:
        for p in started:
            p.kill()
            p.wait()
