"""What theory expects of a condition before it is trained: a shift of the baseline's log-odds.

    >>> from wlsweep.spec.condition import parse_name
    >>> round(expected_shift(parse_name("accept_gamma2.0_prop1_3"), {}).value, 12)
    0.0

Weighting accepts by gamma moves the optimal log-odds by ln gamma (rejects: -ln gamma; Elkan 2001); training on a share
pi of accepts moves them by logit(pi) - logit(pi of the baseline) (prior shift; Saerens et al. 2002). So the baseline's
log-odds plus the shift forecast every decision of the condition. A focal or smoothed loss bends the log-odds instead of
moving them; for those there is no forecast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wlsweep.analysis.bootstrap import Draws, Resamples, from_counts
from wlsweep.run.data_record import ClassCounts
from wlsweep.run.predictions import BoolArray, FloatArray
from wlsweep.spec.condition import Condition

_CHUNK = 500


class Shift(NamedTuple):
    """Expected difference of log-odds to the baseline (natural log units), and where it does not hold, why."""

    value: float
    covered: bool
    note: str


class Calibration(NamedTuple):
    """How the baseline's log-odds miss the labels: logit P(Accept) = offset + slope * log-odds."""

    offset: float
    """Offset with the slope held at 1 (calibration in the large)."""
    offset_error: float
    slope: float
    slope_error: float


@dataclass(frozen=True)
class Forecast:
    """Forecast counts of every condition in every draw, and at the baseline's own rows."""

    point: dict[str, Draws]
    """By condition: each metric as an array of one number, on the rows as they are."""
    draws: dict[str, Draws]
    """By condition: each metric, shape (draws,)."""


def expected_shift(c: Condition, mixes: Mapping[str, ClassCounts], beta: float = 0.999) -> Shift:
    """The shift of the optimal log-odds of a condition against the baseline (gamma 1, proportion 1/2).

    Args:
        c: the condition.
        mixes: training rows by proportion (`1/3`); they replace the nominal proportions where there are any.
        beta: of the effective number of samples, for `balance = "effective"`.
    """
    value = c.signed_log_gamma + _logit_of_accepts(mixes, c.k) - _logit_of_accepts(mixes, 2)
    if c.balance != "none":
        mix = mixes.get(f"1/{c.k}", ClassCounts(accepts=1, rejects=c.k - 1))
        if c.balance == "inverse":
            value += math.log(mix.rejects / mix.accepts)
        else:
            value += math.log((1 - beta**mix.rejects) / (1 - beta**mix.accepts))
    if c.focal or c.smoothing:
        kind = "focal" if c.focal else "smoothed"
        return Shift(value, False, f"a {kind} loss bends the log-odds instead of moving them")
    return Shift(value, True, "")


def _logit_of_accepts(mixes: Mapping[str, ClassCounts], k: int) -> float:
    """Of the accept share that training at proportion 1/k really saw: from the mix's counts, else 1/k itself."""
    mix = mixes.get(f"1/{k}")
    p = mix.accepts / (mix.accepts + mix.rejects) if mix and mix.accepts > 0 and mix.rejects > 0 else 1 / k
    return math.log(p) - math.log1p(-p)


def calibration(accept: BoolArray, log_odds: FloatArray) -> Calibration | None:
    """Cox's calibration offset and slope of the baseline on the test rows, with standard errors.

    None where the labels cannot tell: one class only, log-odds that do not vary, or labels separated perfectly.
    """
    import warnings

    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationError

    if accept.all() or not accept.any() or np.ptp(log_odds) == 0:
        return None
    one, y = np.ones((len(accept), 1)), accept.astype(float)
    x = np.clip(log_odds, -36, 36)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            large = GLM(y, one, family=Binomial(), offset=x).fit()
            cox = GLM(y, np.column_stack([one, x]), family=Binomial()).fit()
    except (PerfectSeparationError, Warning, np.linalg.LinAlgError, ValueError):
        return None
    found = Calibration(float(large.params[0]), float(large.bse[0]), float(cox.params[1]), float(cox.bse[1]))
    return found if all(map(math.isfinite, found)) else None


def forecast(
    accept: BoolArray,
    log_odds: FloatArray,
    shifts: Mapping[str, float],
    resamples: Resamples,
    known: Calibration | None = None,
) -> Forecast:
    """Forecast the decisions of conditions from the baseline's log-odds.

    In every draw the rows are resampled, and a re-trained model is granted no better calibration than the baseline
    showed: its shift is stretched by a factor (one for all conditions) whose logarithm is as uncertain as the
    baseline's calibration slope is away from 1, and its log-odds are offset (each condition by its own) as much as the
    baseline's are. The noise that re-training adds to single papers is not part of it.

    Args:
        accept: labels, shape (n,).
        log_odds: the baseline's, shape (n,).
        shifts: expected shift by condition name.
        resamples: of the n rows.
        known: the baseline's calibration; without it only sampling error is counted.
    """
    names, n = list(shifts), len(accept)
    delta = np.array([shifts[name] for name in names])
    order = np.argsort(log_odds, kind="stable")
    ranked, hit = log_odds[order], accept[order]
    rng = np.random.default_rng([resamples.seed, 1])
    stretch, offset = np.ones(resamples.draws), np.zeros((resamples.draws, len(names)))
    if known is not None:
        spread = math.hypot(math.log(known.slope), known.slope_error / known.slope) if known.slope > 0 else 0.5
        stretch = np.exp(rng.normal(0.0, min(spread, 0.5), resamples.draws))
        offset = rng.normal(0.0, math.hypot(known.offset, known.offset_error), offset.shape)
    # accepted are the rows above -(stretch * shift + offset): all but the first `below` of the ranked ones
    below = np.searchsorted(ranked, -(stretch[:, None] * delta + offset), side="right")
    tp, fp = np.empty(below.shape), np.empty(below.shape)
    accepts = np.empty(resamples.draws)
    for start in range(0, resamples.draws, _CHUNK):
        part = slice(start, start + _CHUNK)
        weights = resamples.counts[part][:, order].astype(np.int32)
        for mask, out in ((hit, tp), (~hit, fp)):
            total = np.zeros((len(weights), n + 1), dtype=np.int32)
            np.cumsum(weights * mask, axis=1, out=total[:, 1:])
            out[part] = total[:, -1:] - np.take_along_axis(total, below[part], axis=1)
            if out is tp:
                accepts[part] = total[:, -1]
    at = np.searchsorted(ranked, -delta, side="right")
    cumulated = np.concatenate([[0], np.cumsum(hit)])
    hits = (cumulated[-1] - cumulated[at]).astype(float)
    alarms = (n - at) - hits
    count = np.array([float(accept.sum())])
    return Forecast(
        {name: from_counts(hits[[i]], alarms[[i]], count, n) for i, name in enumerate(names)},
        {name: from_counts(tp[:, i], fp[:, i], accepts, n) for i, name in enumerate(names)},
    )


def moved_threshold(log_odds: FloatArray, accepted: int) -> BoolArray:
    """The baseline's decisions with its threshold moved so that exactly `accepted` rows are accepted, shape (n,).

    Which rows of equal log-odds at the threshold are taken is drawn once, with a fixed seed: a test set sorted by label
    would make row order an oracle.
    """
    lot = np.random.default_rng(0).permutation(len(log_odds))
    decision = np.zeros(len(log_odds), dtype=bool)
    decision[np.lexsort((lot, -log_odds))[:accepted]] = True
    return decision
