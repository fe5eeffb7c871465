"""Marks in the run directory by which a launch tells its processes something."""

import os
import socket

from wlsweep.orchestrate.signals import new_mark, remove_dead_marks


def test_marks_of_killed_launches_on_this_machine_go_and_all_others_stay(tmp_path):
    mine, host = new_mark(tmp_path, "stop"), socket.gethostname()
    dead = [tmp_path / f".{kind}-{host}-{2**22 + 1}-0123abcd" for kind in ("stop", "training", "all-begun")]
    kept = [mine, tmp_path / f".stop-elsewhere-{2**22 + 1}-0123abcd", tmp_path / ".stopped", tmp_path / "sweep.json"]
    for path in (*dead, *kept):
        path.touch()
    remove_dead_marks(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert str(os.getpid()) in mine.name and not new_mark(tmp_path, "stop").exists()
