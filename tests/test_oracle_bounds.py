"""The oracle's intervals allow for what the conditions of a mix share, and its rates for what all conditions share."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from bench.oracle import STRICT, ece, ece_by_chance, expected_shift, judge, regression
from tests.made_run import THE_19, make_run, write_predictions
from wlsweep.run.layout import read_json
from wlsweep.spec.condition import parse_name
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


def rates_inside(tmp_path, papers_error, gamma_works=True):
    """How many of 19 rates the oracle accepts where every model learnt the same error from the papers that all share."""
    run = make_run(tmp_path / "run", n=2000, unknown_share=0.0)
    true = pd.read_parquet(run.test_parquet)["true_log_odds"].to_numpy()
    mixes = read_json(run.data_json)["mixes"]
    counts = {k: (m["accepts"], m["rejects"]) for k, m in mixes.items()}
    rng = np.random.default_rng(0)
    for name in THE_19:
        c = parse_name(name)
        shift = expected_shift(c, counts) * (gamma_works or c.gamma == 1)
        write_predictions(run, name, papers_error(true) + shift + rng.normal(0, 0.01, len(true)))
    (check,) = [c for c in judge(run, STRICT)[0] if "binomial" in c.claim]
    return int(check.value.split(" of ")[0]), check.holds


def test_what_all_conditions_learnt_of_their_papers_is_one_error_and_not_nineteen(tmp_path):
    """Papers of true log-odds 1.5 to 3 were accepted more often than their posterior says: all scores are higher there."""
    assert rates_inside(tmp_path / "a", lambda true: true + 0.3 * ((true > 1.5) & (true < 3))) == (19, True)
    assert rates_inside(tmp_path / "b", lambda true: true + 0.3) == (18, True), "the baseline's own rate is the truth's"
    assert rates_inside(tmp_path / "c", lambda true: true, gamma_works=False)[1] is False


def test_true_probabilities_exceed_the_calibration_error_of_chance_in_5_of_100_draws_and_bent_ones_in_most():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 2, 1000)
    bound, labels = ece_by_chance(expit(true)), rng.random((400, 1000)) < expit(true)
    assert np.mean([ece(expit(true), y) > bound for y in labels]) == pytest.approx(0.05, abs=0.03)
    assert np.mean([ece(expit(1.6 * true), y) > bound for y in labels]) > 0.8
