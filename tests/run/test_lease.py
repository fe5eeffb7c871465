"""A lease is held by one process at a time, and never for ever."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.run import lease
from wlsweep.run.lease import STALE_S, hold, holder

RECORD_ELSEWHERE = json.dumps({"owner": "node 7", "machine": "elsewhere", "pid": 1, "started": "1"})

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


def beaten(path, since):
    end = time.monotonic() + 20
    while path.stat().st_mtime <= since:
        assert time.monotonic() < end, "no heartbeat came"
        time.sleep(0.005)


def test_a_heartbeat_renews_its_own_lease_and_never_one_that_took_its_place(path, monkeypatch):
    monkeypatch.setattr(lease, "FIRST_S", 0.01)
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    long_ago = time.time() - STALE_S - 1
    with hold(path, "me") as mine:
        assert mine
        os.utime(path, (long_ago, long_ago))
        beaten(path, long_ago)
        own = path.rename(path.with_name("taken"))
        path.write_text(RECORD_ELSEWHERE)
        os.utime(path, (long_ago, long_ago))
        os.utime(own, (long_ago, long_ago))
        beaten(own, long_ago)
        assert path.stat().st_mtime == long_ago
    assert path.read_text() == RECORD_ELSEWHERE, "who holds it now keeps it"


def test_a_heartbeat_goes_on_after_the_file_server_failed(path, monkeypatch):
    """Neither opening the lease nor touching it works for a while; after that it is beaten again."""
    for name in ("FIRST_S", "BEAT_S", "AGAIN_S"):
        monkeypatch.setattr(lease, name, 0.01)
    failed = []

    def failing(*arguments, of=os.utime):
        if len(failed) < 5:
            failed.append(arguments)
            raise OSError(errno.ESTALE, "Stale file handle")
        return of(*arguments)

    with lease.hold(path, "me") as mine:
        assert mine
        monkeypatch.setattr(lease.os, "utime", failing)
        hidden = path.with_name("hidden")
        path.rename(hidden)
        time.sleep(0.1)
        hidden.rename(path)
        before = path.stat().st_mtime_ns
        end = time.monotonic() + 30
        while path.stat().st_mtime_ns == before:
            assert time.monotonic() < end, "no heartbeat any more"
            time.sleep(0.01)
    assert len(failed) == 5 and not path.exists()


@pytest.mark.parametrize("local_is_off_by", [61.0, 300.0, -61.0, -300.0])
def test_only_the_clock_of_the_file_system_counts(path, monkeypatch, local_is_off_by):
    """A file server whose clock is behind or ahead of this machine's, as seen from here."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + local_is_off_by)
    monkeypatch.setattr(lease, "_clocks", {})
    path.parent.mkdir()
    path.write_text(RECORD_ELSEWHERE)
    assert holder(path).owner == "node 7", "a live one looks dead"
    dead = real() - STALE_S - 1
    os.utime(path, (dead, dead))
    assert holder(path) is None, "a dead one looks live"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_live_lease_stays_held_after_this_machine_slept(path, monkeypatch):
    """The monotonic clock stands still meanwhile, so the distance of the clocks that was measured before is too small."""
    path.parent.mkdir()
    now = time.monotonic()
    before_sleep = time.time() - 600 - now
    monkeypatch.setattr(lease, "_clocks", {path.parent.stat().st_dev: (now, before_sleep)})
    path.write_text(RECORD_ELSEWHERE)
    assert holder(path).owner == "node 7"


@pytest.mark.parametrize("server_is_off_by", [-61.0, 300.0])
def test_a_server_with_another_clock_dates_the_lease_and_the_touched_file_alike(path, monkeypatch, server_is_off_by):
    plain_touch = Path.touch

    def touch(self, *args, **kwargs):
        plain_touch(self, *args, **kwargs)
        os.utime(self, (time.time() + server_is_off_by,) * 2)

    monkeypatch.setattr(Path, "touch", touch)
    monkeypatch.setattr(lease, "_clocks", {})
    path.parent.mkdir()
    path.write_text(RECORD_ELSEWHERE)
    now = time.time() + server_is_off_by
    for age, held in ((1, True), (STALE_S - 3, True), (STALE_S + 3, False)):
        os.utime(path, (now - age, now - age))
        assert (holder(path) is not None) is held


@pytest.mark.parametrize(
    "content",
    [b"[]", b"\x80\x04\x95", b"{}", b"null", b'{"owner": 3}', b"", b"\xef\xbb\xbf{}", b'{"owner": "x", "pid": "1"}'],
)
def test_a_garbage_lease_is_named_and_free_once_it_is_stale(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert str(path) in holder(path).owner and "no whole lease" in holder(path).owner
    with hold(path, "me") as mine:
        assert not mine
    old = time.time() - STALE_S - 1
    os.utime(path, (old, old))
    with hold(path, "me") as mine:
        assert mine


def test_a_lease_that_cannot_be_read_or_written_is_one_clear_error(path):
    path.mkdir(parents=True)
    for use in (lambda: holder(path), lambda: hold(path, "me").__enter__()):
        with pytest.raises(WlsweepError, match=r"lease\.json cannot be read: Is a directory.*move it away"):
            use()
    below_a_file = path.parent / "file" / "lease.json"
    below_a_file.parent.write_text("")
    with pytest.raises(WlsweepError, match=r"lease\.json cannot be (read|written)"):
        hold(below_a_file, "me").__enter__()
