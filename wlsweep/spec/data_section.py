"""The section `[data]` of a search space: where rows come from and how the training sets are drawn; and `[data.columns]`,
which says what is where if rows are a table and no chats.

[data.columns]
text = ["title", "abstract"]
label = "decision"
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from wlsweep.spec.section import MOST, Count, Section, Seed, Share


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


class SyntheticPapers(Section):
    """Papers drawn from a model whose P(accept | text) is known in closed form; see `wlsweep.data.synthetic`."""

    base_rows: int = Field(24_000, ge=2, le=MOST)
    """Balanced rows on which the tiny base model is made; disjoint from the others."""
    train_rows: int = Field(2_000, ge=2, le=MOST)
    """Balanced rows of the source that the proportions are drawn from."""
    test_rows: int = Field(1_000, ge=2, le=MOST)
    """Balanced rows of the test set."""
    words: int = Field(24, ge=12, le=100_000)
    """Words of a paper, ten of them informative."""
    seed: Seed = 0
    """Seed of the whole world."""


def system_notes(system: str) -> list[str]:
    """What became of system turns, in words; nothing where they were kept."""
    done = {"merge": "put before the text of the user's turn", "drop": "left out"}
    return [f'system turns are {done[system]} (data.system = "{system}")'] if system in done else []


SystemTurns = Literal["keep", "merge", "drop"]


class Data(Section):
    """Where rows come from and how the training sets are drawn."""

    source: str | None = None
    """Rows to train on: a file, the shards of a set (`train-*.parquet`), or a folder that holds `train.*` and `test.*`, such
    shards, or what `datasets.save_to_disk` wrote. Their shape is told by their content: docs/your-data.md."""
    test: str | None = None
    """Rows to test on; without it `test_share` of the source is split off."""
    pool: str | None = None
    """Extra rows for the class that falls short, under `resampling = "pool"`."""
    columns: Columns | None = None
    """Which columns hold what, where rows are no chats."""
    synthetic: SyntheticPapers | None = None
    """A made world instead of files."""
    test_share: Share = 0.2
    """Share of each class that becomes the test set where no test file is given (by a hash of the row id)."""
    validation_share: float = Field(0.0, ge=0, lt=1)
    """Share of each class of the training rows that is held out for validation (by a hash of the row id; no test rows, no
    rows of a pool): the same papers for every condition, in no mix. With it learning rate and epochs can be chosen
    without the test set. Literal counts of `table` shrink by it. 0: no validation."""
    resampling: Literal["table", "oversample", "common_total", "pool", "error"] = "error"
    """What to do where a class is too small for a proportion; see `wlsweep.data.mix`."""
    table: dict[str, Annotated[tuple[Count, Count], Strict(False)]] | None = None
    """Literal (accepts, rejects) by proportion, such as `"1/3" = [5702, 11399]`."""
    seed: Seed = 0
    """Seed of split and subsets."""
    limit: int | None = Field(None, ge=8, le=MOST)
    """Rows of every set in a trial run (`wlsweep run --limit`); without it all."""
    cutoff: int = Field(4096, ge=8, le=10_000_000)
    """Longest row, in tokens; what does not fit is cut from the end of the paper."""
    system: SystemTurns = "keep"
    """What becomes of the rows' system turns: `keep` gives them to the chat template as such, and a template without a
    system role is refused; `merge` puts their text before the user's; `drop` leaves them out."""

    @property
    def notes(self) -> list[str]:
        """What a reader of results should know of how prompts and mixes are made."""
        scaled = (
            f"the counts of data.table are scaled by {1 - self.validation_share:g}: data.validation_share is held out"
        )
        return system_notes(self.system) + [scaled] * bool(self.table and self.validation_share)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.synthetic and (self.source or self.test or self.pool or self.columns):
            raise ValueError("synthetic papers and files (source, test, pool, columns) exclude each other")
        if (self.resampling == "table") != (self.table is not None):
            raise ValueError('resampling = "table" and [data.table] belong together')
        for name, (accepts, rejects) in (self.table or {}).items():
            if not (found := re.fullmatch(r"1/([1-9]\d{0,9})", name)) or int(found[1]) < 2:
                raise ValueError(f'[data.table] {name!r}: write a proportion as a share of accepts, such as "1/3"')
            total, wanted = accepts + rejects, (accepts + rejects) / int(found[1])
            if abs(accepts - wanted) > max(1.0, 0.01 * total):
                raise ValueError(
                    f"[data.table] {name!r} = [{accepts}, {rejects}]: {accepts / total:.1%} accepts is not {name}, which is "
                    f"about [{wanted:.0f}, {total - wanted:.0f}]"
                )
        if self.resampling == "pool" and not self.pool:
            raise ValueError('resampling = "pool" needs pool = "FILE"')
        if self.pool and self.resampling != "pool":
            raise ValueError(
                f'pool = {self.pool!r} would not be read under resampling = "{self.resampling}": set resampling = "pool", '
                'or take pool away (pool = "" removes an inherited one)'
            )
        return self
