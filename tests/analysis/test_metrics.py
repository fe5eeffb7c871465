import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from wlsweep.analysis import metrics as m
from wlsweep.analysis.condition_metrics import measure, probabilistic, readings
from wlsweep.analysis.intervals import estimates_of_counts
from wlsweep.run.predictions import Scores

CLOSE = {"rel": 1e-12, "abs": 1e-12}
LEVELS = [-800.0, -40.0, -2.0, -0.5, 0.0, 0.5, 2.0, 40.0, 800.0]

rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from(LEVELS) | st.floats(-5, 5), st.sampled_from([1, 0, -1])),
    min_size=1,
    max_size=40,
)


def arrays(drawn):
    accept, log_odds, parsed = zip(*drawn, strict=True)
    return np.array(accept), np.clip(np.array(log_odds), -700, 700), np.array(parsed, dtype=np.int8)


def scored(log_odds, parsed=None):
    parsed = (log_odds > 0).astype(np.int8) if parsed is None else parsed
    return Scores(log_odds, parsed, np.zeros(len(log_odds)))


@given(rows)
@settings(max_examples=200, deadline=None)
def test_every_rate_equals_scikit_learn_on_the_margin_and_on_parsed_answers(drawn):
    accept, log_odds, parsed = arrays(drawn)
    found = readings(accept, scored(log_odds, parsed))
    known = parsed >= 0
    for reading, y, said in (
        ("margin", accept, log_odds > 0),
        ("parsed", accept[known], parsed[known] == 1),
    ):
        got = found[reading]
        if not len(y):
            assert all(e.value is None for e in got.values())
            continue
        assert got["accuracy"].value == pytest.approx(sk.accuracy_score(y, said), **CLOSE)
        assert got["predicted_accept_rate"].value == pytest.approx(said.mean(), **CLOSE)
        assert got["actual_accept_rate"].value == pytest.approx(y.mean(), **CLOSE)
        for name, function, positive, exists in (
            ("precision", sk.precision_score, True, said.any()),
            ("precision_reject", sk.precision_score, False, (~said).any()),
            ("recall", sk.recall_score, True, y.any()),
            ("recall_reject", sk.recall_score, False, (~y).any()),
            ("f1", sk.f1_score, True, said.any() or y.any()),
            ("f1_reject", sk.f1_score, False, (~said).any() or (~y).any()),
        ):
            if exists:
                assert got[name].value == pytest.approx(function(y, said, pos_label=positive, zero_division=0), **CLOSE)
            else:
                assert got[name].value is None


@given(rows)
@settings(max_examples=200, deadline=None)
def test_strict_reading_counts_an_unknown_answer_as_wrong_and_as_neither_label(drawn):
    accept, log_odds, parsed = arrays(drawn)
    got = readings(accept, scored(log_odds, parsed))["strict"]
    hits = sum((p == 1) if a else (p == 0) for a, p in zip(accept, parsed, strict=True))
    assert got["accuracy"].value == pytest.approx(hits / len(accept), **CLOSE)
    assert got["predicted_accept_rate"].value == pytest.approx(sum(parsed == 1) / len(accept), **CLOSE)
    assert got["unknown_rate"].value == pytest.approx(sum(parsed == -1) / len(accept), **CLOSE)
    if accept.any():
        assert got["recall"].value == pytest.approx(sum(parsed[accept] == 1) / accept.sum(), **CLOSE)
    else:
        assert got["recall"].value is None


@given(rows)
@settings(max_examples=200, deadline=None)
def test_probability_metrics_equal_scikit_learn_and_brute_force(drawn):
    accept, log_odds, _ = arrays(drawn)
    got = probabilistic(accept, log_odds)
    p = np.array([1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x)) for x in log_odds])
    assert got["brier"].value == pytest.approx(
        sum((a - q) ** 2 for a, q in zip(accept, p, strict=True)) / len(p), **CLOSE
    )
    with np.errstate(all="ignore"):
        expected = sk.log_loss(accept, p, labels=[False, True])
    # near p = 1 the probability itself has lost digits that the log-odds still hold
    assert got["log_loss"].value == pytest.approx(expected, rel=1e-12, abs=1e-9)
    a, r = log_odds[accept], log_odds[~accept]
    if len(a) and len(r):
        wins = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in r)
        assert got["auc"].value == pytest.approx(wins / (len(a) * len(r)), **CLOSE)
    else:
        assert got["auc"].value is None
    if len(a):
        precision = [accept[log_odds >= x].mean() for x in a]
        assert got["average_precision"].value == pytest.approx(float(np.mean(precision)), **CLOSE)
    gap = 0.0
    for b in range(10):
        low, high = np.linspace(0, 1, 11)[b : b + 2]
        inside = (p > low) & (p <= high) | ((b == 0) & (p == 0))
        gap += abs(p[inside].sum() - accept[inside].sum())
    assert got["ece"].value == pytest.approx(gap / len(p), **CLOSE)


@given(rows)
@settings(max_examples=100, deadline=None)
def test_brier_parts_sum_to_the_score_and_the_within_part_is_the_spread_inside_bins(drawn):
    accept, log_odds, _ = arrays(drawn)
    p = m.probability(log_odds)
    edges = m.equal_width_edges()
    parts = m.brier_parts(accept, p, edges)
    index = m.bin_of(p, edges)
    within = 0.0
    for b in set(index):
        q, y = p[index == b], accept[index == b]
        within += ((q - q.mean()) ** 2).sum() - 2 * ((q - q.mean()) * (y - y.mean())).sum()
    assert parts.within == pytest.approx(within / len(p), **CLOSE)
    total = parts.reliability - parts.resolution + parts.uncertainty + within / len(p)
    assert total == pytest.approx(float(((p - accept) ** 2).mean()), **CLOSE)


@given(rows)
@settings(max_examples=100, deadline=None)
def test_equal_mass_bins_hold_every_row_once_and_never_split_ties(drawn):
    accept, log_odds, _ = arrays(drawn)
    p = m.probability(log_odds)
    edges = m.equal_mass_edges(p)
    assert sum(b.n for b in m.reliability(accept, p, edges)) == len(p)
    index = m.bin_of(p, edges)
    assert all(len(set(index[p == q])) == 1 for q in set(p))


@given(rows, st.randoms())
@settings(max_examples=100, deadline=None)
def test_coverage_accuracy_ignores_row_order_and_ends_at_the_accuracy(drawn, random):
    accept, log_odds, _ = arrays(drawn)
    shares = np.arange(1, 11) / 10
    curve = m.coverage_accuracy(accept, log_odds, shares)
    order = list(range(len(accept)))
    random.shuffle(order)
    again = m.coverage_accuracy(accept[order], log_odds[order], shares)
    assert np.allclose(curve, again, rtol=0, atol=1e-12)
    assert curve[-1] == pytest.approx((1.0, len(accept), ((log_odds > 0) == accept).mean()))


def test_coverage_accuracy_equals_a_hand_worked_case():
    accept = np.array([True, True, False, False])
    log_odds = np.array([3.0, -2.0, -1.0, 0.5])
    assert m.coverage_accuracy(accept, log_odds, np.array([0.25, 0.5, 0.75, 1.0])) == [
        (0.25, 1, 1.0),
        (0.5, 2, 0.5),
        (0.75, 3, pytest.approx(2 / 3)),
        (1.0, 4, 0.5),
    ]


def test_a_year_with_one_class_has_accuracy_but_no_auc():
    found = measure(np.array([True, True]), scored(np.array([1.0, -1.0])))
    assert [found[m].value for m in ("accuracy", "auc", "recall_reject")] == [0.5, None, None]
    assert found["recall_reject"].n == 0


def test_f1_interval_carries_the_wilson_interval_of_the_shared_hits():
    c = m.Counts(tp=30, fn=10, unknown_accept=5, fp=15, tn=40, unknown_reject=0)
    got = estimates_of_counts({"margin": c})["margin"]["f1"]
    assert got.value == pytest.approx(2 * 30 / (2 * 30 + 15 + 15))
    assert got.n == 60
    assert got.low < got.value < got.high
