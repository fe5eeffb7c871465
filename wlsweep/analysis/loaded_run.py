"""Read a run's predictions, joined to the truth by row id: what an evaluation starts from.

    >>> loaded = load_predictions(existing_run("runs/demo"))                                   # doctest: +SKIP
    >>> loaded.scores["baseline_gamma1.0_prop1_2"].log_odds.shape == (loaded.truth.n,)    # doctest: +SKIP

What counts as done `wlsweep.run.status` decides. A condition whose predictions are cut short, of another model or of
another test set keeps its place, with its reason; it never becomes a metric over fewer rows. Predictions that no condition
of the sweep made are read from a file and held against the test set by the same checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from wlsweep.data.read_files import read_objects
from wlsweep.data.read_json import BadObjectError
from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.files import JsonObject
from wlsweep.run.columns import PREDICTION
from wlsweep.run.data_record import DataRecord
from wlsweep.run.layout import RunDir
from wlsweep.run.predictions import DoNotFit, Scores, Truth, few, scores_of
from wlsweep.run.records import SweepRecord
from wlsweep.run.status import RunStatus, why_not_done
from wlsweep.spec.condition import Condition, select
from wlsweep.spec.task import Task

State = Literal["done", "trained", "failed", "missing", "unreadable"]
_LEFT = ("text", "year", "prompt_tokens", "truncated", "model_fingerprint")
_READ = [name for name in PREDICTION.names if name not in _LEFT]
_NUMBERS = ("logprob_accept", "logprob_reject", "p_accept", "p_other")


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
        externals: (name, file) of further predictions: CSV, Parquet, Arrow, JSON Lines or a JSON array (gzip and zstd,
            too), told apart by content, with the columns of `wlsweep.run.columns.PREDICTION` (at least `row_id` and
            `p_accept` or both log-probabilities).

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
        read, found = _read_external(path, truth)
        problems += found
        if read is not None:
            others[name] = read
    refuse_all(f"external predictions do not fit the test set {run.test_parquet}:", problems)
    return RunPredictions(
        run, status.record, status.data_record, truth, conditions, status.conditions, states, scores, others
    )


def _read_external(path: Path, truth: Truth) -> tuple[Scores | None, list[str]]:
    """Predictions in the truth's order, or every way in which they do not fit; `parsed` may be a label in any case, or a
    whole answer."""
    rows: list[JsonObject] = []
    problems: list[str] = []
    try:
        for number, row in read_objects(path, "predictions", _READ):
            if isinstance(row, BadObjectError):
                problems.append(f"{path}: row {number}: {row}")
            elif not isinstance(row, dict):
                problems.append(f"{path}: row {number} is no object with row_id and p_accept")
            else:
                rows.append({name: row[name] for name in _READ if name in row})
    except WlsweepError as e:
        return None, [str(e).replace("; check the path given with --data", "; check the path given with --external")]
    if problems:
        return None, problems
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "row_id" not in names or not ("p_accept" in names or {"logprob_accept", "logprob_reject"} <= set(names)):
        has = ", ".join(names) or "none of them"
        return None, [f"{path}: needs row_id and either p_accept or logprob_accept and logprob_reject; it has {has}"]
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        read = _number if name in _NUMBERS else partial(_parsed, truth.task) if name == "parsed" else _text
        columns[name], bad = _read_all(values, read)
        if bad:
            labels = f"{' or '.join(truth.task.labels)}, or nothing"
            expected = "numbers" if name in _NUMBERS else labels if name == "parsed" else "text"
            problems.append(f"{path}: {name} holds {few(bad)}; expected {expected}")
    if problems:
        return None, problems
    try:
        schema = pa.schema([PREDICTION.field(name).with_nullable(True) for name in names])
        return scores_of(pa.table(columns, schema=schema), truth, str(path)), []
    except DoNotFit as e:
        return None, e.problems


class _Odd(Exception):
    """A value that is not what its column holds."""


def _read_all(values: Sequence[Any], read: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    """The values as they are meant, and those that are none."""
    found, bad = [], []
    for value in values:
        try:
            found.append(None if value is None else read(value))
        except _Odd:
            bad.append(value)
    return found, bad


def _number(value: Any) -> float:
    """A number; also one written as text, as CSV has it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _Odd
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        raise _Odd from None


def _text(value: Any) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise _Odd
    return str(value)


def _parsed(task: Task, value: Any) -> str | None:
    """`Accept` of `accept`, ` ACCEPT` and `\\boxed{Accept}`; None of an empty text."""
    if not isinstance(value, str):
        raise _Odd
    text = value.strip()
    if not text:
        return None
    found = {label.casefold(): label for label in task.labels}.get(text.casefold()) or task.parse(text)
    if found is None:
        raise _Odd
    return found
