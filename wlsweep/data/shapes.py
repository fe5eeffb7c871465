"""Shapes of rows: how a decoded object says who asks, what is answered, and which row it is. One adapter each.

    recognised({"messages": [...]}).name      # 'OpenAI messages'

An adapter refuses what it does not understand; `wlsweep.data.rows` judges what all shapes have in common.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from wlsweep.data.read_json import BadObjectError
from wlsweep.data.row_files import RowFiles
from wlsweep.errors import refuse_all
from wlsweep.spec.data_section import Columns, cell_text

_BLANK_LINE = re.compile(
    r"\S[^\S\r\n]*(?:\r?\n[^\S\r\n]*){2,}"
)  # ends a block of text; swallows all blank lines after it


class Metadata(NamedTuple):
    """What identifies and dates a row, as it stands there."""

    row_id: object = None
    year: object = None
    true_log_odds: object = None


class Exchange(NamedTuple):
    """One question and its answer, as a row says it."""

    system: str | None
    instruction: str
    paper: str
    answer: str
    answerer: str
    """What the file calls who answers."""
    meta: Metadata = Metadata()
    positive: bool | None = None
    """Whether the label is the positive one, where the row says it otherwise than by its answer."""


@dataclass(frozen=True)
class Shape:
    """One way to write rows."""

    name: str
    """As users know it."""
    fields: tuple[str, ...]
    """What is read of an object."""
    read: Callable[[Mapping[str, Any]], Exchange]
    """Raises `BadObjectError` with what an object lacks."""
    is_table: bool = False
    """Whether `[data.columns]` names what is read."""
    id_name: str = "_metadata.submission_id"
    year_name: str = "_metadata.year"

    @property
    def what_is_read(self) -> str:
        """For users who wonder about a field that is not."""
        if self.is_table:
            return f"read are {', '.join(self.fields)}; [data.columns] names them"
        ours = ", ".join(name for name in self.fields if name != "_metadata")
        return (
            f"read are {ours}, and submission_id, year and true_log_odds inside _metadata; [data.columns] id and year name "
            "other places"
        )


def split_human_turn(text: str) -> tuple[str, str]:
    """(instruction with the blank line that ends it, paper); the instruction is empty if no blank line ends one."""
    found = _BLANK_LINE.search(text)
    return (text[: found.end()], text[found.end() :]) if found else ("", text)


class _Tags(NamedTuple):
    """What the turns of a chat call things."""

    name: str
    role: str
    text: str
    roles: Mapping[str, str]


_SHAREGPT = _Tags(
    "ShareGPT",
    "from",
    "value",
    {"system": "system", "human": "human", "user": "human", "assistant": "assistant", "gpt": "assistant"},
)
_OPENAI = _Tags(
    "OpenAI messages",
    "role",
    "content",
    {"system": "system", "developer": "system", "user": "human", "assistant": "assistant"},
)
_LISTS = ("conversations", "messages")
"""Keys that hold the turns."""
_TURNS = (("human", "assistant"), ("system", "human", "assistant"))
_TOOLS = ("tool_calls", "function_call", "tools", "functions")


def _chat(tags: _Tags, key: str) -> Shape:
    name = tags.name if (tags, key) in ((_SHAREGPT, _LISTS[0]), (_OPENAI, _LISTS[1])) else f"{tags.name} under {key!r}"
    return Shape(name, (key, "system", "_metadata"), partial(_read_chat, tags=tags, key=key))


def _read_chat(raw: Mapping[str, Any], tags: _Tags, key: str) -> Exchange:
    turns = _turns_of(raw.get(key), key)
    roles, texts = [], []
    for n, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise BadObjectError(
                f'turn {n}: expected an object with "{tags.role}" and "{tags.text}", found {kind_of(turn)}'
            )
        role, text = turn.get(tags.role), turn.get(tags.text)
        if not isinstance(role, str) or role not in tags.roles:
            raise BadObjectError(f'turn {n}: "{tags.role}" is {excerpt(role)}; expected one of {", ".join(tags.roles)}')
        if tags is _OPENAI:
            text = _joined_parts(text, n)
        if not isinstance(text, str):
            raise BadObjectError(f'turn {n}: "{tags.text}" should be text, found {kind_of(text)}')
        if used := next((tool for tool in _TOOLS if turn.get(tool)), None):
            raise BadObjectError(f'turn {n} has "{used}"; rows with calls of tools are not read')
        roles.append(tags.roles[role])
        texts.append(encodable(text))
    if tuple(roles) not in _TURNS:
        if "assistant" not in roles:
            raise BadObjectError("no assistant turn")
        raise BadObjectError(
            f"turns {', '.join(roles)[:80]}; expected human, assistant with at most a system turn before them"
        )
    instruction, paper = split_human_turn(texts[-2])
    system = _system_of(raw.get("system"), texts[0] if len(texts) == 3 else None)
    return Exchange(system, instruction, paper, texts[-1], str(turns[-1][tags.role]), _metadata(raw))


def _turns_of(value: object, key: str) -> list[Any]:
    """The turns, also where `datasets` made an object of lists of a list of objects."""
    if isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values()):
        lengths = {len(part) for part in value.values()}
        if len(lengths) == 1:
            return [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise BadObjectError(f'"{key}" should be a list of turns, found {kind_of(value)}')
    return value


def _joined_parts(content: object, turn: int) -> object:
    """The text of OpenAI's list of text parts, joined by line breaks; anything else as it is."""
    if not isinstance(content, list):
        return content
    texts = []
    for n, part in enumerate(content, 1):
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(text, str):
            found = part.get("type") if isinstance(part, dict) else kind_of(part)
            raise BadObjectError(f'turn {turn}: part {n} of "content" is {excerpt(found)}; only parts of text are read')
        texts.append(text)
    return "\n".join(texts)


def _read_alpaca(raw: Mapping[str, Any]) -> Exchange:
    fields = {}
    for name in ("instruction", "input", "output", "system"):
        value = raw.get(name)
        if value is None and name in ("input", "system"):
            value = ""
        if not isinstance(value, str):
            raise BadObjectError(f'"{name}" should be text, found {kind_of(value)}')
        fields[name] = encodable(value)
    if raw.get("history"):
        raise BadObjectError('"history" holds earlier turns; a row is one question and its answer')
    if fields["instruction"] and fields["input"]:
        instruction, paper = fields["instruction"] + "\n", fields["input"]  # joined as LLaMA-Factory joins them
    else:
        instruction, paper = split_human_turn(fields["instruction"] or fields["input"])
    return Exchange(fields["system"] or None, instruction, paper, fields["output"], "assistant", _metadata(raw))


_ALPACA = Shape("alpaca", ("instruction", "input", "output", "system", "history", "_metadata"), _read_alpaca)
SHAREGPT = _chat(_SHAREGPT, _LISTS[0])
"""The default: what rows are taken for where nothing else can be told."""


def recognised(raw: Mapping[str, Any]) -> Shape | None:
    """The shape that an object looks like, sound or not; None if it looks like none."""
    keys = [key for key in _LISTS if raw.get(key) is not None]
    for key in keys:
        value = raw[key]
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict):
            for tags in (_SHAREGPT, _OPENAI):
                if tags.role in first or tags.text in first:
                    return _chat(tags, key)
    if keys:
        return _chat(_SHAREGPT if keys[0] == _LISTS[0] else _OPENAI, keys[0])
    if "instruction" in raw and "output" in raw:
        return _ALPACA
    return None


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


def _metadata(raw: Mapping[str, Any]) -> Metadata:
    meta = raw.get("_metadata")
    if meta is None:
        return Metadata()
    if not isinstance(meta, dict):
        raise BadObjectError(f'"_metadata" should be an object, found {kind_of(meta)}')
    return Metadata(meta.get("submission_id"), meta.get("year"), meta.get("true_log_odds"))


def _system_of(field: object, turn: str | None) -> str | None:
    """The system prompt: a turn, or LLaMA-Factory's field beside the turns."""
    if field is None or field == "":
        return turn
    if not isinstance(field, str):
        raise BadObjectError(f'"system" should be text, found {kind_of(field)}')
    text = encodable(field)
    if turn is not None and turn != text:
        raise BadObjectError('"system" and the system turn differ; keep one of them')
    return text


def encodable(text: str) -> str:
    """Lone surrogates, which no UTF-8 text can hold, become `?`, as the JSON array reader reads them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def excerpt(value: Any) -> str:
    """A value in one short line."""
    if isinstance(value, str) and len(value) > 60:
        value = f"{value[:30]} ... {value[-25:]}"
    return repr(value)[:120]


def kind_of(value: object) -> str:
    """What a decoded value is, in words."""
    names = {"dict": "an object", "list": "a list", "str": "text", "int": "a number", "float": "a number"}
    names |= {"bool": "true or false", "NoneType": "nothing"}
    return names.get(type(value).__name__, type(value).__name__)
