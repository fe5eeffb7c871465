"""Everything that is said about one model on one set of rows, as flat plain data: the bridge from arrays to JSON.

>>> measure(truth.accept, scores)["accuracy_low"]    # doctest: +SKIP
0.641
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from wlsweep.analysis.intervals import (
    Estimate,
    auc_estimate,
    average_precision_estimate,
    estimate_of_mean,
    estimates_of_counts,
    flat,
)
from wlsweep.analysis.metrics import (
    BINS,
    bin_of,
    brier_parts,
    calibration_error,
    count,
    coverage_accuracy,
    equal_mass_edges,
    equal_width_edges,
    known_only,
    log_losses,
    probability,
    read_as,
    reliability,
)
from wlsweep.analysis.predictions import BoolArray, FloatArray, Scores

COVERAGES = np.arange(1, 21) / 20
"""Shares of rows at which the coverage-accuracy curve is read."""


def subset(scores: Scores, rows: BoolArray) -> Scores:
    """The scores of some rows."""
    return Scores(scores.log_odds[rows], scores.parsed[rows], scores.p_other[rows])


def readings(accept: BoolArray, scores: Scores) -> dict[str, dict[str, Estimate]]:
    """Rates and F1 by reading: `margin`, `strict` (unknown = wrong), `parsed` (unknown left out)."""
    margin = count(accept, read_as(scores, "margin"))
    strict = count(accept, read_as(scores, "strict"))
    return estimates_of_counts({"margin": margin, "strict": strict, "parsed": known_only(strict)})


def probabilistic(accept: BoolArray, log_odds: FloatArray) -> dict[str, Estimate]:
    """Ranking and calibration metrics that need the probability, each with its interval where one is known."""
    n = len(accept)
    p = probability(log_odds)
    return {
        "auc": auc_estimate(accept, log_odds),
        "average_precision": average_precision_estimate(accept, log_odds),
        "brier": estimate_of_mean((p - accept) ** 2, most=1.0),
        "log_loss": estimate_of_mean(log_losses(accept, log_odds)),
        "ece": Estimate(calibration_error(reliability(accept, p, equal_width_edges())), None, None, n),
        "ece_equal_mass": Estimate(calibration_error(reliability(accept, p, equal_mass_edges(p))), None, None, n),
    }


def calibration_noise(p: FloatArray, bins: int = BINS) -> tuple[float, float]:
    """The equal-width ECE that a perfectly calibrated model with these probabilities would show from chance alone.

    In a bin of n rows the calibration gap has mean zero and variance sum p(1-p) / n^2; its mean absolute value is
    sqrt(2/pi) standard deviations (normal approximation).

    Returns:
        its mean, and the value that it stays below in 97.5% of samples (from 2,500 draws of the gaps, seeded).
    """
    variance = np.bincount(bin_of(p, equal_width_edges(bins)), weights=p * (1 - p), minlength=bins)
    drawn = _standard_gaps(bins) @ np.sqrt(variance)
    return float(np.sqrt(2 / np.pi * variance).sum() / len(p)), float(np.quantile(drawn, 0.975) / len(p))


@cache
def _standard_gaps(bins: int) -> FloatArray:
    """Absolute values of standard normal numbers, shape (2500, bins)."""
    return np.abs(np.random.default_rng(0).standard_normal((2_500, bins)))


def measure(accept: BoolArray, scores: Scores) -> dict[str, Any]:
    """All metrics of one model on the rows given: headline (margin) numbers flat, text readings nested.

    Args:
        accept: labels, shape (n,).
        scores: predictions of the same rows.
    """
    n = len(accept)
    if n == 0:
        return {"n": 0}
    by_reading = readings(accept, scores)
    p = probability(scores.log_odds)
    noise, by_chance = calibration_noise(p)
    text_differs = (scores.parsed >= 0) & (scores.parsed != scores.decision)
    return {
        "n": n,
        **flat(by_reading["margin"] | {"unknown_rate": by_reading["strict"]["unknown_rate"]}),
        **flat(probabilistic(accept, scores.log_odds)),
        **{f"brier_{part}": value for part, value in brier_parts(accept, p, equal_width_edges())._asdict().items()},
        "ece_noise": noise,
        "ece_by_chance": by_chance,
        "counts": count(accept, read_as(scores, "margin"))._asdict(),
        "unknown": int((scores.parsed < 0).sum()),
        "ties": int((scores.log_odds == 0).sum()),
        "text_differs": int(text_differs.sum()),
        "p_other_mean": None if np.isnan(scores.p_other).any() else float(scores.p_other.mean()),
        "strict": flat(by_reading["strict"]),
        "parsed": flat(by_reading["parsed"]),
    }


def curves(accept: BoolArray, scores: Scores) -> dict[str, Any]:
    """Reliability (equal width and equal mass) with Wilson intervals, and coverage-accuracy, as plain lists."""
    from wlsweep.analysis.intervals import wilson

    p = probability(scores.log_odds)

    def with_intervals(edges: FloatArray) -> list[dict[str, Any]]:
        bins = reliability(accept, p, edges)
        at = wilson([b.accepts for b in bins], [b.n for b in bins])
        return [
            {**b._asdict(), "share": b.accepts / b.n, "share_low": i.low, "share_high": i.high}
            for b, i in zip(bins, at, strict=True)
            if i
        ]

    covered = coverage_accuracy(accept, scores.log_odds, COVERAGES)
    at = wilson([share * k for _, k, share in covered], [k for _, k, _ in covered])
    return {
        "reliability": with_intervals(equal_width_edges()),
        "reliability_equal_mass": with_intervals(equal_mass_edges(p)),
        "coverage": [
            {"coverage": c, "n": k, "accuracy": share, "accuracy_low": i.low, "accuracy_high": i.high}
            for (c, k, share), i in zip(covered, at, strict=True)
            if i
        ],
    }
