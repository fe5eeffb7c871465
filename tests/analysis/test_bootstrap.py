import numpy as np
import pytest
from sklearn import metrics as sk

from wlsweep.analysis import bootstrap as bs
from wlsweep.analysis.comparisons import difference_of_ece
from wlsweep.analysis.condition_metrics import calibration_noise
from wlsweep.analysis.metrics import calibration_error, equal_width_edges, probability, reliability
from wlsweep.estimate import Estimate


def world(seed, n, d=1.2):
    rng = np.random.default_rng(seed)
    accept = rng.random(n) < 0.5
    return accept, rng.normal(np.where(accept, d * d / 2, -d * d / 2), d)


def drawn(accept, log_odds, resamples):
    model = bs.columns(accept, log_odds)
    accepts = resamples.sums(accept[:, None].astype(np.float32))[:, 0].astype(np.float64)
    return bs.draws_of(resamples.sums(model.values), accepts, len(accept), model)


def test_every_resample_draws_n_rows_and_each_row_once_on_average():
    counts = bs.Resamples(300, 4000, seed=3).counts
    assert (counts.sum(axis=1) == 300).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(300), abs=0.08)
    assert counts.astype(float).var() == pytest.approx(1 - 1 / 300, rel=0.01)


def test_the_same_seed_gives_the_same_draws():
    assert np.array_equal(bs.Resamples(50, 20, 1).counts, bs.Resamples(50, 20, 1).counts)
    assert not np.array_equal(bs.Resamples(50, 20, 1).counts, bs.Resamples(50, 20, 2).counts)


def test_draws_equal_metrics_of_the_rows_drawn():
    accept, log_odds = world(0, 200)
    resamples = bs.Resamples(200, 60, seed=1)
    found = drawn(accept, log_odds, resamples)
    for i in range(60):
        rows = np.repeat(np.arange(200), resamples.counts[i])
        y, x = accept[rows], log_odds[rows]
        p, said = probability(x), x > 0
        expected = {
            "predicted_accept_rate": said.mean(),
            "accuracy": sk.accuracy_score(y, said),
            "precision": sk.precision_score(y, said),
            "recall": sk.recall_score(y, said),
            "precision_reject": sk.precision_score(~y, ~said),
            "recall_reject": sk.recall_score(~y, ~said),
            "f1": sk.f1_score(y, said),
            "brier": ((p - y) ** 2).mean(),
            "log_loss": sk.log_loss(y, p),
            "ece": calibration_error(reliability(y, p, equal_width_edges())),
            "log_odds": x.mean(),
        }
        for metric, value in expected.items():
            assert found[metric][i] == pytest.approx(value, rel=2e-5, abs=2e-6), metric


@pytest.mark.parametrize(
    ("metric", "function"), [("auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)]
)
def test_linearised_ranking_metrics_spread_as_resampling_them_would(metric, function):
    accept, log_odds = world(2, 400)
    resamples = bs.Resamples(400, 1500, seed=4)
    exact = np.array(
        [function(accept[r], log_odds[r]) for r in (np.repeat(np.arange(400), c) for c in resamples.counts)]
    )
    linear = drawn(accept, log_odds, resamples)[metric]
    assert np.corrcoef(exact, linear)[0, 1] > 0.98
    assert linear.std() == pytest.approx(exact.std(), rel=0.05)


def test_paired_intervals_of_differences_cover_about_95_times_in_100():
    def pair(rng, n):
        accept = rng.random(n) < 0.5
        log_odds = rng.normal(np.where(accept, 0.72, -0.72), 1.2)
        return accept, log_odds, log_odds + 0.7 + rng.normal(0, 0.3, n)

    def metrics(accept, x):
        p = probability(x)
        return {
            "accuracy": ((x > 0) == accept).mean(),
            "predicted_accept_rate": (x > 0).mean(),
            "brier": ((p - accept) ** 2).mean(),
            "recall": (x > 0)[accept].mean(),
        }

    accept, x, z = pair(np.random.default_rng(0), 1_000_000)
    base, other = metrics(accept, x), metrics(accept, z)
    true = {m: other[m] - base[m] for m in base}
    rng = np.random.default_rng(1)
    covered = dict.fromkeys(true, 0)
    for i in range(200):
        accept, x, z = pair(rng, 250)
        resamples = bs.Resamples(250, 500, seed=i)
        a, b = drawn(accept, z, resamples), drawn(accept, x, resamples)
        for m, value in true.items():
            low, high = bs.percentile(a[m] - b[m])
            covered[m] += low <= value <= high
    assert all(0.90 <= c / 200 <= 0.99 for c in covered.values()), covered


def test_a_metric_that_most_draws_lack_has_no_interval():
    assert bs.percentile(np.array([0.5, np.nan] * 50)) is None


def ece_of(accept, log_odds, draws):
    """Value, interval."""
    p = probability(log_odds)
    value = calibration_error(reliability(accept, p, equal_width_edges()))
    found = drawn(accept, log_odds, bs.Resamples(len(p), draws))["ece"]
    return value, bs.ece_interval(found, value, calibration_noise(p)[1])


@pytest.mark.parametrize("n", [250, 1000])
@pytest.mark.parametrize("stretch", [1.0, 1.1, 1.2, 1.5, 2.5])
def test_the_interval_of_ece_covers_that_of_calibrated_and_of_overconfident_models(stretch, n):
    accept, log_odds = world(99, 400_000)
    truth = calibration_error(reliability(accept, probability(stretch * log_odds), equal_width_edges()))
    covered = 0
    for seed in range(150):
        accept, log_odds = world(seed, n)
        value, (low, high) = ece_of(accept, stretch * log_odds, 250)
        assert 0 <= low <= value <= high
        covered += low <= truth <= high
    assert covered / 150 >= 0.87


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.7, 1.4])
def test_the_interval_of_a_difference_of_eces_covers(shift):
    accept, log_odds = world(99, 400_000)
    edges = equal_width_edges()
    truth = np.subtract(*(calibration_error(reliability(accept, probability(log_odds + s), edges)) for s in (shift, 0)))
    covered = 0
    for seed in range(100):
        accept, log_odds = world(seed, 500)
        (one, at), (other, base_at) = (ece_of(accept, log_odds + s, 250) for s in (shift, 0.0))
        found = difference_of_ece(Estimate(one, *at), Estimate(other, *base_at))
        covered += found.low <= truth <= found.high
    assert covered / 100 >= 0.93


def test_noise_is_what_calibrated_models_show():
    rng = np.random.default_rng(0)
    p = rng.beta(2, 2, 800)
    shown = [calibration_error(reliability(rng.random(800) < p, p, equal_width_edges())) for _ in range(2000)]
    mean, high = calibration_noise(p)
    assert mean == pytest.approx(np.mean(shown), rel=0.03) and high == pytest.approx(
        np.quantile(shown, 0.975), rel=0.05
    )
