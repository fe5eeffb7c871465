"""Several seeds of one condition: their mean, how much they differ, and intervals that respect seeds and papers both.

A metric of seed s is the condition's value + an effect of the seed + an effect of which papers were drawn. Papers are
shared by all seeds, so averaging seeds does not average them away: the variance of the mean is s^2 / S (between seeds)
plus the bootstrap variance over papers of the mean of the S seeds. Degrees of freedom after Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from wlsweep.analysis import bootstrap as bs
from wlsweep.analysis.comparisons import holm, with_interval
from wlsweep.analysis.evaluation_records import CellTest, Comparison, MetricName, Metrics, SeedGroup, SeedMean
from wlsweep.analysis.intervals import LEVEL, Total
from wlsweep.analysis.loaded_run import RunPredictions
from wlsweep.analysis.trainings import Pairs, Trainings
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.condition import Condition

_COMPARED_OVER_SEEDS: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy")
SEEDED: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy", "f1", "auc", "brier", "ece")
"""Metrics that are told as means over seeds."""


def cell(c: Condition) -> str:
    """The name that all seeds of a condition share: that of seed 0."""
    return replace(c, seed=0).name


def over_seeds(values: FloatArray, draws: FloatArray, least: float = 0.0) -> SeedMean:
    """Mean over seeds with a 95% interval for new seeds' mean on new papers.

    Args:
        values: the metric of every seed, shape (S,), S >= 2.
        draws: the same in every bootstrap draw of papers, shape (draws, S); NaN where a draw has none. Where that is
            more than one in twenty, there is no interval.
        least: smallest value that the metric can have; the interval ends there, and at 1.
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
        mean=Estimate(mean, max(mean - half, least), min(mean + half, 1.0)) if known_well else Estimate(mean),
        between_seed_sd=float(values.std(ddof=1)),
        paper_sd=papers**0.5 if known_well else None,
        p=_p_value(mean, total**0.5, degrees) if known_well else None,
    )


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


def cell_tests(
    loaded: RunPredictions,
    comparisons: Sequence[Comparison],
    drawn: Mapping[str, FloatArray],
    difference: Callable[[Comparison], Estimate],
    p: Callable[[Comparison], float | None],
    family: int,
    total: Callable[[Pairs, FloatArray], Total | None] = lambda pairs, change: None,
) -> tuple[CellTest, ...]:
    """One test a cell, with Holm's correction over the family of cells.

    Args:
        loaded: the run.
        comparisons: of its models.
        drawn: the difference in every draw of papers, by model, shape (draws,).
        difference: what is tested.
        p: of a cell with one training.
        family: declared cells.
        total: the noise of a mean over (training, baseline) pairs that share a baseline, from its draws of papers; such a
            mean has neither interval nor p where it is None.
    """
    known = {c.name: c for c in comparisons}
    groups = [(name, [known[m] for m in members if m in known]) for name, members in cells(loaded.done).items()]
    groups += [(name, [known[name]]) for name in loaded.externals if name in known]
    out = []
    for name, members in groups:
        if len(members) == 1:
            out.append(CellTest(name, 1, difference(members[0]), p(members[0])))
        elif members:
            values = np.array([difference(c).value for c in members], dtype=np.float64)
            at = np.column_stack([drawn[c.name] for c in members])
            mean = mean_difference(values, at, [(c.name, c.baseline) for c in members], total)
            out.append(CellTest(name, mean.seeds, mean.mean, mean.p))
    corrected = holm([t.p for t in out], family)
    return tuple(replace(t, p_holm=adjusted) for t, adjusted in zip(out, corrected, strict=True))


def mean_difference(
    values: FloatArray, draws: FloatArray, pairs: Pairs, total: Callable[[Pairs, FloatArray], Total | None]
) -> SeedMean:
    """Mean over seeds of differences to baselines.

    What a baseline's training adds to every difference does not show in how much the differences vary, so the scatter of
    seeds tells the noise only where each seed has a baseline of its own.

    Args:
        values: the difference of each seed, shape (seeds,).
        draws: the same in every draw of papers, shape (draws, seeds).
        pairs: (training, baseline) of each seed.
        total: noise of the mean where seeds share a baseline.
    """
    mean = over_seeds(values, draws, least=-1.0)
    if len({base for _, base in pairs}) == len(pairs):
        return mean
    value, noise = float(values.mean()), total(pairs, draws.mean(axis=1))
    if noise is None:
        return replace(mean, mean=Estimate(value), p=None)
    return replace(mean, mean=with_interval(value, noise.interval(value, -1.0, 1.0)), p=noise.p_value(value))


def seed_groups(
    loaded: RunPredictions,
    measured: Mapping[str, Metrics],
    observed: Mapping[str, bs.Draws],
    partners: Mapping[str, str],
    trainings: Trainings,
) -> tuple[SeedGroup, ...]:
    """Conditions with several seeds: metrics over them, and differences to the baselines of the same seeds."""
    out = []
    for name, members in cells(loaded.done).items():
        if len(members) < 2:
            continue
        metrics: dict[MetricName, SeedMean] = {}
        for metric in SEEDED:
            values = [measured[m][metric].value for m in members]
            if all(v is not None for v in values):
                at = np.column_stack([observed[m][metric] for m in members])
                # the draws of ECE are off by more than they spread (see `bootstrap.ece_interval`): no interval of its mean
                at = np.full_like(at, np.nan) if metric == "ece" else at
                metrics[metric] = over_seeds(np.array(values, dtype=np.float64), at)
        difference: dict[MetricName, SeedMean] = {}
        bases = [partners[m] for m in members if m in partners]
        if len(bases) == len(members):
            for metric in _COMPARED_OVER_SEEDS:
                pairs = list(zip(members, bases, strict=True))
                each = [(measured[m][metric].value or 0.0) - (measured[b][metric].value or 0.0) for m, b in pairs]
                at = np.column_stack([observed[m][metric] - observed[b][metric] for m, b in pairs])
                total = partial(trainings.total_over_seeds, metric=metric)
                difference[metric] = mean_difference(np.array(each), at, pairs, total)
        out.append(SeedGroup(name, tuple(members), metrics, tuple(bases) if difference else (), difference))
    return tuple(out)


def mean_over_seeds(conditions: Sequence[Condition], values: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Cell -> mean over its seeds, of the cells all of whose seeds have values; same shape as each value."""
    return {
        name: np.mean([values[m] for m in members], axis=0)
        for name, members in cells(conditions).items()
        if all(m in values for m in members)
    }
