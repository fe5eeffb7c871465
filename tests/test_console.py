"""What a log shows of a sweep; the live line of a terminal is looked at by people."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from wlsweep.console import SLOW_S, Progress


def test_a_log_gets_a_line_as_a_stage_begins_and_one_a_condition():
    log = StringIO()
    view = Progress(Console(file=log, width=80))
    with view.during("train", 2):
        view.on_condition("a", {"state": "running", "step": 1, "of": 9})
        view.on_condition("a", {"state": "done"})
        view.on_condition("b", {"state": "failed", "cause": "the loss is nan\nlong story"})
    lines = log.getvalue().splitlines()
    assert lines[0] == "train: 2 conditions"
    assert lines[1].startswith("  train 1/2 done | 0:00") and lines[1].endswith("a done")
    assert lines[2:] == ["  b FAILED: the loss is nan"]


def test_conditions_that_were_stopped_or_are_trained_elsewhere_do_not_count_in_the_time_a_condition_takes(monkeypatch):
    log, now = StringIO(), [0.0]
    monkeypatch.setattr("wlsweep.console.time.monotonic", lambda: now[0])
    view = Progress(Console(file=log, width=200))
    with view.during("train", 5):
        for name, at, state in (("a", 50, "done"), ("b", 60, "elsewhere"), ("c", 70, "done"), ("d", 70, "stopped")):
            now[0] = float(at)
            view.on_condition(name, {"state": state})
    assert [line.strip() for line in log.getvalue().splitlines()[1:]] == [
        "train 1/5 done | 0:50  a done",
        "train 1/5 done | 1:00  b elsewhere",
        "train 2/5 done | 20.0 s each | 1:00 left  c done",
        "train 2/5 done | 20.0 s each | 1:00 left  d stopped",
    ]


def test_groups_that_end_their_first_conditions_together_tell_no_pace_until_the_next_ends(monkeypatch):
    log, now = StringIO(), [0.0]
    monkeypatch.setattr("wlsweep.console.time.monotonic", lambda: now[0])
    view = Progress(Console(file=log, width=200))
    with view.during("train", 8):
        for wave in (("a", "b"), ("c", "d")):
            for name in wave:
                view.on_condition(name, {"state": "running"})
            now[0] += 100
            for name in wave:
                now[0] += 1
                view.on_condition(name, {"state": "done"})
    said = [line.strip().split("  ")[0].split(" | ", 1)[1] for line in log.getvalue().splitlines()[1:]]
    assert said == ["1 running | 1:41", "1:42", "1 running | 102.0 s each | 8:30 left", "51.5 s each | 3:26 left"]


def test_a_log_gets_what_passes_once_a_stage_and_not_each_of_its_numbers():
    log = StringIO()
    view = Progress(Console(file=log, width=80))
    view.note("before any stage")
    for _ in range(2):
        with view.during("data", 0):
            for text in (
                "making it",
                "making it: step 1 of 9",
                "making it: step 2 of 9",
                "waiting for 3",
                "waiting for 2",
                "1/4: 5 wanted",
                "1/8: 6 wanted",
            ):
                view.note(text)
    said = ["making it", "waiting for 3", "1/4: 5 wanted", "1/8: 6 wanted"]
    assert log.getvalue().splitlines() == ["data: begins", *(f"  {line}" for line in said)] * 2


def test_a_silence_is_said_once_and_again_after_something_was_heard():
    log = StringIO()
    view = Progress(Console(file=log, width=80))
    with view.during("train", 2):
        for seconds in (SLOW_S - 1, SLOW_S, SLOW_S + 1, 0, SLOW_S):
            view.while_silent(seconds, "a step", Path("driver.log"))
    assert log.getvalue().count("nothing new for 5:00, waiting for a step") == 2


def test_a_launch_that_goes_on_counts_what_was_done_before_in_no_pace(monkeypatch):
    log, now = StringIO(), [0.0]
    monkeypatch.setattr("wlsweep.console.time.monotonic", lambda: now[0])
    view = Progress(Console(file=log, width=200))
    with view.during("train", 21, 18):
        for name, at in (("a", 50), ("b", 80)):
            now[0] = float(at)
            view.on_condition(name, {"state": "done"})
    assert [line.strip() for line in log.getvalue().splitlines()] == [
        "train: 21 conditions, 18 of them done before",
        "train 19/21 done | 0:50  a done",
        "train 20/21 done | 30.0 s each | 0:30 left  b done",
    ]


def test_rows_that_an_engine_predicts_reach_a_log_every_few_minutes_and_not_once_their_condition_is_done(monkeypatch):
    log, now = StringIO(), [0.0]
    monkeypatch.setattr("wlsweep.console.time.monotonic", lambda: now[0])
    view = Progress(Console(file=log, width=200))
    with view.during("predict", 2):
        for done in range(0, 1300, 100):
            now[0] += SLOW_S / 6
            view.on_rows("a", done, 2000)
        view.on_condition("a", {"state": "done"})
        now[0] += SLOW_S
        view.on_rows("a", 2000, 2000)
    assert [line.strip().split("  ")[-1] for line in log.getvalue().splitlines()[1:]] == [
        "a 500/2,000 rows predicted",
        "a 1,100/2,000 rows predicted",
        "a done",
    ]
