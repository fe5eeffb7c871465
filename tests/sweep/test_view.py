"""What a log shows of a sweep; the live line of a terminal is looked at by people."""

from io import StringIO

from rich.console import Console

from wlsweep.sweep.view import View


def test_a_log_gets_a_line_as_a_stage_begins_and_one_a_condition():
    log = StringIO()
    view = View(Console(file=log, width=80))
    with view.during("data", 0):
        view.note("passing")
    with view.during("train", 2):
        view.on_condition("a", {"state": "running", "step": 1, "of": 9})
        view.on_condition("a", {"state": "done"})
        view.on_condition("b", {"state": "failed", "cause": "long story\nthe loss is nan"})
    lines = log.getvalue().splitlines()
    assert lines[:2] == ["data: begins", "train: 2 conditions"]
    assert lines[2].startswith("  train 1/2 done | 0:00") and lines[2].endswith("a done")
    assert lines[3:] == ["  b FAILED: the loss is nan"]


def test_a_log_names_what_is_predicted_before_training_is_over():
    log = StringIO()
    view = View(Console(file=log, width=80))
    with view.during("train", 2):
        view.on_condition("a", {"state": "done"})
        view.on_predicted("a")
    assert log.getvalue().splitlines()[-1].startswith("  train 1/2 done | 1 predicted")
    assert log.getvalue().splitlines()[-1].endswith("  a predicted")
