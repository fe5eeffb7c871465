"""`[data.columns]` of a search space: which columns hold what, where rows are a table and no chats.

[data.columns]
text = ["title", "abstract"]
label = "decision"
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def cell_text(value: object) -> object:
    """A plain value as CSV writes it: `1` of 1 and 1.0, `true` of True; anything else as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float) else value


Names = Annotated[list[str], Field(min_length=1), BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Values = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(lambda v: [cell_text(one) for one in (v if isinstance(v, list | tuple) else [v])]),
]


class Columns(BaseModel):
    """Which columns hold what, for tables (CSV, TSV, Parquet, Arrow, JSON objects): `text` or `prompt`, and `label`. Of rows
    that are chats, `id` and `year` alone may be named here."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    text: Names | None = None
    """Columns that make up the paper, such as `["title", "abstract"]`, joined by blank lines. Each row's text is cut at its
    end where it does not fit."""
    instruction: str | None = None
    """What is asked of every `text`: put before it with a blank line, and never cut."""
    prompt: str | None = None
    """In place of `text` and `instruction`: a column of whole user turns, whose first paragraph is the instruction."""
    label: str | None = None
    """Column of the label: its text, bare or boxed, or one of the values below."""
    positive: Values | None = None
    """Values of the label's column that mean the positive label of `[task]`, such as `["accepted", 1]`."""
    negative: Values | None = None
    """Values that mean the other label. Any further value is an error."""
    system: str | None = None
    """Column of system prompts."""
    id: str | None = None
    """Column that identifies a row; without it a hash of the text does."""
    year: str | None = None
    """Column of the year, for metrics by year."""

    @property
    def is_table(self) -> bool:
        """Whether rows are made of columns; otherwise they are chats."""
        return self.label is not None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.is_table:
            if (self.text is None) == (self.prompt is None):
                raise ValueError("give one of text (columns of the paper) and prompt (a column of whole user turns)")
        elif lacking := [n for n in ("text", "prompt", "positive", "system") if getattr(self, n) is not None]:
            raise ValueError(f"{lacking[0]} needs label, the column that holds the label")
        if self.instruction is not None and self.text is None:
            raise ValueError("instruction is put before text, and no text is named")
        if (self.positive is None) != (self.negative is None):
            raise ValueError("positive and negative belong together: name the values of both")
        if both := sorted(set(self.positive or ()) & set(self.negative or ())):
            raise ValueError(f"{both[0]!r} is named as positive and as negative")
        return self
