"""Each condition against its baseline, on the same papers: paired intervals, exact McNemar, Holm over the family.

The family is every condition that the sweep declares besides the baselines (and every external model), whether it is
done or not: an unfinished sweep does not earn itself a milder correction.
"""

from __future__ import annotations

from collections.abc import Sequence

from wlsweep.analysis.evaluation_records import PairedTest
from wlsweep.analysis.intervals import Interval
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import BoolArray


def mcnemar(correct: BoolArray, other: BoolArray) -> PairedTest:
    """Exact McNemar test of two models on the same rows (binomial over the rows where just one is correct).

    Args:
        correct: whether this model is correct, shape (n,).
        other: whether the other model is, shape (n,).
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    b, c = int((correct & ~other).sum()), int((~correct & other).sum())
    return PairedTest(b, c, 1.0 if b + c == 0 else min(1.0, float(exact([[0, b], [c, 0]], exact=True).pvalue)))


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


def with_interval(value: float, at: Interval | None) -> Estimate:
    """A number with its interval, where it has one."""
    return Estimate(value) if at is None else Estimate(value, at.low, at.high)


def difference_of_ece(this: Estimate, base: Estimate) -> Estimate:
    """Difference of two ECEs with the interval that their own intervals leave it.

    Both values are too large by different amounts, which no resampling of their difference shows: paired percentile and
    basic intervals cover it in 20 to 90% of simulated samples, this one in 95 to 100%.
    """
    if this.value is None or base.value is None:
        return Estimate(None)
    a, b = this.interval, base.interval
    if a is None or b is None:
        return Estimate(this.value - base.value)
    return Estimate(this.value - base.value, a[0] - b[1], a[1] - b[0])
