"""What metrics become when log-odds move: against closed forms, and against the metrics of moved log-odds."""

import numpy as np
import pytest
from scipy.stats import norm

from wlsweep.analysis.responses import GRID, STEP, linear, responses

D = 1.4


def made(n, seed=7):
    rng = np.random.default_rng(seed)
    accept = rng.random(n) < 0.5
    return accept, rng.normal(np.where(accept, D * D / 2, -D * D / 2), D)


def test_they_are_the_curves_of_the_binormal_model():
    found = responses(*made(100_000))
    for offset in (-1.55, -0.3, 0.0, 0.72, 2.1):
        accepts, rejects = norm.cdf((D * D / 2 + offset) / D), norm.cdf((-D * D / 2 + offset) / D)
        at = {name: float(r.at(np.array([offset]))[0]) for name, r in found.items()}
        assert at["predicted_accept_rate"] == pytest.approx((accepts + rejects) / 2, abs=0.006)
        assert at["accuracy"] == pytest.approx((accepts + 1 - rejects) / 2, abs=0.006)
        assert at["recall"] == pytest.approx(accepts, abs=0.006)
        assert at["log_odds"] == pytest.approx(offset, abs=0.02)


def test_slopes_are_derivatives_and_ranks_are_left_out():
    found = responses(*made(100_000))
    zero = np.zeros(1)
    density = norm.pdf(D / 2) / D
    assert found["predicted_accept_rate"].slope(zero)[0] == pytest.approx(density, abs=0.004)
    assert found["accuracy"].slope(zero)[0] == pytest.approx(0.0, abs=0.004), "at equal classes the best threshold is 0"
    assert found["log_odds"].slope(zero)[0] == pytest.approx(1.0)
    assert not {"auc", "average_precision"} & found.keys()


@pytest.mark.parametrize("offset", [GRID[0], GRID[17], GRID[-1]])
def test_on_the_grid_they_are_what_scikit_learn_says_of_moved_log_odds(offset):
    from sklearn.metrics import brier_score_loss, f1_score, log_loss, precision_score, recall_score

    accept, z = made(400)
    p = 1 / (1 + np.exp(-(z + offset)))
    want = {
        "precision": precision_score(accept, p > 0.5),
        "recall_reject": recall_score(~accept, p <= 0.5),
        "f1": f1_score(accept, p > 0.5),
        "brier": brier_score_loss(accept, p),
        "log_loss": log_loss(accept, p),
    }
    found = responses(accept, z)
    assert {name: float(found[name].at(np.array([offset]))[0]) for name in want} == pytest.approx(want, rel=1e-9)


def test_what_has_no_value_far_away_keeps_its_last_and_what_has_none_near_is_left_out():
    accept = np.array([True, False, True, False])
    found = responses(accept, np.array([0.5, 0.5, 0.5, -9.0]))
    assert found["precision"].at(np.array([0.0, -2.0])) == pytest.approx([2 / 3, 2 / 3])
    assert "precision" not in responses(accept, np.full(4, -STEP - 0.01))


def test_beyond_the_grid_they_go_on_straight():
    assert linear(0.5).at(np.array([-7.0, 1.0, 9.0])) == pytest.approx([-3.5, 0.5, 4.5])
    assert linear(0.5).change(np.array([2.0]))[0] == pytest.approx(1.0)
