"""Each condition against its baseline, on the same papers: paired intervals, exact McNemar, Holm over the family.

The family is every condition that the sweep declares besides the baselines (and every external model), whether it is
done or not: an unfinished sweep does not earn itself a milder correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wlsweep.analysis.bootstrap import METRICS, Draws, percentile
from wlsweep.analysis.intervals import Interval
from wlsweep.analysis.predictions import BoolArray


class McNemar(NamedTuple):
    """Papers that only one of two models decides correctly, and the exact two-sided p value."""

    only_this: int
    only_other: int
    p: float


def mcnemar(correct: BoolArray, other: BoolArray) -> McNemar:
    """Exact McNemar test of two models on the same rows (binomial over the rows where just one is correct).

    Args:
        correct: whether this model is correct, shape (n,).
        other: whether the other model is, shape (n,).
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    b, c = int((correct & ~other).sum()), int((~correct & other).sum())
    return McNemar(b, c, 1.0 if b + c == 0 else min(1.0, float(exact([[0, b], [c, 0]], exact=True).pvalue)))


def holm(p: Sequence[float | None], family: int) -> list[float | None]:
    """Holm-adjusted p values over a declared family; members without a test count as p = 1.

    Args:
        p: raw p values, None where there is no test.
        family: how many tests were declared, at least those given.
    """
    from statsmodels.stats.multitest import multipletests

    known = [x for x in p if x is not None]
    if not known:
        return [None] * len(p)
    padded = known + [1.0] * max(0, family - len(known))
    adjusted = iter(multipletests(padded, method="holm")[1][: len(known)])
    return [None if x is None else float(next(adjusted)) for x in p]


def differences(this: dict[str, Any], base: dict[str, Any], draws: Draws, base_draws: Draws) -> dict[str, Any]:
    """Metric -> {"value", "low", "high"} of this minus baseline, with paired percentile intervals; None where either
    has no value."""
    out: dict[str, Any] = {}
    for metric in METRICS:
        a, b = this.get(metric), base.get(metric)
        if a is None or b is None:
            out[metric] = None
            continue
        change = draws[metric] - base_draws[metric]
        at = percentile(change)
        out[metric] = {"value": a - b, "low": at.low if at else None, "high": at.high if at else None}
    return out


def ece_apart(this: float, base: float, at: Interval | None, base_at: Interval | None) -> dict[str, Any]:
    """Difference of two ECEs with the interval that their own intervals leave it.

    Both values are too large by different amounts, which no resampling of their difference shows: paired percentile and
    basic intervals cover it in 20 to 90% of simulated samples, this one in 95 to 100%.
    """
    if at is None or base_at is None:
        return {"value": this - base, "low": None, "high": None}
    return {"value": this - base, "low": at.low - base_at.high, "high": at.high - base_at.low}


def against_moved_threshold(accept: BoolArray, decision: BoolArray, moved: BoolArray, draws: Draws) -> dict[str, Any]:
    """Did re-training do better than moving the baseline's threshold to the same accept rate?

    Args:
        accept: labels, shape (n,).
        decision: of the condition, shape (n,).
        moved: of the baseline with its threshold moved, as many accepts as `decision`, shape (n,).
        draws: of the condition, with `accuracy` and `moved_accuracy`.
    """
    mine, theirs = decision == accept, moved == accept
    test = mcnemar(mine, theirs)
    at = percentile(draws["accuracy"] - draws["moved_accuracy"])
    return {
        "accuracy": float(mine.mean()),
        "moved_accuracy": float(theirs.mean()),
        "difference": float(mine.mean() - theirs.mean()),
        "low": at.low if at else None,
        "high": at.high if at else None,
        "only_retrained": test.only_this,
        "only_moved": test.only_other,
        "p": test.p,
        "papers_decided_differently": int(np.sum(decision != moved)),
    }
