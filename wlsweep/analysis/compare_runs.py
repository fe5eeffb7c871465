"""`wlsweep compare A B`: what the conditions of two runs that judge the same papers did differently, paired by paper.

Intervals count papers: a difference is about these trainings, as McNemar's test is. Holm corrects over the conditions that
both runs have predicted, selected or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wlsweep.analysis.bootstrap import Resamples, percentile
from wlsweep.analysis.comparisons import holm, mcnemar, with_interval
from wlsweep.analysis.evaluation_records import PairedTest
from wlsweep.analysis.loaded_run import RunPredictions, load_predictions
from wlsweep.errors import WlsweepError
from wlsweep.estimate import Estimate
from wlsweep.run.layout import RunDir
from wlsweep.run.predictions import IntArray
from wlsweep.spec.condition import select
from wlsweep.spec.task import ICLR, Words


@dataclass(frozen=True)
class RunDifference:
    """One condition in two runs."""

    name: str
    accept_rate: Estimate
    """Predicted accept rate of the second run minus that of the first."""
    accuracy: Estimate
    """The same of the accuracy."""
    log_odds: Estimate
    """The same of the mean log-odds, natural log units."""
    decided_differently: int
    """Test rows."""
    test: PairedTest
    """Of the accuracy; `only_this` is the second run."""
    p_holm: float


@dataclass(frozen=True)
class RunComparison:
    """Two runs on the same test set."""

    rows: int
    """Of the test set."""
    differences: tuple[RunDifference, ...]
    """Conditions that both have predicted, in the order of the first run."""
    only_first: tuple[str, ...]
    """Conditions that are predicted in one of the runs only."""
    only_second: tuple[str, ...]
    words: Words = ICLR.words
    """What the task of the first run calls things."""


def compare_runs(first: RunDir, second: RunDir, only: str | None = None, draws: int = 10_000) -> RunComparison:
    """Compare what both runs have predicted.

    Args:
        first: a run directory.
        second: another, with the same test papers in any order.
        only: a selection of the first run's conditions.
        draws: bootstrap draws behind the intervals.

    Raises:
        WlsweepError: if the test papers are not the same, or no condition is predicted in both.
    """
    a, b = load_predictions(first), load_predictions(second)
    order = _same_rows(a, b)
    chosen = {c.name for c in select(a.declared, only)}
    tests = {
        c.name: mcnemar(
            (b.scores[c.name].log_odds[order] > 0) == a.truth.accept, a.scores[c.name].decision == a.truth.accept
        )
        for c in a.done
        if c.name in b.scores
    }
    both = [name for name in tests if name in chosen]
    if not both:
        raise WlsweepError(
            f"{first.root} and {second.root}: no condition is predicted in both, so none can be compared"
        )
    n = a.truth.n
    adjusted = holm([test.p for test in tests.values()], len(tests))  # of all that both runs hold, selected or not
    corrected = {name: 1.0 if p is None else p for name, p in zip(tests, adjusted, strict=True)}
    resamples = Resamples(n, draws)
    out: list[RunDifference] = []
    for name in both:
        mine, other = a.scores[name], b.scores[name]
        moved = other.log_odds[order]
        decisions = moved > 0
        right, other_right = mine.decision == a.truth.accept, decisions == a.truth.accept
        apart = np.column_stack(
            [
                decisions.astype(np.float64) - mine.decision,
                other_right.astype(np.float64) - right,
                moved - mine.log_odds,
            ]
        )
        drawn = resamples.sums(apart).astype(np.float64) / n
        estimates = [with_interval(float(apart[:, i].mean()), percentile(drawn[:, i])) for i in range(3)]
        differing = int((decisions != mine.decision).sum())
        rate, accuracy, log_odds = estimates
        out.append(RunDifference(name, rate, accuracy, log_odds, differing, tests[name], corrected[name]))
    return RunComparison(
        n,
        tuple(out),
        tuple(c.name for c in a.done if c.name in chosen and c.name not in b.scores),
        tuple(c.name for c in b.done if c.name not in a.scores) if only is None else (),
        a.truth.task.words,
    )


def _same_rows(a: RunPredictions, b: RunPredictions) -> IntArray:
    """Where each test row of the first run stands in the second, shape (n,), int64."""
    ids, other = a.truth.row_id.to_pylist(), b.truth.row_id.to_pylist()
    place = {row: i for i, row in enumerate(other)}
    lacking, further = len(set(ids) - set(other)), len(set(other) - set(ids))
    if lacking or further:
        raise WlsweepError(
            f"{a.run.root} and {b.run.root} judge different test sets ({lacking} rows are only in the first, {further} only"
            " in the second); only runs with the same test set can be compared row by row"
        )
    order = np.array([place[row] for row in ids])
    hashes, other_hashes = np.array(a.truth.row_hash.to_pylist()), np.array(b.truth.row_hash.to_pylist())[order]
    changed = int((hashes != other_hashes).sum()) or int((a.truth.accept != b.truth.accept[order]).sum())
    if changed:
        raise WlsweepError(
            f"{a.run.root} and {b.run.root}: {changed} test rows have the same id and another text or label; the same"
            " test set is needed"
        )
    return order
