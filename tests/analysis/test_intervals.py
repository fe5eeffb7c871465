import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from wlsweep.analysis import intervals as iv


def weighted(function, accept, log_odds, weights):
    return function(accept, log_odds, sample_weight=weights)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (1013, 2024)])
def test_wilson_interval_holds_exactly_the_shares_that_a_score_test_does_not_reject(hits, n):
    low, high = iv.wilson([hits], [n])[0]
    z = stats.norm.ppf(0.975)
    for edge in (low, high):
        if 0 < edge < 1:
            assert abs(hits / n - edge) / np.sqrt(edge * (1 - edge) / n) == pytest.approx(z, rel=1e-9)
    assert 0 <= low <= hits / n <= high <= 1


def test_no_rows_have_no_interval():
    assert iv.wilson([0, 3], [0, 4])[0] is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("influence", "function"),
    [(iv.auc, roc_auc_score), (iv.average_precision, average_precision_score)],
)
def test_influence_is_the_derivative_of_the_weighted_statistic(seed, ties, influence, function):
    rng = np.random.default_rng(seed)
    accept = np.arange(25) % 3 == 0
    log_odds = rng.normal(size=25) + accept
    log_odds = np.round(log_odds) if ties else log_odds
    value, found = influence(accept, log_odds)
    assert value == pytest.approx(function(accept, log_odds), rel=1e-12)
    step = 1e-6
    for i in range(25):
        up, down = np.ones(25), np.ones(25)
        up[i] += step
        down[i] -= step
        slope = (weighted(function, accept, log_odds, up) - weighted(function, accept, log_odds, down)) / (2 * step)
        assert found[i] == pytest.approx(slope, abs=1e-7)


def test_delong_variance_equals_brute_force_over_pairs():
    rng = np.random.default_rng(1)
    accept = rng.random(30) < 0.4
    log_odds = np.round(rng.normal(size=30) + accept, 1)
    a, r = log_odds[accept], log_odds[~accept]
    wins = (a[:, None] > r).astype(float) + 0.5 * (a[:, None] == r)
    variance = wins.mean(axis=1).var(ddof=1) / len(a) + wins.mean(axis=0).var(ddof=1) / len(r)
    got = iv.auc_estimate(accept, log_odds)
    assert got.value == pytest.approx(roc_auc_score(accept, log_odds), rel=1e-12)
    assert got.high - got.value == pytest.approx(stats.norm.ppf(0.975) * variance**0.5, rel=1e-12)


@pytest.mark.parametrize("metric", ["auc", "average_precision", "f1", "accuracy", "brier"])
def test_intervals_cover_the_true_value_about_95_times_in_100(metric):
    from wlsweep.analysis.condition_metrics import measure
    from wlsweep.run.predictions import Scores

    d = 1.2

    def draw(rng, n):
        accept = rng.random(n) < 0.5
        log_odds = rng.normal(np.where(accept, d * d / 2, -d * d / 2), d)
        return accept, Scores(log_odds, (log_odds > 0).astype(np.int8), np.zeros(n))

    truth = measure(*draw(np.random.default_rng(99), 400_000))[metric].value
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        found = measure(*draw(rng, 250))[metric]
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.985
