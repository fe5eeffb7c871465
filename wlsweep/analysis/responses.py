"""What a metric of a model becomes when another training moves all its log-odds.

    >>> linear(0.5).at(np.array([2.0]))
    array([1.])

A rate bends and an accuracy has a best threshold, so a slope at one point is not enough where trainings differ much.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wlsweep.analysis.bootstrap import from_counts
from wlsweep.analysis.metrics import log_losses, probability
from wlsweep.run.predictions import BoolArray, FloatArray

GRID = np.linspace(-3.0, 3.0, 31)
"""Offsets of log-odds at which metrics are measured."""
STEP = 0.2
"""Log-odds to either side over which a slope is taken; about the size of the noise itself."""


class Response(NamedTuple):
    """A metric of one model, by how far its log-odds are moved."""

    values: FloatArray
    """At the offsets of `GRID`."""

    def at(self, offsets: FloatArray) -> FloatArray:
        """Its values at other offsets, of any shape; beyond the grid along the straight line of its end."""
        inside = np.clip(offsets, GRID[0], GRID[-1])
        first, last = np.diff(self.values)[[0, -1]] / (GRID[1] - GRID[0])
        return np.asarray(
            np.interp(inside, GRID, self.values) + np.where(offsets < 0, first, last) * (offsets - inside)
        )

    def change(self, offsets: FloatArray) -> FloatArray:
        """By how much it rises when the log-odds are moved so."""
        return self.at(offsets) - self.at(np.zeros(1))

    def slope(self, offsets: FloatArray) -> FloatArray:
        """By how much it rises for a log-odds more, at these offsets."""
        return (self.at(offsets + STEP) - self.at(offsets - STEP)) / (2 * STEP)


def linear(slope: float) -> Response:
    """A number that rises by `slope` for a log-odds more."""
    return Response(slope * GRID)


LOG_ODDS = linear(1.0)
"""The mean log-odds itself, less what it is."""


def responses(accept: BoolArray, log_odds: FloatArray) -> dict[str, Response]:
    """Of every metric of one model that a common offset of its log-odds moves.

    AUC and average precision do not depend on one, so offsets say nothing of their noise; they are left out, and so is what
    has no value near an offset of 0 (the precision of a model that accepts nothing).

    Args:
        accept: labels, shape (n,).
        log_odds: of the model, shape (n,).
    """
    moved = log_odds[None, :] + GRID[:, None]
    decision = moved > 0
    tp, fp = (decision & accept).sum(axis=1), (decision & ~accept).sum(axis=1)
    found = from_counts(tp.astype(float), fp.astype(float), np.full(len(GRID), float(accept.sum())), len(accept))
    found |= {
        "brier": ((probability(moved) - accept) ** 2).mean(axis=1),
        "log_loss": log_losses(accept, moved).mean(axis=1),
        "log_odds": moved.mean(axis=1),
    }
    near = np.abs(GRID) < STEP + 1e-9
    return {name: Response(_filled(values)) for name, values in found.items() if np.isfinite(values[near]).all()}


def _filled(values: FloatArray) -> FloatArray:
    """Where a share has no rows far from 0, its last value."""
    known = np.isfinite(values)
    return np.asarray(np.interp(GRID, GRID[known], values[known]))
