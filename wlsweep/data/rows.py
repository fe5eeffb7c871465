"""Rows, read as a stream and judged: the one place that decides what a paper, its label and its id are.

    for row in read_rows(Path("papers.jsonl")): ...

A source of 700 MB is one pass in the memory of a few rows. A file with a bad row is refused as a whole, with every bad
row named, because a sweep that silently drops rows answers another question than the one asked.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from wlsweep.data.read_files import FORMATS, column_names, format_of, read_objects
from wlsweep.data.read_json import BadObjectError
from wlsweep.data.row_files import RowFiles, as_files
from wlsweep.data.shapes import SHAREGPT, Shape, encodable, excerpt, kind_of, recognised, table_shape, with_columns
from wlsweep.data.unknown_shapes import unknown_shape
from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.spec.task import ICLR, Task

_LOOKED_AT = 1000  # rows: what people put beside the rows, they put beside the first ones
_FIRST = 16  # objects within which a file's shape must show itself


class Row(NamedTuple):
    """One paper. `instruction + paper` is the human turn, character by character."""

    row_id: str
    """`_metadata.submission_id`, or `text-` and the start of `row_hash` where there is none."""
    row_hash: str
    """sha256 (hex) of the paper's text without white space; label, system and instruction are no part of it."""
    year: int | None
    label: str
    """One of the task's two label texts."""
    system: str | None
    instruction: str
    """The human turn up to and with its first blank line; empty where there is no blank line."""
    paper: str
    """The rest of the human turn; what truncation may shorten."""
    true_log_odds: float | None
    """ln P(Accept) / P(Reject) given the text, where the world is synthetic."""
    answerer: str = "gpt"
    """What the file calls who answers: `gpt` or `assistant`."""


def text_hash(text: str) -> str:
    """sha256 (hex) of a text's UTF-8 without ASCII white space, so that line breaks and indents make no difference.

    Deleting bytes takes a tenth of the time of collapsing white space, which was two thirds of reading a source.
    """
    return hashlib.sha256(text.encode().translate(None, b" \t\n\r\v\f")).hexdigest()


def label_of(answer: str, task: Task, bare: bool = False) -> str:
    """The label that an answer gives; where `bare`, also an answer that is a label and nothing else.

    Raises:
        BadObjectError: if it gives none, or two different ones.
    """
    if bare and answer.strip() in task.labels:
        return answer.strip()
    label = task.parse(answer)
    if label is not None:
        return label
    if task.labels_in(answer):
        raise BadObjectError(f"two different labels in the answer {excerpt(answer)}")
    if bare:
        raise BadObjectError(
            f"the label is {excerpt(answer)}; expected {' or '.join(task.labels)} (or say what the values mean: "
            "[data.columns] positive = [...], negative = [...])"
        )
    raise BadObjectError(
        f"no {' or '.join(task.answer_with(label) for label in task.labels)} in the answer {excerpt(answer)}"
    )


def parse_row(raw: object, task: Task = ICLR, shape: Shape = SHAREGPT) -> Row:
    """Judge one decoded row of a task.

    Raises:
        BadObjectError: with the reason why the row cannot be used.
    """
    if isinstance(raw, BadObjectError):
        raise raw
    if not isinstance(raw, dict):
        raise BadObjectError(f'expected an object with "{shape.fields[0]}", found {kind_of(raw)}')
    try:
        said = shape.read(raw)
    except BadObjectError as e:
        other = None if shape.is_table else recognised(raw)
        if other is None or other.name == shape.name:
            raise
        raise BadObjectError(f"{e} (the row looks like {other.name}, the first one like {shape.name})") from None
    if said.positive is None:
        label = label_of(said.answer, task, shape.is_table)
    else:
        label = task.positive if said.positive else task.negative
    if not said.paper.strip():
        empty = "its columns are empty" if shape.is_table else "the human turn holds nothing after its first blank line"
        raise BadObjectError(f"the {task.words.item} is empty ({empty})")
    row_hash = text_hash(said.paper)
    return Row(
        row_id=_id_of(said.meta.row_id, shape.id_name) or f"text-{row_hash[:20]}",
        row_hash=row_hash,
        year=_year_of(said.meta.year, shape.year_name),
        label=label,
        system=said.system,
        instruction=said.instruction,
        paper=said.paper,
        true_log_odds=_log_odds_of(said.meta.true_log_odds),
        answerer=said.answerer,
    )


def to_sharegpt(row: Row, task: Task = ICLR) -> dict[str, Any]:
    """The row as ShareGPT, with the plain answer of the task; `parse_row` reads it back to the same row."""
    turns = [] if row.system is None else [{"from": "system", "value": row.system}]
    turns.append({"from": "human", "value": row.instruction + row.paper})
    turns.append({"from": row.answerer, "value": task.answer_with(row.label)})
    meta = {"submission_id": row.row_id, "year": row.year, "true_log_odds": row.true_log_odds}
    return {"conversations": turns, "_metadata": {name: value for name, value in meta.items() if value is not None}}


def read_rows(source: RowFiles | Path, task: Task = ICLR) -> Iterator[Row]:
    """Stream the rows of a set; the content of its files, not their names, tells their format and shape.

    After the first bad row nothing more is yielded, but the rest is still checked.

    Raises:
        WlsweepError: at the end of the pass, with file, row number (from 1) and reason of *every* bad row; at once if
            a file is missing, empty or of no known format or shape. Text before a syntax error in a JSON array is checked,
            text after it cannot be.
    """
    source = as_files(source)
    shape = find_shape(source)
    bad: dict[str, list[str]] = {}
    seen: dict[str, tuple[str, str]] = {}
    texts: dict[str, tuple[str, str, str]] = {}
    place = ""
    for place, raw in _placed_objects(source, shape.fields):
        try:
            row = parse_row(raw, task, shape)
            if (first := seen.get(row.row_id)) is not None:
                other = "" if first[1] == row.label else f", there with the label {first[1]}"
                raise BadObjectError(f"duplicate id {row.row_id!r}: {first[0]} has it too{other}")
            if (same := texts.get(row.row_hash)) is not None:
                other = "" if same[2] == row.label else f", there with the label {same[2]}"
                raise BadObjectError(
                    f"duplicate text: {row.row_id!r} has that of {same[1]!r} in {same[0]}{other}; keep one of them"
                )
        except BadObjectError as e:
            bad.setdefault(str(e), []).append(place)
            continue
        seen[row.row_id] = (place, row.label)
        texts[row.row_hash] = (place, row.row_id, row.label)
        if not bad:
            yield row
    refuse_all(f"{source}: rows that cannot be used; fix or remove them (nothing was written):", _listed(bad))
    if not place:
        raise WlsweepError(f"{source} holds no rows; expected rows as {FORMATS}")


_ALIKE = 5
"""Rows that are listed one by one although the same is wrong with them."""


def _listed(bad: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each row, by reason; one line for all of many rows with which the same is wrong."""
    lines = []
    for reason, places in bad.items():
        if len(places) > _ALIKE:
            lines.append(f"{places[0]} and {len(places) - 1:,} more: {reason}")
        else:
            lines += [f"{place}: {reason}" for place in places]
    return lines


def find_shape(source: RowFiles) -> Shape:
    """How the rows of a set are written: as its columns are named, or as its first rows show.

    Raises:
        WlsweepError: if the shape is not known, or columns are named that are not there.
    """
    columns = source.columns
    is_table = columns is not None and columns.is_table
    names = dict.fromkeys(column_names(source.files[0]))
    shape, unknown = None, []
    for _, raw in islice(_placed_objects(source, ()), _FIRST):
        if isinstance(raw, dict):
            names.update(dict.fromkeys(map(str, raw)))
            if not is_table and (shape := recognised(raw)) is not None:
                break
            unknown.append(raw)
    if columns is not None and columns.is_table:
        return table_shape(columns, source, list(names))
    if shape is None and names:
        raise WlsweepError(unknown_shape(source, list(names), unknown))
    return with_columns(shape or SHAREGPT, columns, source, list(names))


def shape_text(source: RowFiles) -> str:
    """Shape and format of a set, such as `OpenAI messages (JSON Lines, gzip)`."""
    kind, packing = format_of(source.files[0])
    many = f"{len(source.files)} files" if len(source.files) > 1 else ""
    return f"{find_shape(source).name} ({', '.join(filter(None, [kind, packing, many]))})"


def notes_on(source: RowFiles | Path, task: Task = ICLR) -> list[str]:
    """What a user should know of how the rows of a set are read, a line each: fields that are not read, answers that are
    not kept. Of the first 1,000 rows; says nothing of bad rows, which `read_rows` refuses."""
    source = as_files(source)
    shape = find_shape(source)
    unread = Counter(name for name in column_names(source.files[0]) if name not in shape.fields)
    longer, plain = 0, {task.answer_with(label) for label in task.labels}
    for _, raw in islice(_placed_objects(source, shape.fields), _LOOKED_AT):
        if not isinstance(raw, dict):
            continue
        unread.update(str(key) for key in raw if key not in shape.fields)
        try:
            answer = shape.read(raw).answer
        except BadObjectError:
            continue
        longer += not shape.is_table and answer.strip() not in plain
    lines = []
    columns = source.columns
    if columns is not None and columns.text and not columns.instruction:
        lines.append(
            f'{source.name}: the {task.words.item} is all that the model is given; [data.columns] instruction = "..." would '
            "say what is asked"
        )
    if unread:
        names = ", ".join(repr(name)[:60] for name in list(unread)[:8]) + (" and more" if len(unread) > 8 else "")
        lines.append(f"{source.name}: not read: {names} ({shape.what_is_read})")
    if longer:
        lines.append(
            f"{source.name}: {longer:,} of the first {_LOOKED_AT:,} answers hold more than {task.answer}; trained on is "
            "that alone"
        )
    return lines


def _placed_objects(source: RowFiles, fields: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """(place for messages, decoded object) of every file of a set."""
    for path in source.files:
        shard = f"{path.name}, " if len(source.files) > 1 else ""
        for number, raw in read_objects(path, "rows", fields):
            yield f"{shard}row {number}", raw


def _id_of(value: object, name: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadObjectError(f'"{name}" should be text or a whole number, found {kind_of(value)}')
    text = encodable(str(value)).strip()
    if not text:
        raise BadObjectError(f'"{name}" is empty')
    return text


def _year_of(value: object, name: str) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas writes a missing year as NaN
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 1 <= value <= 9999:
        raise BadObjectError(f'"{name}" is {excerpt(value)}; expected a year such as 2024')
    return int(value)


def _log_odds_of(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise BadObjectError(f'"_metadata.true_log_odds" is {excerpt(value)}; expected a finite number')
    return float(value)
