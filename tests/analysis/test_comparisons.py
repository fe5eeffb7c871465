from math import comb

import numpy as np
import pytest

from wlsweep.analysis import comparisons as compare
from wlsweep.analysis.theory import moved_threshold


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 9), (9, 3), (6, 6), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test_of_the_rows_where_one_is_right(b, c):
    correct = np.r_[np.ones(b, bool), np.zeros(c, bool), np.ones(5, bool), np.zeros(4, bool)]
    other = np.r_[np.zeros(b, bool), np.ones(c, bool), np.ones(5, bool), np.zeros(4, bool)]
    tail = sum(comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
    found = compare.mcnemar(correct, other)
    assert (found.only_this, found.only_other) == (b, c)
    assert found.p == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_holm_multiplies_the_smallest_p_by_the_declared_family_and_never_falls():
    p = [0.01, None, 0.03, 0.02]
    # by hand over 5 declared tests: sorted .01*5, .02*4, .03*3, running maximum
    assert compare.holm(p, 5) == [pytest.approx(0.05), None, pytest.approx(0.09), pytest.approx(0.08)]


def test_an_unfinished_sweep_is_corrected_as_hard_as_the_whole_one():
    assert compare.holm([0.01], 18)[0] == pytest.approx(0.18)


def test_holm_without_any_test_is_none():
    assert compare.holm([None, None], 3) == [None, None]


@pytest.mark.parametrize("accepted", [0, 1, 5, 12])
def test_moved_threshold_accepts_the_rows_it_is_surest_of(accepted):
    log_odds = np.random.default_rng(0).normal(size=12)
    decision = moved_threshold(log_odds, accepted)
    assert decision.sum() == accepted
    if 0 < accepted < 12:
        assert log_odds[decision].min() > log_odds[~decision].max()


def test_ties_at_the_moved_threshold_do_not_follow_the_order_of_the_test_set():
    accept = np.arange(4000) < 2000  # sorted by label, under a baseline that says the same of every paper
    decision = moved_threshold(np.zeros(4000), 2000)
    assert decision.sum() == 2000
    assert (decision == accept).mean() == pytest.approx(0.5, abs=0.03)
    assert np.array_equal(decision, moved_threshold(np.zeros(4000), 2000))


def test_rows_above_the_moved_threshold_are_taken_before_ties():
    assert moved_threshold(np.array([0.0, 1.0, 0.0, 0.0]), 2)[1]


@pytest.mark.parametrize("seed", range(20))
def test_holm_equals_stepping_down_one_rejection_at_a_time(seed):
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(7) ** 3, 2).tolist()  # with ties
    family = 7 + seed % 4
    padded = np.array(p + [1.0] * (family - 7))
    # the adjusted p of a test is the smallest level at which Holm's procedure rejects it
    order = np.argsort(padded, kind="stable")
    least, level = {}, 0.0
    for step, i in enumerate(order):
        level = max(level, min(1.0, padded[i] * (family - step)))
        least[int(i)] = level
    found = compare.holm(p, family)
    assert found == pytest.approx([least[i] for i in range(7)], rel=1e-12)
