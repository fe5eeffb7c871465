"""95% intervals in closed form: Wilson for shares, DeLong for AUC, infinitesimal jackknife for average precision.

    >>> wilson([2], [3])[0]
    Interval(low=0.20765..., high=0.93850...)

An *influence* is the derivative of a statistic with respect to the weight of each row, scaled so that the statistic of
a re-weighted sample is about `value + weights @ influence`. It gives the variance here and makes ranking statistics
linear in `bootstrap`, where sorting 10,000 times would be out of reach. For AUC it is DeLong's placement value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wlsweep.analysis.load import BoolArray, FloatArray
from wlsweep.analysis.metrics import Counts, Rate

LEVEL = 0.95
"""Level of every interval."""


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A number with its interval and the rows that it rests on; None where it does not exist."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def wilson(hits: Sequence[float], n: Sequence[int]) -> list[Interval | None]:
    """Wilson score intervals of shares, None of no rows (Wilson 1927)."""
    from statsmodels.stats.proportion import proportion_confint

    rows = np.asarray(n, dtype=np.float64)
    low, high = proportion_confint(
        np.asarray(hits, dtype=np.float64), np.maximum(rows, 1), alpha=1 - LEVEL, method="wilson"
    )
    return [
        Interval(max(float(a), 0.0), min(float(b), 1.0)) if m else None for a, b, m in zip(low, high, rows, strict=True)
    ]


def of_rates(rates: dict[str, Rate]) -> dict[str, Estimate]:
    """Shares with their Wilson intervals."""
    intervals = wilson([r.hits for r in rates.values()], [r.n for r in rates.values()])
    return {
        name: Estimate(rate.value, at.low if at else None, at.high if at else None, rate.n)
        for (name, rate), at in zip(rates.items(), intervals, strict=True)
    }


def of_f1(c: Counts) -> dict[str, Estimate]:
    """F1 of both classes. F1 = 2J / (1 + J) for the share J = hits / (hits + misses + false alarms), whose Wilson
    interval is carried through (Takahashi et al. 2022 use the delta method instead, which leaves [0, 1])."""
    out = {}
    accepts, rejects = c.tp + c.fn + c.unknown_accept, c.fp + c.tn + c.unknown_reject
    for name, hits, predicted, actual in (
        ("f1", c.tp, c.tp + c.fp, accepts),
        ("f1_reject", c.tn, c.tn + c.fn, rejects),
    ):
        n = predicted + actual - hits
        at = wilson([hits], [n])[0]
        if at is None:
            out[name] = Estimate(None, None, None, 0)
        else:
            j = hits / n
            out[name] = Estimate(2 * j / (1 + j), 2 * at.low / (1 + at.low), 2 * at.high / (1 + at.high), n)
    return out


def of_mean(values: FloatArray) -> Estimate:
    """A mean over rows with its t interval; no interval of one row."""
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return Estimate(None, None, None, 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * float(values.std(ddof=1)) / n**0.5
    return Estimate(mean, mean - half, mean + half, n)


def placements(accept: BoolArray, log_odds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(per accept, the share of rejects below it; per reject, the share of accepts above it), ties counting one half.

    The mean of either is the AUC. Needs both classes.
    """
    from scipy.stats import rankdata

    a, r = log_odds[accept], log_odds[~accept]
    overall = rankdata(log_odds)
    of_accepts = (overall[accept] - rankdata(a)) / len(r)
    of_rejects = 1 - (overall[~accept] - rankdata(r)) / len(a)
    return of_accepts, of_rejects


def auc_influence(accept: BoolArray, log_odds: FloatArray) -> FloatArray:
    """Influence of each row on the AUC, shape (n,); zero without both classes."""
    influence = np.zeros(len(accept))
    if accept.any() and not accept.all():
        of_accepts, of_rejects = placements(accept, log_odds)
        influence[accept] = (of_accepts - of_accepts.mean()) / len(of_accepts)
        influence[~accept] = (of_rejects - of_rejects.mean()) / len(of_rejects)
    return influence


def of_auc(accept: BoolArray, log_odds: FloatArray, value: float | None) -> Estimate:
    """AUC with the interval of DeLong et al. (1988), cut to [0, 1]; no interval with fewer than two of a class."""
    m, r = int(accept.sum()), int((~accept).sum())
    if value is None or min(m, r) < 2:
        return Estimate(value, None, None, len(accept))
    of_accepts, of_rejects = placements(accept, log_odds)
    return _normal(value, float(of_accepts.var(ddof=1) / m + of_rejects.var(ddof=1) / r), len(accept))


def average_precision_influence(accept: BoolArray, log_odds: FloatArray) -> FloatArray:
    """Influence of each row on the average precision, shape (n,); zero without an accept.

    AP = sum over score groups g of A_g P_g / A with P_g = (accepts at or above g) / (rows at or above g); its
    derivative by the weight of a row of group k is the row's own term plus what it does to every P_g below it.
    """
    total = int(accept.sum())
    if total == 0:
        return np.zeros(len(accept))
    _, group, rows = np.unique(-log_odds, return_inverse=True, return_counts=True)
    hits = np.bincount(group, weights=accept, minlength=len(rows))
    above = np.cumsum(rows)
    precision = np.cumsum(hits) / above
    value = float((hits * precision).sum() / total)
    per_accept = np.cumsum((hits * (1 - precision) / above)[::-1])[::-1]
    per_reject = np.cumsum((-hits * precision / above)[::-1])[::-1]
    own = np.where(accept, precision[group] - value, 0.0)
    return np.asarray((own + np.where(accept, per_accept[group], per_reject[group])) / total)


def of_average_precision(accept: BoolArray, log_odds: FloatArray, value: float | None) -> Estimate:
    """Average precision with an infinitesimal-jackknife interval, cut to [0, 1]."""
    if value is None or accept.sum() < 2:
        return Estimate(value, None, None, len(accept))
    influence = average_precision_influence(accept, log_odds)
    return _normal(value, float((influence**2).sum()), len(accept))


def _normal(value: float, variance: float, n: int) -> Estimate:
    from scipy.stats import norm

    half = float(norm.ppf((1 + LEVEL) / 2)) * variance**0.5
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), n)


def flat(estimates: dict[str, Estimate]) -> dict[str, Any]:
    """`{"accuracy": ..., "accuracy_low": ..., "accuracy_high": ..., "accuracy_n": ...}` for JSON and Parquet."""
    out: dict[str, Any] = {}
    for name, e in estimates.items():
        out |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high, f"{name}_n": e.n}
    return out
