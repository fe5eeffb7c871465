"""Papers and trainings together: the error of a number, its interval and its p value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wlsweep.analysis.intervals import LEVEL, Interval
from wlsweep.run.predictions import FloatArray

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


def over_papers_and_trainings(papers: FloatArray, training: Contrast, seed: int = 0) -> Total | None:
    """Add the two variances and find how large errors are against their estimate.

    Args:
        papers: the number in every bootstrap draw of papers, shape (draws,); NaN where a draw has none.
        training: its noise over trainings.
        seed: of the simulations.

    Returns:
        None where more than one draw in twenty has no value.
    """
    known = papers[np.isfinite(papers)]
    if len(known) < 2 or len(known) < LEVEL * len(papers):
        return None
    variance = float(known.var(ddof=1))
    total = variance + training.variance
    errors = training.errors + np.random.default_rng([seed, 5]).normal(0, variance**0.5, SIMULATIONS)
    expected = np.sqrt(np.maximum(variance + training.variances, 1e-30))
    return Total(total**0.5, np.sort(np.abs(errors) / expected))
