"""Second implementations, written from the definitions, for figures that no library gives; to 1e-12."""

import math
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.calibration import calibration_curve

from tests.analysis.test_metrics import CLOSE, arrays, rows, scored
from wlsweep.analysis import metrics as m
from wlsweep.analysis.condition_metrics import calibration_noise, curves, measure, probabilistic
from wlsweep.analysis.intervals import estimate_of_mean, wilson
from wlsweep.analysis.seeds import over_seeds
from wlsweep.analysis.theory import calibration

Z = stats.norm.ppf(0.975)


def in_bin(p, low, high):
    return (p > low) & (p <= high) | ((low == 0) & (p == 0))


@given(rows)
@settings(max_examples=150, deadline=None)
def test_log_loss_is_the_logarithm_of_one_plus_the_odds_against_the_label(drawn):
    accept, log_odds, _ = arrays(drawn)
    cap = -math.log(2.0**-52)
    against = [-x if a else x for a, x in zip(accept, log_odds, strict=True)]
    expected = [min(cap, math.log1p(math.exp(x)) if x < 0 else x + math.log1p(math.exp(-x))) for x in against]
    assert probabilistic(accept, log_odds)["log_loss"].value == pytest.approx(
        math.fsum(expected) / len(accept), **CLOSE
    )


@given(rows)
@settings(max_examples=150, deadline=None)
def test_equal_mass_error_equals_going_through_its_bins(drawn):
    accept, log_odds, _ = arrays(drawn)
    p = m.probability(log_odds)
    edges = sorted({0.0, 1.0, *(float(np.quantile(p, i / 10)) for i in range(1, 10))})
    gap = sum(
        abs(p[inside].sum() - accept[inside].sum())
        for low, high in pairwise(edges)
        if (inside := in_bin(p, low, high)).any()
    )
    assert probabilistic(accept, log_odds)["ece_equal_mass"].value == pytest.approx(gap / len(p), **CLOSE)


@given(rows)
@settings(max_examples=150, deadline=None)
def test_each_brier_part_equals_its_definition_row_by_row(drawn):
    accept, log_odds, _ = arrays(drawn)
    p, base = m.probability(log_odds), accept.mean()
    edges = m.equal_width_edges()
    reliability = resolution = 0.0
    for q in p:
        low, high = next((a, b) for a, b in pairwise(edges) if in_bin(np.array([q]), a, b)[0])
        mine = in_bin(p, low, high)
        reliability += (p[mine].mean() - accept[mine].mean()) ** 2
        resolution += (accept[mine].mean() - base) ** 2
    found = m.brier_parts(accept, p, edges)
    assert found.reliability == pytest.approx(reliability / len(p), **CLOSE)
    assert found.resolution == pytest.approx(resolution / len(p), **CLOSE)
    assert found.uncertainty == pytest.approx(base * (1 - base), **CLOSE)


@pytest.mark.parametrize("seed", range(5))
def test_the_reliability_curve_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    accept, log_odds = rng.random(300) < 0.4, rng.normal(0, 2, 300)
    found = curves(accept, scored(log_odds)).reliability
    share, said = calibration_curve(accept, m.probability(log_odds), n_bins=10)
    assert [b.share.value for b in found] == pytest.approx(share, **CLOSE)
    assert [b.mean_p for b in found] == pytest.approx(said, **CLOSE)


@given(rows)
@settings(max_examples=100, deadline=None)
def test_chance_calibration_error_equals_its_sum_over_bins(drawn):
    p = m.probability(arrays(drawn)[1])
    edges = m.equal_width_edges()
    expected = sum(
        math.sqrt(2 / math.pi * math.fsum(q * (1 - q) for q in p[in_bin(p, low, high)]))
        for low, high in pairwise(edges)
    )
    assert calibration_noise(p)[0] == pytest.approx(expected / len(p), **CLOSE)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0])), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_coverage_accuracy_is_the_mean_over_all_orders_of_tied_rows(drawn):
    accept, log_odds = (np.array(x) for x in zip(*drawn, strict=True))
    n = len(accept)
    right = [bool((x > 0) == a) for a, x in drawn]
    orders = [o for o in permutations(range(n)) if all(abs(log_odds[a]) >= abs(log_odds[b]) for a, b in pairwise(o))]
    for share, k, found in m.coverage_accuracy(accept, log_odds, np.arange(1, n + 1) / n):
        expected = Fraction(sum(sum(right[i] for i in o[:k]) for o in orders), k * len(orders))
        assert share == pytest.approx(k / n, **CLOSE)
        assert found == pytest.approx(float(expected), **CLOSE)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 9), (3, 9), (9, 9), (1013, 2024), (1, 20_000)])
def test_wilson_equals_its_formula(hits, n):
    centre = (hits + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * math.sqrt(hits * (n - hits) / n + Z * Z / 4)
    assert wilson([hits], [n])[0] == pytest.approx((max(centre - half, 0), min(centre + half, 1)), **CLOSE)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_the_interval_of_a_mean_is_that_of_a_t_test(n):
    values = np.random.default_rng(n).random(n)
    found = estimate_of_mean(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((max(expected.low, 0), expected.high), **CLOSE)


def test_over_seeds_adds_both_variances_with_satterthwaites_degrees():
    values = np.array([0.5, 0.6, 0.55])
    draws = np.random.default_rng(0).normal(values, 0.01, (500, 3))
    between, papers = values.var(ddof=1) / 3, draws.mean(axis=1).var(ddof=1)
    degrees = (between + papers) ** 2 / (between**2 / 2)  # papers: so many that their variance counts as known
    half = stats.t.ppf(0.975, degrees) * math.sqrt(between + papers)
    found = over_seeds(values, draws)
    assert (found.mean.low, found.mean.high) == pytest.approx((0.55 - half, 0.55 + half), **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_is_where_the_likelihood_is_largest_with_errors_from_its_curvature(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1.5, 400)
    y = rng.random(400) < m.probability(0.3 + 0.7 * x)

    def score(beta, columns, offset=0.0):
        return columns.T @ (y - m.probability(columns @ beta + offset))

    one, both = np.ones((400, 1)), np.column_stack([np.ones(400), x])
    large = optimize.root(score, [0.0], args=(one, x), tol=1e-14).x
    cox = optimize.root(score, [0.0, 1.0], args=(both,), tol=1e-14).x

    def errors(beta, columns, offset=0.0):
        p = m.probability(columns @ beta + offset)
        return np.sqrt(np.diag(np.linalg.inv(columns.T @ (columns * (p * (1 - p))[:, None]))))

    found = calibration(y, x)
    assert (found.offset, found.slope) == pytest.approx((large[0], cox[1]), rel=1e-8)
    # the library's errors have the curvature one step before the optimum
    assert found.offset_error == pytest.approx(errors(large, one, x)[0], rel=1e-5)
    assert found.slope_error == pytest.approx(errors(cox, both)[1], rel=1e-5)


@pytest.mark.parametrize(
    ("accept", "log_odds"),
    [([True], [1.0]), ([False], [1.0]), ([True, True], [700.0, -700.0]), ([False] * 3, [0.0] * 3)],
    ids=["one accept", "one reject", "p of exactly 1 and 0", "none accepted, all tied"],
)
def test_edges_have_every_number_that_exists_and_none_that_does_not(accept, log_odds):
    found = measure(np.array(accept), scored(np.array(log_odds)))
    assert found["auc"].value is None
    assert (found["average_precision"].value is None) == (not any(accept))
    assert (found["recall"].value is None) == (not any(accept))
    for key, value in found.flat().items():
        if isinstance(value, float):
            assert math.isfinite(value), key
    for metric in ("accuracy", "predicted_accept_rate"):
        assert 0 <= found[metric].low <= found[metric].value <= found[metric].high <= 1


def test_where_the_variance_says_nothing_there_is_no_interval():
    accept, log_odds = np.array([True, True, False, False]), np.array([2.0, 1.0, -1.0, -2.0])
    found = probabilistic(accept, log_odds)
    assert found["auc"].value == found["average_precision"].value == 1
    assert found["auc"].low is None and found["average_precision"].low is None
    brier = estimate_of_mean(np.array([0.0, 1.0]), most=1.0)
    assert (brier.low, brier.high) == (0.0, 1.0)
