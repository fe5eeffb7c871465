"""When engines start beside training, and which models they wait for."""

import threading
from contextlib import nullcontext

import pytest

from tests.made_run import make_run
from wlsweep.orchestrate.capacity import Capacity
from wlsweep.orchestrate.predicting import OverlappedPrediction
from wlsweep.predict import waiting
from wlsweep.run.lease import hold

A, B, C = "a", "b", "c"
NAME, OTHER = "baseline_gamma1.0_prop1_2", "accept_gamma2.0_prop1_2"
ROOM_OF_A_GROUP, NO_ROOM = Capacity(2, 4, late=3), Capacity(2, 4)


@pytest.mark.parametrize(
    ("capacity", "news", "begins"),
    [
        (Capacity(1, 1, beside=1), [(A, 0, {A, B, C})], False),  # the group still waits for its room
        (Capacity(1, 1, beside=1), [(A, 0, {A, B, C}), (A, 10, {A, B, C})], True),
        (ROOM_OF_A_GROUP, [(A, 10, {A, B, C}), (B, 10, {B, C})], False),  # every group has work
        (ROOM_OF_A_GROUP, [(B, 10, {B, C}), (A, 90, {B})], True),  # one has gone home
        (ROOM_OF_A_GROUP, [(A, 90, {B})], False),  # nobody trains what is left: its group waits for room
        (ROOM_OF_A_GROUP, [(A, 90, {B}), (B, 10, {B})], True),
        (ROOM_OF_A_GROUP, [(A, 90, set())], False),  # the stage that follows predicts
        (NO_ROOM, [(B, 10, {B})], False),
    ],
)
def test_engines_begin_once_a_group_trains_and_there_is_room(capacity, news, begins):
    beside = OverlappedPrediction(None, capacity, None)
    for name, step, going in news:
        beside.hear(name, {"step": step}, going, last=True)
    assert beside.begin.is_set() == begins


def test_a_group_that_goes_home_before_second_stages_begin_leaves_its_room_to_them():
    beside = OverlappedPrediction(None, ROOM_OF_A_GROUP, None)
    beside.hear(B, {"step": 10}, {B}, last=False)
    assert not beside.begin.is_set()


@pytest.mark.parametrize(
    ("late", "held", "waits"),
    [
        (True, NAME, True),
        (True, OTHER, False),
        (True, None, False),
        (False, NAME, True),
        (False, OTHER, True),  # this one is to come
        (False, None, False),
    ],
)
def test_an_engine_waits_for_what_is_trained_and_an_early_one_for_what_comes_later(
    tmp_path, monkeypatch, late, held, waits
):
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.05)
    run, training = make_run(tmp_path, [NAME, OTHER], n=20), tmp_path / "training"
    run.trained(NAME).unlink()
    training.touch()
    thread = threading.Thread(target=waiting.ModelWait(str(run.root), [NAME, OTHER], training, late), args=(NAME,))
    with hold(run.lease(held), "a group") if held else nullcontext(True) as mine:
        assert mine
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive() == waits
        training.unlink()
    thread.join(timeout=5)
    assert not thread.is_alive()
