"""Made worlds: what a sweep that stops early says against what the whole sweep says (200 of each: `bench/decisions.py`)."""

from functools import cache

import pytest

from bench.decisions import KINDS, Played, make_world, play, play_many

WORLDS, DRAWS = 8, 300


@cache
def played(kind, order="chosen") -> list[Played]:
    return play_many(KINDS[kind], WORLDS, DRAWS, order)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "one broken"])
def test_what_it_forecasts_is_what_the_whole_sweep_says(kind):
    found = played(kind)
    said = sum(p.decided + p.forecast for p in found)
    assert said > 0 and not any(p.wrongly_decided for p in found)
    assert sum(len(p.wrong) for p in found) <= 0.05 * said


def test_where_theory_holds_about_half_of_the_conditions_are_not_trained():
    found = played("right")
    assert sum(p.trained for p in found) / WORLDS <= 10.0
    assert sum(p.forecast for p in found) >= 4 * WORLDS


@pytest.mark.parametrize("kind", ["half", "none", "reversed", "weights only", "mixes only"])
def test_a_refuted_theory_forecasts_nothing(kind):
    assert not any(p.forecast for p in played(kind))


def test_a_condition_that_contradicts_theory_is_heard_whatever_the_others_say():
    world = make_world(KINDS["right"], 0)
    for name in ("accept_gamma8.0_prop1_2", "reject_gamma4.0_prop1_3"):
        off = world._replace(log_odds=world.log_odds | {name: world.log_odds[name] + 2.0})
        found = play(off, DRAWS)
        assert found.forecast == 0 and not found.wrongly_decided


def test_a_chosen_order_trains_fewer_than_a_random_one():
    chosen, at_random = (played("right", order) for order in ("chosen", "random"))
    assert sum(p.trained for p in chosen) < sum(p.trained for p in at_random)
