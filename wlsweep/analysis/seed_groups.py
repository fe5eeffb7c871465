"""Conditions over all their seeds: one test a condition, metrics and differences as means, and what verdicts are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from wlsweep.analysis import bootstrap as bs
from wlsweep.analysis.comparisons import holm
from wlsweep.analysis.evaluation_records import CellTest, Comparison, MetricName, Metrics, SeedGroup, SeedMean
from wlsweep.analysis.intervals import Total
from wlsweep.analysis.loaded_run import RunPredictions
from wlsweep.analysis.seeds import cells, over_seeds, with_total
from wlsweep.analysis.trainings import Pairs, Trainings
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.condition import Condition

_COMPARED_OVER_SEEDS: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy")
SEEDED: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy", "f1", "auc", "brier", "ece")
"""Metrics that are told as means over seeds."""


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
    return with_total(mean, total(pairs, draws.mean(axis=1)), least=-1.0)


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
