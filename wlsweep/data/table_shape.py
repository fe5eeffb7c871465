"""The shape that `[data.columns]` describes: text, label and id in columns of their own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wlsweep.data.read_json import BadObjectError
from wlsweep.data.row_files import RowFiles
from wlsweep.data.shapes import Exchange, Metadata, Shape, encodable, kind_of, split_human_turn
from wlsweep.errors import refuse_all
from wlsweep.spec.columns import Columns, cell_text


def table_shape(columns: Columns, source: RowFiles, names: Sequence[str]) -> Shape:
    """The shape of rows whose columns are named.

    Args:
        columns: with a label.
        source: for messages.
        names: of the columns that the files have.

    Raises:
        WlsweepError: if a column is not there.
    """
    texts = (columns.prompt,) if columns.prompt is not None else tuple(columns.text or ())
    fields = tuple(filter(None, (*texts, columns.label, columns.system, columns.id, columns.year)))
    _refuse_missing(fields, source, names)
    label = columns.label
    assert label is not None
    values = {str(v): True for v in columns.positive or ()} | {str(v): False for v in columns.negative or ()}

    def read(raw: Mapping[str, Any]) -> Exchange:
        system = _text(raw, columns.system) if columns.system is not None else ""
        found = "\n\n".join(filter(str.strip, (_text(raw, name) for name in texts)))
        if columns.prompt is not None:
            instruction, paper = split_human_turn(found)
        else:
            instruction = f"{columns.instruction.strip()}\n\n" if columns.instruction else ""
            paper = found
        answer = _text(raw, label)
        meta = _named(raw, columns, Metadata())
        return Exchange(
            system or None, instruction, paper, answer, "assistant", meta, _is_positive(answer, label, values)
        )

    shape = Shape(
        f"table with columns {', '.join(texts)} and {label}", tuple(dict.fromkeys(fields)), read, is_table=True
    )
    return _with_names(shape, columns)


def with_columns(shape: Shape, columns: Columns | None, source: RowFiles, names: Sequence[str]) -> Shape:
    """A shape of chats whose id and year stand where `[data.columns]` says.

    Raises:
        WlsweepError: if a column is not there.
    """
    if columns is None:
        return shape
    fields = tuple(filter(None, (columns.id, columns.year)))
    _refuse_missing(fields, source, names)

    def read(raw: Mapping[str, Any]) -> Exchange:
        found = shape.read(raw)
        return found._replace(meta=_named(raw, columns, found.meta))

    return _with_names(replace(shape, fields=(*shape.fields, *fields), read=read), columns)


def _with_names(shape: Shape, columns: Columns) -> Shape:
    return replace(shape, id_name=columns.id or shape.id_name, year_name=columns.year or shape.year_name)


def _named(raw: Mapping[str, Any], columns: Columns, meta: Metadata) -> Metadata:
    """With id and year from the columns that are named."""
    if columns.id is not None:
        meta = meta._replace(row_id=_text(raw, columns.id))
    if columns.year is not None:
        meta = meta._replace(year=_year(raw.get(columns.year)))
    return meta


def _year(value: object) -> object:
    """A year from text as CSV has it, or of a date; anything else as it is."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text) if text else None
        except ValueError:
            return value
    return getattr(value, "year", value)


def _is_positive(answer: str, column: str, values: Mapping[str, bool]) -> bool | None:
    if not values:
        return None
    found = values.get(answer.strip())
    if found is None:
        known = ", ".join(map(repr, values))
        raise BadObjectError(
            f"{column!r} is {answer.strip()[:60]!r}, which [data.columns] names as neither class ({known})"
        )
    return found


def _text(raw: Mapping[str, Any], name: str) -> str:
    """A cell as text; empty where there is nothing."""
    value = raw.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    value = cell_text(value)
    if not isinstance(value, str):
        raise BadObjectError(f"{name!r} should be text, found {kind_of(value)}")
    return encodable(value)


def _refuse_missing(fields: Sequence[str], source: RowFiles, names: Sequence[str]) -> None:
    """Refuse columns that are named and not there."""
    problems = []
    for name in fields:
        if names and name not in names:  # without any name the file cannot be read, and its rows say why
            close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], 1)
            meant = next((n for n in names if close and n.lower() == close[0]), None)
            problems.append(f"{name!r}" + (f"; did you mean {meant!r}?" if meant else ""))
    has = ", ".join(names)[:300] or "none"
    refuse_all(f"{source} lacks columns that [data.columns] names (it has {has}):", problems)
