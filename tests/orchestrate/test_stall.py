"""When a launch in which nothing happens ends itself."""

import threading
import time
from dataclasses import replace

import pytest

from tests.orchestrate.fakes import NAMES, FakeStages, go, launch_of
from wlsweep.orchestrate import launch as launches
from wlsweep.orchestrate.driver import STOPPED, Driver
from wlsweep.orchestrate.stall import FACTOR, LONGEST_TICK_S, LaunchEnded, StallLimit


class Clock:
    """Goes on by at most one tick a call of `wait`."""

    def __init__(self, floor_s):
        self.now = 0.0
        self.limit = StallLimit(floor_s, lambda: self.now)

    def wait(self, seconds):
        """Let time pass in small ticks; returns after how many seconds the launch ended, or None."""
        for i in range(int(seconds)):
            self.now += 1
            try:
                self.limit.check()
            except LaunchEnded:
                return i + 1
        return None


def test_a_silence_beyond_the_floor_ends_the_launch_and_names_what_it_waited_for():
    clock = Clock(600)
    clock.limit.waiting_for = "a step"
    assert clock.wait(601) == 601
    with pytest.raises(
        LaunchEnded, match=r"nothing happened for 10 minutes while waiting for a step.*stall_minutes = 10"
    ):
        clock.limit.check()


def test_a_slow_sweep_is_given_a_multiple_of_its_own_longest_silence():
    clock = Clock(600)
    assert clock.wait(500) is None
    clock.limit.heard()
    assert clock.wait(FACTOR * 500 + 1) == FACTOR * 500 + 1


def test_a_wait_for_another_launch_is_no_stall_and_no_pace():
    clock = Clock(600)
    for _ in range(10):
        assert clock.wait(500) is None
        clock.limit.excused()
    assert clock.wait(601) == 601


def test_a_process_that_was_suspended_has_not_waited():
    clock = Clock(600)
    clock.now += 10_000
    clock.limit.check()
    assert clock.limit.silence.seconds == LONGEST_TICK_S


def test_a_launch_whose_work_never_ends_exits_with_75(tmp_path, monkeypatch):
    monkeypatch.setattr(launches, "TICK_S", 0.002)
    never = threading.Event()

    def hang(launch):
        launch.stall.silence.limit_s = 0.05
        never.wait(20)

    ran = go(tmp_path, FakeStages(fates={NAMES[0]: [hang]}))
    never.set()
    assert ran.code == STOPPED
    assert "while waiting for the first step of a condition, or its next" in ran.said


def test_a_wait_for_others_that_hold_the_room_is_said_and_no_stall(tmp_path, monkeypatch):
    monkeypatch.setattr(launches, "TICK_S", 0.002)
    fakes = FakeStages(fates={NAMES[0]: [lambda launch: threading.Event().wait(0.3)]})
    ran = go(tmp_path, fakes, stall=StallLimit(0.1), others=lambda: "wlsweep run other.toml")
    assert ran.code == 0 and "waiting for room that others hold: wlsweep run other.toml" in ran.said


def test_a_silence_while_nothing_waits_for_room_ends_the_launch(tmp_path, monkeypatch):
    monkeypatch.setattr(launches, "TICK_S", 0.002)
    never = threading.Event()
    fakes = FakeStages(fates={NAMES[0]: [lambda launch: never.wait(20)]})
    ran = go(tmp_path, fakes, stall=StallLimit(0.1), others=lambda: None)
    never.set()
    assert ran.code == STOPPED and "waiting for room" not in ran.said


@pytest.mark.parametrize(("moves", "code"), [(True, 0), (False, STOPPED)])
def test_a_queue_of_rows_that_outlasts_the_limit_is_no_stall_while_rows_are_predicted(
    tmp_path, monkeypatch, moves, code
):
    monkeypatch.setattr(launches, "TICK_S", 0.01)
    monkeypatch.setattr(launches, "ROWS_S", 0.01)
    rows, over = {NAMES[1]: (7, 900)}, threading.Event()

    def queue(launch):
        launch.stall.silence.limit_s, began = 0.5, time.monotonic()
        while time.monotonic() - began < 1.5 and not over.is_set():
            if moves:
                done, of = rows.get(NAMES[0], (0, 900))
                rows[NAMES[0]] = done + 1, of
            time.sleep(0.02)

    shown = []
    fakes = FakeStages(on_predict=queue)
    launch, text = launch_of(tmp_path)
    launch = replace(launch, told_rows=lambda: dict(rows))
    launch.view.on_rows = lambda *what: shown.append(what)
    launch.stall.heard = lambda: launch.stall.silence.broken()  # the limit stays as it is
    assert Driver(launch, fakes.stages()).go() == code, text.getvalue()
    over.set()
    assert {name for name, *_ in shown} == ({NAMES[0]} if moves else set())
    assert ("while waiting for the first prediction" in text.getvalue()) != moves
