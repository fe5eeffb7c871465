"""ShareGPT rows, read as a stream and judged: the one place that decides what a paper, its label and its id are.

    for row in read_rows(Path("papers.jsonl")): ...

A source of 700 MB is one pass in the memory of a few rows. A file with a bad row is refused as a whole, with every bad
row named, because a sweep that silently drops rows answers another question than the one asked.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from wlsweep.data.read_files import BadObjectError, parquet_names, read_objects
from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.spec.task import ICLR, Task

_BLANK_LINE = re.compile(
    r"\S[^\S\r\n]*(?:\r?\n[^\S\r\n]*){2,}"
)  # ends a block of text; swallows all blank lines after it
_ROLES = {"system": "system", "human": "human", "assistant": "assistant", "gpt": "assistant"}
_SHAPES = (("human", "assistant"), ("system", "human", "assistant"))


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


def split_human_turn(text: str) -> tuple[str, str]:
    """(instruction with the blank line that ends it, paper); the instruction is empty if no blank line ends one."""
    found = _BLANK_LINE.search(text)
    return (text[: found.end()], text[found.end() :]) if found else ("", text)


def label_of(answer: str, task: Task) -> str:
    """The label that an answer gives.

    Raises:
        BadObjectError: if it gives none, or two different ones.
    """
    label = task.parse(answer)
    if label is None:
        none = "no " + " or ".join(task.answer_with(label) for label in task.labels)
        many = "two different labels" if task.labels_in(answer) else none
        raise BadObjectError(f"{many} in the answer {_excerpt(answer)}")
    return label


def parse_row(raw: object, task: Task = ICLR) -> Row:
    """Judge one decoded ShareGPT row of a task.

    Raises:
        ValueError: with the reason why the row cannot be used.
    """
    if isinstance(raw, BadObjectError):
        raise raw
    if not isinstance(raw, dict):
        raise BadObjectError(f'expected an object with "conversations", found {_kind(raw)}')
    turns = raw.get("conversations")
    if not isinstance(turns, list):
        raise BadObjectError(f'"conversations" should be a list of turns, found {_kind(turns)}')
    roles, texts = [], []
    for n, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise BadObjectError(f'turn {n}: expected an object with "from" and "value", found {_kind(turn)}')
        role, text = turn.get("from"), turn.get("value")
        if not isinstance(role, str) or role not in _ROLES:
            raise BadObjectError(f'turn {n}: "from" is {_excerpt(role)}; expected one of {", ".join(_ROLES)}')
        if not isinstance(text, str):
            raise BadObjectError(f'turn {n}: "value" should be text, found {_kind(text)}')
        roles.append(_ROLES[role])
        texts.append(_encodable(text))
    if tuple(roles) not in _SHAPES:
        if "assistant" not in roles:
            raise BadObjectError("no assistant turn")
        raise BadObjectError(
            f"turns {', '.join(roles)[:80]}; expected human, assistant with at most a system turn before them"
        )
    label = label_of(texts[-1], task)
    instruction, paper = split_human_turn(texts[-2])
    if not paper.strip():
        raise BadObjectError(
            f"the {task.words.item} is empty (the human turn holds nothing after its first blank line)"
        )
    meta = raw.get("_metadata")
    if meta is None:
        meta = {}
    if not isinstance(meta, dict):
        raise BadObjectError(f'"_metadata" should be an object, found {_kind(meta)}')
    row_hash = text_hash(paper)
    return Row(
        row_id=_id_of(meta.get("submission_id")) or f"text-{row_hash[:20]}",
        row_hash=row_hash,
        year=_year_of(meta.get("year")),
        label=label,
        system=_system_of(raw.get("system"), texts[0] if len(texts) == 3 else None),
        instruction=instruction,
        paper=paper,
        true_log_odds=_log_odds_of(meta.get("true_log_odds")),
        answerer=str(turns[-1]["from"]),
    )


def to_sharegpt(row: Row, task: Task = ICLR) -> dict[str, Any]:
    """The row as ShareGPT, with the plain answer of the task; `parse_row` reads it back to the same row."""
    turns = [] if row.system is None else [{"from": "system", "value": row.system}]
    turns.append({"from": "human", "value": row.instruction + row.paper})
    turns.append({"from": row.answerer, "value": task.answer_with(row.label)})
    meta = {"submission_id": row.row_id, "year": row.year, "true_log_odds": row.true_log_odds}
    return {"conversations": turns, "_metadata": {name: value for name, value in meta.items() if value is not None}}


def read_rows(path: Path, task: Task = ICLR) -> Iterator[Row]:
    """Stream the rows of a JSON array, JSON Lines or Parquet file; the content, not the name, tells which it is.

    After the first bad row nothing more is yielded, but the rest is still checked.

    Raises:
        WlsweepError: at the end of the pass, with file, row number (from 1) and reason of *every* bad row; at once if
            the file is missing, empty or of no known format. Text before a syntax error in a JSON array is checked,
            text after it cannot be.
    """
    problems: list[str] = []
    seen: dict[str, tuple[int, str]] = {}
    texts: dict[str, tuple[int, str, str]] = {}
    count = 0
    for number, raw in _raw_rows(path):
        count += 1
        try:
            row = parse_row(raw, task)
            if (first := seen.get(row.row_id)) is not None:
                other = "" if first[1] == row.label else f", there with the label {first[1]}"
                raise BadObjectError(f"duplicate id {row.row_id!r}: row {first[0]} has it too{other}")
            if (same := texts.get(row.row_hash)) is not None:
                other = "" if same[2] == row.label else f", there with the label {same[2]}"
                raise BadObjectError(
                    f"duplicate text: {row.row_id!r} has that of {same[1]!r} in row {same[0]}{other}; keep one of them"
                )
        except BadObjectError as e:
            problems.append(f"row {number}: {e}")
            continue
        seen[row.row_id] = (number, row.label)
        texts[row.row_hash] = (number, row.row_id, row.label)
        if not problems:
            yield row
    refuse_all(f"{path}: rows that cannot be used; fix or remove them (nothing was written):", problems)
    if not count:
        raise WlsweepError(f"{path} holds no rows; expected ShareGPT rows as a JSON array, JSON Lines or Parquet")


_READ = ("conversations", "system", "_metadata")
_LOOKED_AT = 1000  # rows: what people put beside the rows, they put beside the first ones


def _raw_rows(path: Path) -> Iterator[tuple[int, object]]:
    return read_objects(path, "ShareGPT rows", _READ, needed="conversations")


def notes_on(path: Path, task: Task = ICLR) -> list[str]:
    """What a user should know of how a file's rows are read, a line each: fields that are not read, answers that are not
    kept. Of the first 1,000 rows; says nothing of bad rows, which `read_rows` refuses."""
    unread = Counter(name for name in parquet_names(path) if name not in _READ)
    longer, plain = 0, {task.answer_with(label) for label in task.labels}
    for _, raw in islice(_raw_rows(path), _LOOKED_AT):
        if not isinstance(raw, dict):
            continue
        unread.update(str(key) for key in raw if key not in _READ)
        turns = raw.get("conversations")
        last = turns[-1] if isinstance(turns, list) and turns else None
        answer = last.get("value") if isinstance(last, dict) else None
        longer += isinstance(answer, str) and answer.strip() not in plain
    lines = []
    if unread:
        names = ", ".join(repr(name)[:60] for name in list(unread)[:8]) + (" and more" if len(unread) > 8 else "")
        lines.append(
            f"{path.name}: not read: {names} (read are conversations, system, and submission_id, year and true_log_odds "
            "inside _metadata)"
        )
    if longer:
        lines.append(
            f"{path.name}: {longer:,} of the first {_LOOKED_AT:,} answers hold more than {task.answer}; trained on is "
            "that alone"
        )
    return lines


def _system_of(field: object, turn: str | None) -> str | None:
    """The system prompt: a turn, or LLaMA-Factory's field beside the turns."""
    if field is None or field == "":
        return turn
    if not isinstance(field, str):
        raise BadObjectError(f'"system" should be text, found {_kind(field)}')
    text = _encodable(field)
    if turn is not None and turn != text:
        raise BadObjectError('"system" and the system turn differ; keep one of them')
    return text


def _id_of(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadObjectError(f'"_metadata.submission_id" should be text or a whole number, found {_kind(value)}')
    text = _encodable(str(value)).strip()
    if not text:
        raise BadObjectError('"_metadata.submission_id" is empty')
    return text


def _year_of(value: object) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas writes a missing year as NaN
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 1 <= value <= 9999:
        raise BadObjectError(f'"_metadata.year" is {_excerpt(value)}; expected a year such as 2024')
    return int(value)


def _log_odds_of(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise BadObjectError(f'"_metadata.true_log_odds" is {_excerpt(value)}; expected a finite number')
    return float(value)


def _encodable(text: str) -> str:
    """Lone surrogates, which no UTF-8 text can hold, become `?`, as the JSON array reader reads them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _excerpt(value: Any) -> str:
    if isinstance(value, str) and len(value) > 60:
        value = f"{value[:30]} ... {value[-25:]}"
    return repr(value)[:120]


def _kind(value: object) -> str:
    names = {"dict": "an object", "list": "a list", "str": "text", "int": "a number", "float": "a number"}
    names |= {"bool": "true or false", "NoneType": "nothing"}
    return names.get(type(value).__name__, type(value).__name__)
