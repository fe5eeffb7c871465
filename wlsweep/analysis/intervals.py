"""95% intervals: Wilson for shares, DeLong for AUC, jackknife for average precision; papers and trainings together.

    >>> wilson([2], [3])[0]
    Interval(low=0.20765..., high=0.93850...)

An *influence* is the derivative of a statistic with respect to the weight of each row, scaled so that the statistic of
a re-weighted sample is about `value + weights @ influence`. It gives the variance here and makes ranking statistics
linear in `bootstrap`, where sorting 10,000 times would be out of reach. For AUC it is DeLong's placement value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wlsweep.analysis.evaluation_records import Counts, MetricName
from wlsweep.analysis.metrics import Rate, rates
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import BoolArray, FloatArray

LEVEL = 0.95
"""Level of every interval."""


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


def wilson(hits: Sequence[float], n: Sequence[int]) -> list[Interval | None]:
    """Wilson score intervals of shares, None of no rows (Wilson 1927)."""
    from statsmodels.stats.proportion import proportion_confint

    rows = np.asarray(n, dtype=np.float64)
    low, high = proportion_confint(
        np.asarray(hits, dtype=np.float64), np.maximum(rows, 1), alpha=1 - LEVEL, method="wilson"
    )
    # of none or of all hits the library's ends miss 0 and 1 by a rounding error, on either side
    return [
        Interval(0.0 if h == 0 else float(a), 1.0 if h == m else float(b)) if m else None
        for a, b, h, m in zip(low, high, hits, rows, strict=True)
    ]


def estimates_of_counts(counts: dict[str, Counts]) -> dict[str, dict[MetricName, Estimate]]:
    """Shares and F1 of several cross-tables with their Wilson intervals, worked out together because calls are dear.

    F1 = 2J / (1 + J) grows with the share J = hits / (hits + misses + false alarms), so J's Wilson interval is carried
    through; unlike the usual delta method it stays within [0, 1].
    """
    shares = {name: rates(c) | _overlaps(c) for name, c in counts.items()}
    asked = [r for mine in shares.values() for r in mine.values()]
    at = iter(wilson([r.hits for r in asked], [r.n for r in asked]))
    return {name: {key: _estimate(key, r, next(at)) for key, r in mine.items()} for name, mine in shares.items()}


def _overlaps(c: Counts) -> dict[MetricName, Rate]:
    """By name of the F1, the share J behind it."""
    accepts, rejects = c.tp + c.fn + c.unknown_accept, c.fp + c.tn + c.unknown_reject
    return {"f1": Rate(c.tp, c.fp + accepts), "f1_reject": Rate(c.tn, c.fn + rejects)}


def _estimate(key: str, rate: Rate, at: Interval | None) -> Estimate:
    if at is None or rate.value is None:
        return Estimate(None, None, None, 0)
    if key.startswith("f1"):
        value, low, high = (2 * j / (1 + j) for j in (rate.value, *at))
        return Estimate(value, low, high, rate.n)
    return Estimate(rate.value, at.low, at.high, rate.n)


def estimate_of_mean(values: FloatArray, most: float = np.inf) -> Estimate:
    """A mean over rows of losses between 0 and `most`, with its t interval cut to that; no interval of one row."""
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return Estimate(None, None, None, 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * float(values.std(ddof=1)) / n**0.5
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, most), n)


def auc(accept: BoolArray, log_odds: FloatArray) -> tuple[float | None, FloatArray]:
    """Area under the ROC curve and each row's influence on it, shape (n,); None and zeros without both classes."""
    from scipy.stats import rankdata

    influence = np.zeros(len(accept))
    if not accept.any() or accept.all():
        return None, influence
    # Mann-Whitney: the share of rejects below each accept, and of accepts above each reject, ties counting one half
    ranks, accepts, rejects = rankdata(log_odds), log_odds[accept], log_odds[~accept]
    of_accepts = (ranks[accept] - rankdata(accepts)) / len(rejects)
    of_rejects = 1 - (ranks[~accept] - rankdata(rejects)) / len(accepts)
    value = float(of_accepts.mean())
    influence[accept] = (of_accepts - value) / len(of_accepts)
    influence[~accept] = (of_rejects - value) / len(of_rejects)
    return value, influence


def auc_estimate(accept: BoolArray, log_odds: FloatArray) -> Estimate:
    """AUC with the interval of DeLong et al. (1988), cut to [0, 1].

    No value without both classes, no interval with fewer than two of one or where no pair is in the wrong order (or
    every one is): the variance is 0 there, which says nothing.
    """
    value, influence = auc(accept, log_odds)
    m, r = int(accept.sum()), int((~accept).sum())
    if value is None or min(m, r) < 2:
        return Estimate(value, None, None, len(accept))
    # per class, the sum of squared influences is the biased variance over n; DeLong takes the unbiased one
    of_accepts, of_rejects = influence[accept], influence[~accept]
    variance = float((of_accepts**2).sum() * m / (m - 1) + (of_rejects**2).sum() * r / (r - 1))
    return _normal(value, variance, len(accept))


def average_precision(accept: BoolArray, log_odds: FloatArray) -> tuple[float | None, FloatArray]:
    """Average precision (step-wise, as scikit-learn defines it) and each row's influence on it, shape (n,).

    AP = sum over score groups g of A_g P_g / A with P_g = (accepts at or above g) / (rows at or above g); its
    derivative by the weight of a row of group k is the row's own term plus what it does to every P_g below it.
    scikit-learn gives the value (tests compare) but not the influence. None and zeros without an accept.
    """
    total = int(accept.sum())
    if total == 0:
        return None, np.zeros(len(accept))
    _, group, rows = np.unique(-log_odds, return_inverse=True, return_counts=True)
    hits = np.bincount(group, weights=accept, minlength=len(rows))
    above = np.cumsum(rows)
    precision = np.cumsum(hits) / above
    value = float((hits * precision).sum() / total)
    per_accept = np.cumsum((hits * (1 - precision) / above)[::-1])[::-1]
    per_reject = np.cumsum((-hits * precision / above)[::-1])[::-1]
    own = np.where(accept, precision[group] - value, 0.0)
    return value, np.asarray((own + np.where(accept, per_accept[group], per_reject[group])) / total)


def average_precision_estimate(accept: BoolArray, log_odds: FloatArray) -> Estimate:
    """Average precision with an infinitesimal-jackknife interval, cut to [0, 1]; none where its variance is 0."""
    value, influence = average_precision(accept, log_odds)
    if value is None or accept.sum() < 2:
        return Estimate(value, None, None, len(accept))
    return _normal(value, float((influence**2).sum()), len(accept))


def _normal(value: float, variance: float, n: int) -> Estimate:
    from scipy.stats import norm

    if variance <= 0:
        return Estimate(value, None, None, n)
    half = float(norm.ppf((1 + LEVEL) / 2)) * variance**0.5
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), n)


SIMULATIONS = 4000
"""Trainings that are drawn to see what errors look like by chance."""


class Contrast(NamedTuple):
    """A number's noise over trainings."""

    variance: float
    """Estimated."""
    errors: FloatArray
    """What noise added to it in every simulation, shape (simulations,)."""
    variances: FloatArray
    """The variance that the simulation's own mean squares would have estimated, shape (simulations,)."""


class Total(NamedTuple):
    """A number's standard error over papers and trainings, and what its error over that looks like by chance."""

    error: float
    studentised: FloatArray
    """Absolute error over estimated standard error in every simulation, sorted; shape (simulations,)."""

    def interval(self, value: float, least: float = -np.inf, most: float = np.inf) -> Interval:
        """95%, cut to what the number can be."""
        half = float(np.quantile(self.studentised, LEVEL)) * self.error
        return Interval(max(value - half, least), min(value + half, most))

    def p_value(self, value: float) -> float:
        """Two-sided, of the hypothesis that the number is 0; at least 1 / (simulations + 1)."""
        if self.error <= 0:
            return 1.0 if value == 0 else 1 / (len(self.studentised) + 1)
        beyond = len(self.studentised) - int(np.searchsorted(self.studentised, abs(value) / self.error, side="left"))
        return (beyond + 1) / (len(self.studentised) + 1)


def over_papers_and_trainings(papers: FloatArray, training: Contrast) -> Total | None:
    """Add the two variances and find how large errors are against their estimate.

    Args:
        papers: the number in every bootstrap draw of papers, shape (draws,); NaN where a draw has none.
        training: its noise over trainings.

    Returns:
        None where more than one draw in twenty has no value.
    """
    known = papers[np.isfinite(papers)]
    if len(known) < 2 or len(known) < LEVEL * len(papers):
        return None
    variance = float(known.var(ddof=1))
    total = variance + training.variance
    errors = training.errors + np.random.default_rng([0, 5]).normal(0, variance**0.5, SIMULATIONS)
    expected = np.sqrt(np.maximum(variance + training.variances, 1e-30))
    return Total(total**0.5, np.sort(np.abs(errors) / expected))
