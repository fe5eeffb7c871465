"""Several seeds of one condition: their mean, how much they differ, and intervals that respect seeds and papers both.

A metric of seed s is the condition's value + an effect of the seed + an effect of which papers were drawn. Papers are
shared by all seeds, so averaging seeds does not average them away: the variance of the mean is s^2 / S (between seeds)
plus the bootstrap variance over papers of the mean of the S seeds. Degrees of freedom after Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wlsweep.analysis.evaluation_records import SeedMean
from wlsweep.analysis.intervals import LEVEL, Total
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.condition import Condition


def cell(c: Condition) -> str:
    """The name that all seeds of a condition share: that of seed 0."""
    return replace(c, seed=0).name


def over_seeds(values: FloatArray, draws: FloatArray, least: float = 0.0, most: float = 1.0) -> SeedMean:
    """Mean over seeds with a 95% interval for new seeds' mean on new papers.

    Args:
        values: the metric of every seed, shape (S,), S >= 2.
        draws: the same in every bootstrap draw of papers, shape (draws, S); NaN where a draw has none. Where that is
            more than one in twenty, there is no interval.
        least: smallest value that the metric can have; the interval ends there.
        most: largest.
    """
    from scipy.stats import t

    s = len(values)
    between = float(values.var(ddof=1)) / s
    means = draws.mean(axis=1)
    known = means[np.isfinite(means)]
    known_well = len(known) >= LEVEL * len(means) and len(known) > 1
    papers = float(known.var(ddof=1)) if known_well else np.nan
    total = between + papers
    # papers are many, so their variance counts as known; the few seeds carry the degrees of freedom
    degrees = (s - 1) * (total / between) ** 2 if between > 0 else np.inf
    half = float(t.ppf(0.975, degrees)) * total**0.5
    mean = float(values.mean())
    return SeedMean(
        seeds=s,
        mean=Estimate(mean, max(mean - half, least), min(mean + half, most)) if known_well else Estimate(mean),
        between_seed_sd=float(values.std(ddof=1)),
        paper_sd=papers**0.5 if known_well else None,
        p=_p_value(mean, total**0.5, degrees) if known_well else None,
    )


def with_total(of: SeedMean, total: Total | None, least: float = 0.0, most: float = 1.0) -> SeedMean:
    """A mean over seeds with interval and p of a noise that is known from elsewhere; without both where it is not.

    Args:
        of: the mean.
        total: its noise over papers and trainings.
        least: smallest value that the metric can have; the interval ends there.
        most: largest.
    """
    value = of.mean.value
    if total is None or value is None:
        return replace(of, mean=Estimate(value), p=None)
    at = total.interval(value, least, most)
    return replace(of, mean=Estimate(value, at.low, at.high), p=total.p_value(value))


def _p_value(mean: float, error: float, degrees: float) -> float:
    from scipy.stats import t

    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, degrees))


def cells(conditions: Sequence[Condition]) -> dict[str, list[str]]:
    """Cell -> the names of its seeds, in order."""
    out: dict[str, list[str]] = {}
    for c in conditions:
        out.setdefault(cell(c), []).append(c.name)
    return out
