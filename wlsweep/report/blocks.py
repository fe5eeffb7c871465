"""The building blocks of the page as plain data: cells, tables, sections; the template only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wlsweep.report.figures.style import Figure

Entry = dict[str, Any]


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
    kind: str = "table"


@dataclass(frozen=True)
class Drawn:
    """A figure in the flow of the page."""

    figure: Figure
    kind: str = "figure"


@dataclass(frozen=True)
class Verdicts:
    """Judged claims."""

    verdicts: list[dict[str, Any]]
    kind: str = "verdicts"


@dataclass(frozen=True)
class Listing:
    """Bullet points."""

    entries: list[str]
    kind: str = "list"


@dataclass(frozen=True)
class Code:
    """Verbatim text; folded away under `title` where one is given."""

    text: str
    title: str = ""

    @property
    def kind(self) -> str:
        """What the template draws."""
        return "details" if self.title else "code"


Block = Table | Drawn | Verdicts | Listing | Code


@dataclass(frozen=True)
class Section:
    """A question of the reader and its answer."""

    slug: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


def share(entry: Entry, key: str) -> Cell:
    """A share in percent with its interval."""
    return number(entry, key, lambda v: f"{100 * v:.1f}%")


def plain(entry: Entry, key: str, digits: int = 3) -> Cell:
    """A number with its interval."""
    return number(entry, key, lambda v: f"{v:.{digits}f}")


def number(entry: Entry, key: str, show: Callable[[float], str]) -> Cell:
    """The number under `key` with the interval under `key_low` and `key_high`, or a dash."""
    value, low, high = (entry.get(k) for k in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return Cell("-", "", number=True)
    if low is None or high is None:
        return Cell(show(value), value, number=True)
    return Cell(show(value), value, low, high, f"{show(low)} to {show(high)}", number=True)


def text(value: object) -> Cell:
    """A word or a count."""
    return Cell(str(value), value if isinstance(value, int | float) else None, number=isinstance(value, int | float))


def metric_row(lead: Sequence[Cell], entry: Entry, columns: Sequence[tuple[str, str]]) -> Row:
    """Leading cells, then one cell a metric, empty where the entry has none."""
    if entry.get("state", "done") != "done":
        return Row([*lead, *([Cell("", "")] * len(columns))], "bad")
    kinds = {"share": share, "plain": plain}
    return Row([*lead, *(kinds[kind](entry, key) for key, kind in columns)])
