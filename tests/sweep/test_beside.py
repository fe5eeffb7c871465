"""When engines start beside training, and which models they wait for."""

import threading
from types import SimpleNamespace

import pytest

from tests.made_run import make_run
from wlsweep.lease import hold
from wlsweep.predict import stage
from wlsweep.sweep.beside import Beside
from wlsweep.sweep.cluster import Room

STEP, NONE_YET = {"state": "running", "step": 10}, {"state": "running", "step": 0}
NAME = "baseline_gamma1.0_prop1_2"


@pytest.mark.parametrize(
    ("room", "news", "begins"),
    [
        (Room(1, 1, beside=1), [(NONE_YET, 5)], False),  # the group still waits for its room
        (Room(1, 1, beside=1), [(NONE_YET, 5), (STEP, 5)], True),
        (Room(2, 4), [(STEP, 5), (STEP, 2)], False),  # every group has work
        (Room(2, 4), [(STEP, 1)], True),  # one has gone home
        (Room(2, 4), [(NONE_YET, 1)], False),
        (Room(2, 4), [(STEP, None)], False),  # second stages will follow
        (Room(2, 4), [(STEP, 0)], False),  # the stage that follows predicts
        (Room(1, 4), [(STEP, 1)], False),
    ],
)
def test_engines_begin_once_a_group_trains_and_there_is_room(room, news, begins):
    beside = Beside(room)
    for metrics, left in news:
        beside.hear(metrics, left)
    assert beside.begin.is_set() == begins


@pytest.mark.parametrize(
    ("impatient", "held", "waits"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_an_engine_in_the_room_of_a_group_waits_only_for_what_somebody_trains(
    tmp_path, monkeypatch, impatient, held, waits
):
    monkeypatch.setattr(stage, "POLL_S", 0.01)
    monkeypatch.setattr(stage, "PATIENCE_S", 0.05)
    run, training = make_run(tmp_path, [NAME], n=20), tmp_path / "training"
    run.trained(NAME).unlink()
    training.touch()
    predictor = SimpleNamespace(run=run, training=training, impatient=impatient)
    waiting = threading.Thread(target=lambda: stage.Predictor._wait_for(predictor, NAME))
    if held:
        with hold(run.lease(NAME), "a group") as mine:
            assert mine
            waiting.start()
            waiting.join(timeout=1)
            assert waiting.is_alive() == waits
            training.unlink()
    else:
        waiting.start()
        waiting.join(timeout=1)
        assert waiting.is_alive() == waits
        training.unlink(missing_ok=True)
    waiting.join(timeout=5)
    assert not waiting.is_alive()
