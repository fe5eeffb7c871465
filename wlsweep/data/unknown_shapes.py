"""What rows look like that are of no shape that is read, and what to do with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wlsweep.data.row_files import RowFiles

_SHAPES = (
    "read are ShareGPT (conversations), OpenAI messages (messages), alpaca (instruction, input, output), and tables whose "
    "columns [data.columns] names; see docs/your-data.md"
)


def unknown_shape(source: RowFiles, names: Sequence[str], first: Sequence[Mapping[str, Any]]) -> str:
    """The message for a set of no known shape.

    Args:
        source: the set.
        names: of the columns, or of the keys of its first objects.
        first: its first objects.
    """
    row = first[0] if first else {}
    for looks_like, is_one, do in _KNOWN:
        if is_one(set(names), row):
            return f"{source} looks like {looks_like}: {do} (its keys: {_listed(names)})"
    return (
        f"{source} looks like a table with the columns {_listed(names)}; say which is which in the search space:\n"
        + (_suggestion(names, first) + f"\n({_SHAPES})")
    )


_HEADINGS = ("title", "subject", "headline")
"""Columns of short texts that belong to the long ones."""


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(name[:60] for name in names[:12])
    return text + (", ..." if len(names) > 12 else "")


def _suggestion(names: Sequence[str], first: Sequence[Mapping[str, Any]]) -> str:
    """`[data.columns]` as it may be meant: the longest texts, and the column with the fewest values."""
    cells = {name: [row.get(name) for row in first] for name in names}
    lengths = {
        n: sum(len(v) for v in values if isinstance(v, str)) / max(1, len(values)) for n, values in cells.items()
    }
    longest = max(lengths.values(), default=0.0)
    texts = [n for n in names if n.lower() in _HEADINGS or lengths[n] >= max(20.0, longest / 20)] or list(names[:1])
    fitting = [n for n in names if n not in texts and 0 < len({str(v) for v in cells[n]}) <= max(2, len(first) // 4)]
    named = [
        n for n in names if n.lower() in ("label", "labels", "decision", "class", "target", "outcome", "answer", "y")
    ]
    label = (named or sorted(fitting, key=lambda n: len({str(v) for v in cells[n]})) or ["..."])[0]
    texts = [name for name in texts if name != label] or ["..."]
    written = f'["{texts[0]}"]' if len(texts) == 1 else "[" + ", ".join(f'"{t}"' for t in texts) + "]"
    found = sorted({str(v) for v in cells.get(label, ())})[:4]
    lines = [
        "[data.columns]",
        f"text = {written}",
        'instruction = "..."    # what is asked of each',
        f'label = "{label}"',
    ]
    if found:
        lines += [f"positive = [...]    # which of {', '.join(found)[:80]} mean the positive label", "negative = [...]"]
    lines += [f'id = "{n}"' for n in names if n.lower() == "id" or n.lower().endswith("_id")][:1]
    lines += [f'year = "{n}"' for n in names if n.lower() == "year"][:1]
    return "\n".join(f"  {line}" for line in lines)


def _has(*keys: str) -> Callable[[set[str], Mapping[str, Any]], bool]:
    return lambda names, _: set(keys) <= names


def _is_wrapped(names: set[str], row: Mapping[str, Any]) -> bool:
    return len(names) <= 4 and any(isinstance(v, list) and v and isinstance(v[0], dict) for v in row.values())


def _is_by_column(_: set[str], row: Mapping[str, Any]) -> bool:
    return bool(row) and all(isinstance(v, dict) and v and all(str(k).isdigit() for k in v) for v in row.values())


_KNOWN: tuple[tuple[str, Callable[[set[str], Mapping[str, Any]], bool], str], ...] = (
    ("predictions", _has("row_id", "p_accept"), "give them to `wlsweep report RUN --external NAME=FILE`"),
    (
        "a batch of requests to OpenAI",
        _has("custom_id", "body"),
        "write the messages of each body, with the answer as its last turn, as {messages: [...]}",
    ),
    (
        "pairs of preferences",
        _has("chosen", "rejected"),
        "a row here is one question with one labelled answer; write the label as the answer",
    ),
    (
        "prompts and completions",
        _has("prompt", "completion"),
        'name them in the search space: [data.columns] prompt = "prompt", label = "completion"',
    ),
    (
        "an answer of the hub's data set viewer",
        _has("rows", "features"),
        "it holds the first rows only; fetch the files (hf download --repo-type dataset NAME)",
    ),
    (
        "columns as pandas' to_json writes them",
        _is_by_column,
        "write rows: to_json(orient='records', lines=True)",
    ),
    (
        "one object around the rows",
        _is_wrapped,
        "write the list inside as a JSON array, or one object a line (jq -c '.KEY[]' FILE)",
    ),
)
