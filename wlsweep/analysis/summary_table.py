"""The table that `wlsweep run` and `wlsweep evaluate` end with, and what a reader must know before trusting a number, said
by the page and by the terminal alike."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from rich.table import Table
from rich.text import Text

from wlsweep.analysis.evaluate import Evaluation
from wlsweep.analysis.evaluation_records import MetricName, ModelResult
from wlsweep.estimate import Format, count, percent
from wlsweep.spec.task import ICLR, Words

_WITH_INTERVAL: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy")
_SHORT = Format(2)
_NAMED = 3
"""Conditions that are named one by one where the same holds of several."""


def summary_table(evaluation: Evaluation) -> Table:
    """Conditions by row, 80 columns wide: shares in percent with 95% intervals, ? counts answers that name no label.

    What is not done says why under the table, where also stands what the page warns of in the answers.
    """
    table = Table(
        title="predictions by condition (%, 95% interval)",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("condition", overflow="fold")  # a long name takes a second line before a number is cut
    words = evaluation.analysis.words
    for heading in (fill(words.rate, 16), "accuracy", "AUC", "ECE", "?"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in [*evaluation.conditions, *evaluation.externals]:
        if result.metrics is None:
            table.add_row(Text(result.name), Text(result.state, style="red"))
            continue
        table.add_row(
            Text(result.name),
            *(percent(result[metric]) for metric in _WITH_INTERVAL),
            *(_SHORT.value(result[metric].value) for metric in ("auc", "ece")),
            str(result.metrics.unknown),
        )
    causes = unfinished([*evaluation.conditions, *evaluation.externals])
    doubts = answer_warnings([*evaluation.conditions, *evaluation.externals], words)
    if causes or doubts:
        table.caption = Text("\n").join(
            [*(Text(c, style="red") for c in causes), *(Text(d, style="yellow") for d in doubts)]
        )
    return table


def unfinished(conditions: Sequence[ModelResult]) -> list[str]:
    """A line for each condition that is not done, with its cause; one for all of which the same is to be said."""
    alike: dict[tuple[str, str], list[str]] = {}
    for c in conditions:
        if not c.done:
            alike.setdefault((c.state, c.cause or ""), []).append(c.name)
    lines = []
    for (state, cause), names in alike.items():
        who = names if len(names) <= _NAMED else [f"{len(names)} conditions"]
        lines += [f"{name}: {state} ({cause})" for name in who]
    return lines


def answer_warnings(models: Sequence[ModelResult], words: Words = ICLR.words) -> list[str]:
    """A sentence for each kind of doubt about the generated answers of some models; none where there is none."""
    lines = []
    known = [(r.name, r.metrics) for r in models if r.metrics is not None]
    if unknown := [(name, m) for name, m in known if m.unknown]:
        name, worst = max(unknown, key=lambda pair: pair[1].unknown)
        lines.append(
            f"Answers that could not be read occur in the predictions of {count(len(unknown), 'model')}; most in"
            f" {name} ({worst.unknown:,} of {worst.n:,}). The headline decisions come from the margin and"
            " do not need them."
        )
    if differing := [(name, m) for name, m in known if m.text_differs]:
        name, worst = max(differing, key=lambda pair: pair[1].text_differs)
        lines.append(
            f"In the predictions of {count(len(differing), 'model')} some generated texts contradict the margin; most in"
            f" {name} ({worst.text_differs:,} of {worst.n:,})."
        )
    if ties := sum(m.ties for _, m in known):
        lines.append(f"A margin of exactly 0 counts as {words.labels[1]}; it occurs {ties:,} times.")
    if other := [name for name, m in known if (m.p_other_mean or 0) > 0.05]:
        lines.append("More than 5% of the probability goes to neither label in " + ", ".join(other[:5]) + ".")
    return lines
