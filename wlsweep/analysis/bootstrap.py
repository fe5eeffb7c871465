"""The paired bootstrap over test rows: one set of resamples for all models, as one matrix product.

    >>> rows = Resamples(n=100, draws=1000, seed=0)
    >>> rows.sums(np.ones((100, 1))).ravel()[:3]
    array([100., 100., 100.], dtype=float32)

Every statistic is a function of sums over rows (decisions, losses, calibration gaps per bin) or is made linear by its
influence (AUC, average precision), so 10,000 draws of every metric of every model are `weights @ columns`. Because all
models share the draws, differences between any of them are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wlsweep.analysis.evaluation_records import MetricName
from wlsweep.analysis.intervals import LEVEL, Interval, auc, average_precision
from wlsweep.analysis.metrics import BINS, bin_of, equal_width_edges, log_losses, probability
from wlsweep.run.predictions import BoolArray, FloatArray

_CHUNK = 500  # draws per product; 500 x 20,000 float32 weights are 40 MB
_COLUMNS = ("tp", "fp", "brier", "log_loss", "auc", "average_precision", "log_odds", "moved_tp", "moved_fp")
METRICS: tuple[MetricName, ...] = (
    "predicted_accept_rate",
    "accuracy",
    "precision",
    "recall",
    "precision_reject",
    "recall_reject",
    "f1",
    "auc",
    "average_precision",
    "brier",
    "log_loss",
)
"""Metrics whose differences get paired intervals."""

Draws = dict[str, FloatArray]
"""Metric -> its value in every draw, shape (draws,); NaN where a draw has none."""


@dataclass(frozen=True)
class Resamples:
    """`draws` samples of n rows with replacement, as how often each row occurs."""

    n: int
    draws: int
    seed: int = 0

    @cached_property
    def counts(self) -> npt.NDArray[np.uint8]:
        """Shape (draws, n); each row of it sums to n."""
        rng = np.random.default_rng(self.seed)
        out = np.empty((self.draws, self.n), dtype=np.uint8)
        for start in range(0, self.draws, _CHUNK):
            picked = rng.integers(0, self.n, size=(min(_CHUNK, self.draws - start), self.n))
            for i, row in enumerate(picked):
                out[start + i] = np.bincount(row, minlength=self.n)
        return out

    def sums(self, columns: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Sums of each column over every resample.

        Args:
            columns: shape (n, k).

        Returns:
            shape (draws, k), float32: exact for counts, else to about 1e-6 of the sum of absolute values.
        """
        values = np.ascontiguousarray(columns, dtype=np.float32)
        out = np.empty((self.draws, values.shape[1]), dtype=np.float32)
        for start in range(0, self.draws, _CHUNK):
            part = slice(start, start + _CHUNK)
            out[part] = self.counts[part].astype(np.float32) @ values
        return out


class Columns(NamedTuple):
    """One model's statistics by row, and the two values that its influences are added to."""

    values: npt.NDArray[np.float32]
    """Shape (n, 9 + BINS)."""
    auc: float
    average_precision: float


def columns(accept: BoolArray, log_odds: FloatArray, moved: BoolArray | None = None) -> Columns:
    """What must be summed over rows to know every metric of a model.

    Args:
        accept: labels, shape (n,).
        log_odds: the model's, shape (n,).
        moved: decisions of the baseline with its threshold moved to this model's accept rate, shape (n,).
    """
    p, decision = probability(log_odds), log_odds > 0
    gaps = np.zeros((len(p), BINS))
    gaps[np.arange(len(p)), bin_of(p, equal_width_edges())] = p - accept
    moved = np.zeros(len(p), dtype=bool) if moved is None else moved
    area, auc_influence = auc(accept, log_odds)
    precision, precision_influence = average_precision(accept, log_odds)
    single = (
        decision & accept,
        decision & ~accept,
        (p - accept) ** 2,
        log_losses(accept, log_odds),
        auc_influence,
        precision_influence,
        log_odds,
        moved & accept,
        moved & ~accept,
    )
    values = np.column_stack([*single, gaps]).astype(np.float32)
    return Columns(values, np.nan if area is None else area, np.nan if precision is None else precision)


def draws_of(sums: npt.NDArray[np.float32], accepts: FloatArray, n: int, model: Columns) -> Draws:
    """Every metric of a model in every draw.

    Args:
        sums: of the model's columns, shape (draws, 9 + BINS).
        accepts: rows labelled Accept in every draw, shape (draws,).
        n: rows of a draw.
        model: whose sums these are.
    """
    at = {name: sums[:, i].astype(np.float64) for i, name in enumerate(_COLUMNS)}
    return {
        **from_counts(at["tp"], at["fp"], accepts, n),
        "auc": model.auc + at["auc"],
        "average_precision": model.average_precision + at["average_precision"],
        "brier": at["brier"] / n,
        "log_loss": at["log_loss"] / n,
        "ece": np.abs(sums[:, len(_COLUMNS) :].astype(np.float64)).sum(axis=1) / n,
        "log_odds": at["log_odds"] / n,
        "moved_accuracy": (at["moved_tp"] + (n - accepts) - at["moved_fp"]) / n,
    }


def from_counts(tp: FloatArray, fp: FloatArray, accepts: FloatArray, n: int) -> Draws:
    """Rates from counts of hits and false alarms; arrays of any one shape, NaN where a share has no rows."""
    rejects = n - accepts
    tn = rejects - fp
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "predicted_accept_rate": (tp + fp) / n,
            "accuracy": (tp + tn) / n,
            "precision": tp / (tp + fp),
            "recall": tp / accepts,
            "precision_reject": tn / (n - tp - fp),
            "recall_reject": tn / rejects,
            "f1": 2 * tp / (tp + fp + accepts),
        }


def percentile(values: FloatArray) -> Interval | None:
    """The 95% percentile interval of draws; None where more than one draw in twenty has no value."""
    known = values[np.isfinite(values)]
    if len(known) < LEVEL * len(values) or not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def ece_interval(values: FloatArray, value: float, by_chance: float) -> Interval | None:
    """A 95% interval of ECE from its draws.

    ECE is a sum of absolute gaps, so a sample's is too large on average, the more so the better calibrated the model is,
    and a resample's is larger still. A percentile interval, also one moved onto the value, misses the true ECE of a
    calibrated model nearly always. Here the lower end is that of the basic bootstrap, which takes the bias off (2 value -
    97.5% of the draws), and 0 where chance alone explains the value; the upper end takes nothing off: the value plus the
    draws' reach above their own mean. Simulated coverage: 90 to 98% (`tests/analysis/test_bootstrap.py`).

    Args:
        values: ECE in every draw, shape (draws,).
        value: of the sample.
        by_chance: the largest value that a perfectly calibrated model with these probabilities is likely to show.
    """
    at = percentile(values)
    if at is None:
        return None
    low = 0.0 if value <= by_chance else max(2 * value - at.high, 0.0)
    return Interval(min(low, value), value + max(at.high - float(np.nanmean(values)), 0.0))
