"""The table that `wlsweep run` and `wlsweep evaluate` end with."""

from __future__ import annotations

from textwrap import fill

from rich.table import Table
from rich.text import Text

from wlsweep.analysis.answers import answer_warnings, unfinished
from wlsweep.analysis.evaluate import Evaluation
from wlsweep.analysis.evaluation_records import MetricName
from wlsweep.estimate import Format, percent

_WITH_INTERVAL: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy")
_SHORT = Format(2)


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
