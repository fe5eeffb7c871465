"""Read a run's predictions, joined to the truth by row id: what an evaluation starts from.

    >>> loaded = load_predictions(existing_run("runs/demo"))                                   # doctest: +SKIP
    >>> loaded.scores["baseline_gamma1.0_prop1_2"].log_odds.shape == (loaded.truth.n,)    # doctest: +SKIP

What counts as done `wlsweep.run.status` decides. A condition whose predictions are cut short, of another model or of
another test set keeps its place, with its reason; it never becomes a metric over fewer rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wlsweep.analysis.external import read_external
from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.run.data_record import DataRecord
from wlsweep.run.layout import RunDir
from wlsweep.run.predictions import Scores, Truth
from wlsweep.run.records import SweepRecord
from wlsweep.run.status import RunStatus, why_not_done
from wlsweep.spec.condition import Condition, select

State = Literal["done", "trained", "failed", "missing", "unreadable"]


@dataclass(frozen=True)
class RunPredictions:
    """All that an evaluation starts from."""

    run: RunDir
    sweep: SweepRecord
    """`sweep.json`."""
    data: DataRecord
    """`data/data.json`."""
    truth: Truth
    conditions: tuple[Condition, ...]
    """Chosen conditions, in the order of the sweep."""
    declared: tuple[Condition, ...]
    """All conditions of the sweep."""
    states: Mapping[str, tuple[State, str]]
    """Per chosen condition its state and, where it is not done, why."""
    scores: Mapping[str, Scores]
    """Per chosen condition that is done."""
    externals: Mapping[str, Scores] = field(default_factory=dict)
    """Predictions that no condition of the sweep made, by the name given to them."""

    @property
    def done(self) -> list[Condition]:
        """Chosen conditions with complete predictions, in order."""
        return [c for c in self.conditions if c.name in self.scores]


def load_predictions(
    run: RunDir, only: str | None = None, externals: Sequence[tuple[str, Path]] = ()
) -> RunPredictions:
    """Read truth, states and predictions of a run.

    Args:
        run: the run directory.
        only: a selection such as `0-6,accept_*`; without it all conditions.
        externals: (name, file) of further predictions, Parquet, JSON Lines or a JSON array with the columns of
            `wlsweep.run.columns.PREDICTION` (at least `row_id` and `p_accept` or both log-probabilities).

    Raises:
        WlsweepError: if the data stage is not done or damaged, or external predictions do not fit the test set, listing
            everything that does not.
    """
    status = RunStatus(run)
    conditions = select(status.conditions, only)
    truth = status.truth
    if truth is None or status.data_record is None:
        raise WlsweepError(f"{run.data_json} is missing: there is no test set yet; go on with: {status.record.command}")
    states: dict[str, tuple[State, str]] = {}
    scores: dict[str, Scores] = {}
    for c in conditions:
        stands, said = status.scored(c)
        if said is None:
            states[c.name] = why_not_done(run, stands)
        else:
            states[c.name], scores[c.name] = ("done", ""), said
    others: dict[str, Scores] = {}
    problems: list[str] = []
    for name, path in externals:
        if name in others or name in {c.name for c in status.conditions}:
            problems.append(f"external {name!r}: the name is taken; give another one")
            continue
        read, found = read_external(path, truth)
        problems += found
        if read is not None:
            others[name] = read
    refuse_all(f"external predictions do not fit the test set {run.test_parquet}:", problems)
    return RunPredictions(
        run, status.record, status.data_record, truth, conditions, status.conditions, states, scores, others
    )
