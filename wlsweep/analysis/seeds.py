"""Several seeds of one condition: their mean, how much they differ, and intervals that respect seeds and papers both.

A metric of seed s is the condition's value + an effect of the seed + an effect of which papers were drawn. Papers are
shared by all seeds, so averaging seeds does not average them away: the variance of the mean is s^2 / S (between seeds)
plus the bootstrap variance over papers of the mean of the S seeds. Degrees of freedom after Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wlsweep.analysis.load import FloatArray
from wlsweep.conditions import Condition


def cell(c: Condition) -> str:
    """The name that all seeds of a condition share: that of seed 0."""
    return replace(c, seed=0).name


def over_seeds(values: FloatArray, draws: FloatArray) -> dict[str, Any]:
    """Mean over seeds with a 95% interval for new seeds' mean on new papers.

    Args:
        values: the metric of every seed, shape (S,), S >= 2.
        draws: the same in every bootstrap draw of papers, shape (draws, S).
    """
    from scipy.stats import t

    s = len(values)
    between = float(values.var(ddof=1)) / s
    papers = float(draws.mean(axis=1).var(ddof=1))
    total = between + papers
    # papers are many, so their variance counts as known; the few seeds carry the degrees of freedom
    degrees = (s - 1) * (total / between) ** 2 if between > 0 else np.inf
    half = float(t.ppf(0.975, degrees)) * total**0.5
    mean = float(values.mean())
    return {
        "seeds": s,
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "between_seed_sd": float(values.std(ddof=1)),
        "paper_sd": papers**0.5,
    }


def cells(conditions: Sequence[Condition]) -> dict[str, list[str]]:
    """Cell -> the names of its seeds, in order."""
    out: dict[str, list[str]] = {}
    for c in conditions:
        out.setdefault(cell(c), []).append(c.name)
    return out
