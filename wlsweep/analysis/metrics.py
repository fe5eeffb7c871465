"""Metrics of one model on one set of rows: pure functions, Accept is the positive class.

    >>> import numpy as np
    >>> accept = np.array([True, True, False])
    >>> rates(count(accept, np.array([1, 0, 0], dtype=np.int8)))["accuracy"]
    Rate(hits=2, n=3)

Three readings of a prediction. `margin`: the sign of the Accept-Reject margin, always known, the headline. `strict`:
the generated text, unknown counts as wrong. `parsed`: the generated text, only rows where it could be read.
A number that does not exist (no predicted accepts, one class only) is None, never 0 or NaN.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wlsweep.analysis.evaluation_records import BrierParts, Counts, MetricName, ReliabilityBin
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import BoolArray, FloatArray

BINS = 10
"""Bins of the reliability curve and of both expected calibration errors."""
_LOSS_CAP = -math.log(np.finfo(np.float64).eps)  # scikit-learn's log_loss clips probabilities at the same eps


class Rate(NamedTuple):
    """A share: `hits` of `n`."""

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        """hits / n, or None of no rows."""
        return self.hits / self.n if self.n else None


def count(accept: BoolArray, reading: npt.NDArray[np.int8]) -> Counts:
    """Cross-table of labels and a reading coded 1 Accept, 0 Reject, -1 unknown; both of shape (n,)."""
    table = np.bincount((~accept).astype(np.int64) * 3 + (1 - reading.astype(np.int64)), minlength=6)
    return Counts(*(int(x) for x in table))


def rates(c: Counts) -> dict[MetricName, Rate]:
    """All shares that have a binomial interval; an unknown reading counts as wrong and as neither label."""
    accepts, rejects = c.tp + c.fn + c.unknown_accept, c.fp + c.tn + c.unknown_reject
    n = accepts + rejects
    return {
        "accuracy": Rate(c.tp + c.tn, n),
        "predicted_accept_rate": Rate(c.tp + c.fp, n),
        "actual_accept_rate": Rate(accepts, n),
        "precision": Rate(c.tp, c.tp + c.fp),
        "recall": Rate(c.tp, accepts),
        "precision_reject": Rate(c.tn, c.tn + c.fn),
        "recall_reject": Rate(c.tn, rejects),
        "unknown_rate": Rate(c.unknown_accept + c.unknown_reject, n),
    }


def probability(log_odds: FloatArray) -> FloatArray:
    """sigmoid, shape (n,), without overflow."""
    from scipy.special import expit

    return np.asarray(expit(log_odds), dtype=np.float64)


def log_losses(accept: BoolArray, log_odds: FloatArray) -> FloatArray:
    """Per row -ln P(true label) in nats, from the log-odds so that no certainty is lost; capped as in scikit-learn."""
    wrong_way = np.where(accept, -log_odds, log_odds)
    return np.asarray(np.minimum(np.logaddexp(0.0, wrong_way), _LOSS_CAP))


def equal_width_edges() -> FloatArray:
    """0, 1/BINS, ..., 1."""
    return np.linspace(0.0, 1.0, BINS + 1)


def equal_mass_edges(p: FloatArray) -> FloatArray:
    """Quantiles of p with 0 and 1 as ends; fewer bins where rows tie across a quantile."""
    inner = np.quantile(p, np.arange(1, BINS) / BINS) if len(p) else np.empty(0)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def bin_of(p: FloatArray, edges: FloatArray) -> npt.NDArray[np.int64]:
    """Index of the bin (low, high] that holds p; 0 itself is in the first. Shape (n,)."""
    return np.clip(np.searchsorted(edges, p, side="left") - 1, 0, len(edges) - 2).astype(np.int64)


def reliability(accept: BoolArray, p: FloatArray, edges: FloatArray) -> list[ReliabilityBin]:
    """The bins that hold rows: how often papers said to be accepted with about p were; without intervals."""
    index, bins = bin_of(p, edges), len(edges) - 1
    n = np.bincount(index, minlength=bins)
    total = np.bincount(index, weights=p, minlength=bins)
    hits = np.bincount(index, weights=accept, minlength=bins)
    found = []
    for b in np.flatnonzero(n):
        low, high, rows, accepts = float(edges[b]), float(edges[b + 1]), int(n[b]), round(hits[b])
        found.append(ReliabilityBin(low, high, rows, float(total[b] / rows), accepts, Estimate(accepts / rows)))
    return found


def calibration_error(curve: list[ReliabilityBin]) -> float | None:
    """Expected calibration error: mean |mean p - accept share| over bins, weighted by rows."""
    n = sum(b.n for b in curve)
    return sum(abs(b.n * b.mean_p - b.accepts) for b in curve) / n if n else None


def brier_parts(accept: BoolArray, p: FloatArray, edges: FloatArray) -> BrierParts:
    """The Brier score split over bins; `reliability - resolution + uncertainty + within` is the score exactly.

    Args:
        accept: labels, shape (n,), n > 0.
        p: P(Accept), shape (n,).
        edges: bin edges from 0 to 1.
    """
    n, base = len(p), float(accept.mean())
    curve = reliability(accept, p, edges)
    rel = sum(b.n * (b.mean_p - b.accepts / b.n) ** 2 for b in curve) / n
    res = sum(b.n * (b.accepts / b.n - base) ** 2 for b in curve) / n
    unc = base * (1 - base)
    score = float(np.mean((p - accept) ** 2))
    return BrierParts(rel, res, unc, score - rel + res - unc)


def coverage_accuracy(accept: BoolArray, log_odds: FloatArray, shares: FloatArray) -> list[tuple[float, int, float]]:
    """(share, rows kept, accuracy on them) when only the most confident rows are decided.

    Confidence is |log-odds|. Rows of equal confidence count with their mean correctness, so the order of rows does
    not matter.
    """
    confidence = np.abs(log_odds)
    correct = (log_odds > 0) == accept
    order = np.argsort(-confidence, kind="stable")
    _, group, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=correct[order]) / size
    total = np.cumsum(mean[group])
    kept = np.unique(np.clip(np.ceil(shares * len(correct) - 1e-9).astype(int), 1, len(correct)))
    return [(k / len(correct), int(k), float(total[k - 1] / k)) for k in kept]
