"""The building blocks of the page as plain data: cells, tables, sections; the template only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from wlsweep.analysis.evaluation_records import Judged
from wlsweep.estimate import NONE, Estimate, Format, p_value
from wlsweep.report.figures.style import Figure


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, what sorts and goes into the CSV, and its interval."""

    text: str
    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    range: str = ""
    number: bool = False


@dataclass(frozen=True)
class Row:
    """A row; `tone` is "bad" for what failed or is missing."""

    cells: list[Cell]
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table that sorts and downloads as `slug`.csv."""

    slug: str
    title: str
    headings: list[str]
    rows: list[Row]
    note: str = ""
    more: frozenset[str] = frozenset()
    """Headings of columns that are shown on request, and always in the CSV."""
    folded: bool = False
    """Whether the table is shown on request."""
    kind: str = "table"


@dataclass(frozen=True)
class Drawn:
    """A figure in the flow of the page."""

    figure: Figure
    kind: str = "figure"


@dataclass(frozen=True)
class Pair:
    """Figures that stand beside each other where the screen is wide enough."""

    figures: Sequence[Figure]
    kind: str = "pair"


@dataclass(frozen=True)
class Answer:
    """The verdicts, a line each, beside the main figures."""

    most: ClassVar[int] = 200
    """Numbers of a verdict that the page shows: with 1,000 conditions one has 50,000 comparisons, 5 MB."""
    verdicts: Sequence[Judged]
    figures: Sequence[Figure] = ()
    kind: str = "answer"


@dataclass(frozen=True)
class Listing:
    """Bullet points; folded away under `title` where one is given."""

    entries: list[str]
    title: str = ""
    kind: str = "list"


@dataclass(frozen=True)
class Code:
    """Verbatim text; folded away under `title` where one is given."""

    text: str
    title: str = ""
    kind: str = "code"


Block = Table | Drawn | Pair | Answer | Listing | Code


@dataclass(frozen=True)
class Section:
    """A question of the reader and its answer."""

    slug: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


T = TypeVar("T")
Columns = Sequence[tuple[str, Callable[[T], Cell]]]
"""Each column's heading, and its cell in the row of something."""


def table_of(slug: str, title: str, columns: Columns[T], things: Iterable[T], note: str, folded: bool = False) -> Table:
    """A table with a row for each thing."""
    rows = [Row([cell(thing) for _, cell in columns]) for thing in things]
    return Table(slug, title, [heading for heading, _ in columns], rows, note, folded=folded)


def number(e: Estimate, form: Format, ci: Format | None = None) -> Cell:
    """A number with its interval, which is written in the format `ci` where another is given."""
    if e.value is None:
        return Cell(NONE, "", number=True)
    at = e.scaled(form.scale if not form.unit else 1)  # with a unit in the cell, the value stays a share
    return Cell(form.value(e.value), at.value, at.low, at.high, (ci or form).range(e), number=True)


def text(value: object) -> Cell:
    """A word or a count."""
    return Cell(str(value), value if isinstance(value, int | float) else None, number=isinstance(value, int | float))


def p_cell(p: float | None) -> Cell:
    """A p value, or that there is none."""
    return Cell(p_value(p), "" if p is None else p, number=True)
