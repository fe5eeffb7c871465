"""All metrics of one model on one set of rows: the step from arrays to records.

>>> measure(truth.accept, scores)["accuracy"].low    # doctest: +SKIP
0.641
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from wlsweep.analysis.evaluation_records import CoveragePoint, Curves, MetricName, Metrics, ReliabilityBin
from wlsweep.analysis.intervals import (
    auc_estimate,
    average_precision_estimate,
    estimate_of_mean,
    estimates_of_counts,
    wilson,
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
    log_losses,
    probability,
    reliability,
)
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import BoolArray, FloatArray, Scores

COVERAGES = np.arange(1, 21) / 20
"""Shares of rows at which the coverage-accuracy curve is read."""


def readings(accept: BoolArray, scores: Scores) -> dict[str, dict[MetricName, Estimate]]:
    """Rates and F1 by reading: `margin`, `strict` (unknown = wrong), `parsed` (unknown left out)."""
    margin, strict = count(accept, scores.decision.astype(np.int8)), count(accept, scores.parsed)
    known = strict._replace(unknown_accept=0, unknown_reject=0)
    return estimates_of_counts({"margin": margin, "strict": strict, "parsed": known})


def probabilistic(accept: BoolArray, log_odds: FloatArray) -> dict[MetricName, Estimate]:
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


def calibration_noise(p: FloatArray) -> tuple[float, float]:
    """The equal-width ECE that a perfectly calibrated model with these probabilities would show from chance alone.

    In a bin of n rows the calibration gap has mean zero and variance sum p(1-p) / n^2; its mean absolute value is
    sqrt(2/pi) standard deviations (normal approximation).

    Returns:
        its mean, and the value that it stays below in 97.5% of samples (from 2,500 draws of the gaps, seeded).
    """
    variance = np.bincount(bin_of(p, equal_width_edges()), weights=p * (1 - p), minlength=BINS)
    drawn = _standard_gaps() @ np.sqrt(variance)
    return float(np.sqrt(2 / np.pi * variance).sum() / len(p)), float(np.quantile(drawn, 0.975) / len(p))


@cache
def _standard_gaps() -> FloatArray:
    """Absolute values of standard normal numbers, shape (2500, BINS)."""
    return np.abs(np.random.default_rng(0).standard_normal((2_500, BINS)))


def measure(accept: BoolArray, scores: Scores) -> Metrics:
    """All metrics of one model on the rows given.

    Args:
        accept: labels, shape (n,), n > 0.
        scores: predictions of the same rows.
    """
    n = len(accept)
    by_reading = readings(accept, scores)
    margin, strict, parsed = (by_reading[reading] for reading in ("margin", "strict", "parsed"))
    p = probability(scores.log_odds)
    noise, by_chance = calibration_noise(p)
    text_differs = (scores.parsed >= 0) & (scores.parsed != scores.decision)
    return Metrics(
        n,
        {**margin, "unknown_rate": strict["unknown_rate"], **probabilistic(accept, scores.log_odds)},
        strict,
        parsed,
        brier_parts(accept, p, equal_width_edges()),
        noise,
        by_chance,
        count(accept, scores.decision.astype(np.int8)),
        unknown=int((scores.parsed < 0).sum()),
        ties=int((scores.log_odds == 0).sum()),
        text_differs=int(text_differs.sum()),
        p_other_mean=None if np.isnan(scores.p_other).any() else float(scores.p_other.mean()),
    )


def curves(accept: BoolArray, scores: Scores) -> Curves:
    """Reliability (equal width and equal mass) and coverage-accuracy, with Wilson intervals."""
    p = probability(scores.log_odds)

    def binned(edges: FloatArray) -> tuple[ReliabilityBin, ...]:
        bins = reliability(accept, p, edges)
        at = wilson([b.accepts for b in bins], [b.n for b in bins])
        return tuple(replace(b, share=Estimate(b.share.value, *i)) for b, i in zip(bins, at, strict=True) if i)

    covered = coverage_accuracy(accept, scores.log_odds, COVERAGES)
    at = wilson([share * k for _, k, share in covered], [k for _, k, _ in covered])
    coverage = [CoveragePoint(c, k, Estimate(s, *i)) for (c, k, s), i in zip(covered, at, strict=True) if i]
    return Curves(binned(equal_width_edges()), binned(equal_mass_edges(p)), tuple(coverage))
