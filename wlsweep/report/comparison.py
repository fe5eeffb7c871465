"""The page and the terminal table of `wlsweep compare`."""

from __future__ import annotations

from textwrap import fill

from rich.table import Table as Lines

from wlsweep.analysis.compare_runs import RunComparison, RunDifference
from wlsweep.estimate import POINTS, SHIFT, count, p_value
from wlsweep.report.blocks import Columns, Drawn, Section, number, p_cell, table_of, text
from wlsweep.report.figures.scatter import short, two_a_row
from wlsweep.report.figures.style import Figure
from wlsweep.report.page import render
from wlsweep.spec.condition import parse_name
from wlsweep.spec.task import Words


def _what(words: Words) -> str:
    return (
        f"Second minus first run. 95% intervals over {words.items}; they and McNemar's test are about these trainings."
    )


def comparison_page(found: RunComparison, first: str, second: str) -> str:
    """The whole HTML."""
    words = found.words
    better, worse = (
        [d.name for d in found.differences if d.p_holm < 0.05 and sign * (d.accuracy.value or 0.0) > 0]
        for sign in (1, -1)
    )
    paragraphs = [
        f"{second} is right on more {words.items} than {first} in {len(better)} of "
        f"{count(len(found.differences), 'condition')} and"
        f" on fewer in {len(worse)} (exact McNemar test, Holm-corrected over {len(found.differences)}, at 5%)."
    ]
    paragraphs += [f"{title}: {', '.join(names)}." for title, names in (("More", better), ("Fewer", worse)) if names]
    for where, names in ((first, found.only_first), (second, found.only_second)):
        if names:
            paragraphs.append(f"Predicted in {where} only: {', '.join(names)}.")
    columns: Columns[RunDifference] = (
        ("condition", lambda d: text(d.name)),
        (f"predicted {words.rate} (points)", lambda d: number(d.accept_rate, POINTS)),
        ("accuracy (points)", lambda d: number(d.accuracy, POINTS)),
        ("mean log-odds", lambda d: number(d.log_odds, SHIFT)),
        (f"{words.items} decided differently", lambda d: text(d.decided_differently)),
        ("McNemar p", lambda d: p_cell(d.test.p)),
        ("Holm p", lambda d: p_cell(d.p_holm)),
    )
    table = table_of("differences", "Differences by condition", columns, found.differences, _what(words))
    section = Section("answer", "What differs", paragraphs, [Drawn(_figure(found)), table])
    tested = count(found.rows, f"test {words.item}", f"test {words.items}")
    lead = f"{first} and {second} on the same {tested}, paired by {words.item}. {_what(words)}"
    return render(f"{first} against {second}", lead, [section], f"{words.items} alone")[0]


def _figure(found: RunComparison) -> Figure:
    rows = list(found.differences)[::-1]
    data, layout = two_a_row(
        (f"predicted {found.words.rate}", "#0072B2", [d.accept_rate for d in rows]),
        ("accuracy", "#D55E00", [d.accuracy for d in rows]),
        [d.name for d in rows],
        [short(parse_name(d.name), found.words) for d in rows],
        "second minus first, percentage points",
    )
    caption = f"Where an interval holds 0, the two runs cannot be told apart on these {found.words.items}."
    return Figure("differences", "Second against first run", caption, data, layout)


def comparison_table(found: RunComparison) -> Lines:
    """The same for the terminal."""
    lines = Lines(title=f"{_what(found.words)} In points.", title_justify="left", box=None, pad_edge=False)
    lines.add_column("condition", overflow="fold")
    for heading in (fill(found.words.rate, 16), "accuracy", "Holm p"):
        lines.add_column(heading, justify="right", no_wrap=True)
    for d in found.differences:
        both = (POINTS.full(e).replace(" to ", ", ") for e in (d.accept_rate, d.accuracy))  # 80 columns
        lines.add_row(d.name, *both, p_value(d.p_holm))
    return lines
