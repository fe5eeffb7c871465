"""Predictions that no condition of the sweep made: read from a file, held against the test set by the same checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from wlsweep.data.read_files import read_objects
from wlsweep.data.read_json import BadObjectError
from wlsweep.errors import WlsweepError
from wlsweep.files import JsonObject
from wlsweep.run.columns import PREDICTION
from wlsweep.run.predictions import DoNotFit, Scores, Truth, few, scores_of
from wlsweep.spec.task import Task

_LEFT = ("text", "year", "prompt_tokens", "truncated", "model_fingerprint")
_READ = [name for name in PREDICTION.names if name not in _LEFT]
_NUMBERS = ("logprob_accept", "logprob_reject", "p_accept", "p_other")


def read_external(path: Path, truth: Truth) -> tuple[Scores | None, list[str]]:
    """Predictions in the truth's order, or every way in which they do not fit.

    Args:
        path: CSV, Parquet, Arrow, JSON Lines or a JSON array (gzip and zstd, too), told apart by content. `parsed` may be
            a label in any case, or a whole answer.
        truth: of the run.
    """
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
