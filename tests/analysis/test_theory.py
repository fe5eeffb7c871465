import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from wlsweep.analysis.bootstrap import Resamples
from wlsweep.analysis.theory import Calibration, calibration, expected_shift, forecast
from wlsweep.run.data_record import ClassCounts
from wlsweep.spec.condition import parse_name

MIXES = {
    "1/2": ClassCounts(accepts=8553, rejects=8548),
    "1/3": ClassCounts(accepts=5702, rejects=11399),
    "1/4": ClassCounts(accepts=4276, rejects=12825),
    "1/8": ClassCounts(accepts=2135, rejects=14966),
}


@pytest.mark.parametrize(
    "name",
    ["accept_gamma2.0_prop1_3", "reject_gamma4.0_prop1_8", "accept_gamma8.0_prop1_2", "baseline_gamma1.0_prop1_4"],
)
@pytest.mark.parametrize("mixes", [{}, MIXES], ids=["nominal", "counted"])
def test_expected_shift_is_what_minimises_the_weighted_loss(name, mixes):
    """For a paper of posterior q on the balanced source: the log-odds of least expected weighted loss on the mix."""
    c = parse_name(name)
    nominal = {"1/2": ClassCounts(accepts=1, rejects=1), f"1/{c.k}": ClassCounts(accepts=1, rejects=c.k - 1)}
    (a, r), (a2, r2) = ((m.accepts, m.rejects) for m in map((mixes or nominal).get, (f"1/{c.k}", "1/2")))
    wa, wr = c.weights
    for q in (0.1, 0.5, 0.8):
        # density of the mix: accepts re-weighted by a/a2, rejects by r/r2
        qa, qr = q * a / a2, (1 - q) * r / r2

        def slope(x, qa=qa, qr=qr):
            p = 1 / (1 + math.exp(-x))
            return -wa * qa * (1 - p) + wr * qr * p

        best = brentq(slope, -20, 20, xtol=1e-13)
        assert best - math.log(q / (1 - q)) == pytest.approx(expected_shift(c, mixes).value, abs=1e-9)


def test_accept_gamma_2_at_one_third_is_expected_to_match_the_baseline():
    assert expected_shift(parse_name("accept_gamma2.0_prop1_3"), {}).value == pytest.approx(0.0, abs=1e-15)
    assert expected_shift(parse_name("accept_gamma2.0_prop1_3"), MIXES).value == pytest.approx(0.0, abs=1e-3)


def test_inverse_frequency_weights_undo_the_mix_exactly():
    c = parse_name("accept_gamma4.0_prop1_8_inverse")
    expected = math.log(4) - math.log(8553 / 8548)
    assert expected_shift(c, MIXES).value == pytest.approx(expected, abs=1e-12)


def test_effective_number_weights_lie_between_none_and_inverse():
    shifts = [
        expected_shift(parse_name(f"accept_gamma4.0_prop1_8{b}"), MIXES, beta=0.9999).value
        for b in ("", "_effective", "_inverse")
    ]
    assert shifts == sorted(shifts) and len(set(shifts)) == 3


@pytest.mark.parametrize("name", ["baseline_gamma1.0_prop1_2_focal2.0", "accept_gamma2.0_prop1_2_smooth0.10"])
def test_losses_that_bend_the_log_odds_have_no_forecast_and_say_so(name):
    shift = expected_shift(parse_name(name), {})
    assert not shift.covered and "bends" in shift.note


def gaussian(n, d=1.4, seed=0):
    accept = np.arange(n) % 2 == 0
    return accept, np.random.default_rng(seed).normal(np.where(accept, d * d / 2, -d * d / 2), d)


def test_forecast_of_a_gaussian_world_equals_its_closed_form():
    d, n = 1.4, 200_000
    accept, log_odds = gaussian(n, d)
    shifts = {"a": 1.0, "b": -2.0}
    made = forecast(accept, log_odds, shifts, Resamples(n, 2))
    for name, s in shifts.items():
        recall = norm.cdf((s + d * d / 2) / d)
        alarms = norm.cdf((s - d * d / 2) / d)
        assert made.point[name]["recall"][0] == pytest.approx(recall, abs=0.005)
        assert made.point[name]["predicted_accept_rate"][0] == pytest.approx((recall + alarms) / 2, abs=0.005)
        assert made.point[name]["accuracy"][0] == pytest.approx((recall + 1 - alarms) / 2, abs=0.005)
        assert made.point[name]["precision"][0] == pytest.approx(recall / (recall + alarms), abs=0.005)


def test_forecast_draws_equal_shifting_the_rows_drawn():
    accept, log_odds = gaussian(150)
    resamples = Resamples(150, 40, seed=2)
    made = forecast(accept, log_odds, {"c": 0.6}, resamples)
    for i in range(40):
        rows = np.repeat(np.arange(150), resamples.counts[i])
        said = log_odds[rows] + 0.6 > 0
        assert made.draws["c"]["predicted_accept_rate"][i] == pytest.approx(said.mean(), abs=1e-12)
        assert made.draws["c"]["accuracy"][i] == pytest.approx((said == accept[rows]).mean(), abs=1e-12)


def test_a_worse_calibrated_baseline_forecasts_less_surely():
    accept, log_odds = gaussian(400)
    widths = []
    for known in (None, Calibration(0.05, 0.05, 0.95, 0.05), Calibration(0.6, 0.1, 0.5, 0.1)):
        rates = forecast(accept, log_odds, {"c": 0.7}, Resamples(400, 2000), known).draws["c"]
        widths.append(np.ptp(np.quantile(rates["predicted_accept_rate"], [0.025, 0.975])))
    assert widths == sorted(widths) and widths[2] > 1.5 * widths[0]


def test_forecast_intervals_hold_what_a_calibrated_retraining_then_shows():
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        accept, true = gaussian(300, seed=seed)
        # baseline and condition each miss the truth by an offset of their own, as two trainings do
        base, other = true + rng.normal(0, 0.15), true + 0.7 + rng.normal(0, 0.15)
        known = calibration(accept, base)
        draws = forecast(accept, base, {"c": 0.7}, Resamples(300, 400, seed), known).draws["c"]
        low, high = np.quantile(draws["predicted_accept_rate"], [0.025, 0.975])
        held += low <= (other > 0).mean() <= high
    assert held / 200 >= 0.93


def test_calibration_finds_a_known_offset_and_slope():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 60_000)
    accept = rng.random(60_000) < 1 / (1 + np.exp(-true))
    found = calibration(accept, (true - 0.4) / 0.8)  # logit P = 0.4 + 0.8 * said
    assert found.slope == pytest.approx(0.8, abs=4 * found.slope_error)
    assert found.slope_error < 0.02
    assert calibration(accept, true - 0.3).offset == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("accept", "log_odds"),
    [
        ([True] * 6, range(6)),
        ([False] * 6, range(6)),
        ([True, False] * 3, [0.0] * 6),
        ([False] * 3 + [True] * 3, range(6)),
    ],
    ids=["all accept", "none", "constant", "separated"],
)
def test_labels_that_cannot_tell_calibration_give_none(accept, log_odds):
    assert calibration(np.array(accept), np.array(list(log_odds), dtype=float)) is None
