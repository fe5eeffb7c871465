"""The oracle's intervals allow for what the conditions of a mix share."""

import numpy as np
import pytest

from bench.oracle import regression
from wlsweep.spec.config import load_sweep


def shifts():
    """Mix and expected shift of every condition of the 19 but the baseline."""
    conditions = load_sweep("search_spaces/oracle.toml").conditions[1:]
    return [c.proportion_text for c in conditions], np.array([c.signed_log_gamma - np.log(c.k - 1) for c in conditions])


def test_the_intervals_hold_the_noise_that_the_conditions_of_a_mix_share():
    rng = np.random.default_rng(0)
    mixes, expected = shifts()
    covered = np.zeros((2, 2))
    for _ in range(400):
        order = dict(zip(sorted(set(mixes)), rng.normal(0, 0.1, 4), strict=True))
        observed = expected + np.array([order[m] for m in mixes]) + rng.normal(0, 0.02, len(mixes))
        for n, by in enumerate((mixes, None)):
            interval = regression(expected, observed, by)[1]
            covered[n] += (interval[:, 0] <= [0, 1]) & (interval[:, 1] >= [0, 1])
    assert (covered[0] / 400 > 0.93).all()
    assert covered[1][0] / 400 < 0.75, "the intercept's, without the mixes"


def test_a_sweep_of_one_mix_has_an_interval_too():
    mixes, expected = shifts()
    one = np.array(mixes) == "1/2"
    observed = expected[one] + np.array([0.01, -0.01, 0.02, -0.02, 0.01, -0.01])
    (intercept, slope), interval = regression(expected[one], observed, ["1/2"] * one.sum())
    assert interval[0][0] < intercept < interval[0][1] and abs(slope - 1) < 0.02


def test_two_conditions_have_a_line_and_no_interval():
    (intercept, slope), interval = regression(np.array([-2.0, 2.0]), np.array([-1.8, 2.0]))
    assert intercept == pytest.approx(0.1) and slope == pytest.approx(0.95) and np.isnan(interval).all()
