"""The table that `wlsweep run` and `wlsweep evaluate` end with."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from wlsweep.analysis.evaluate import Evaluation

_WITH_INTERVAL = (("predicted_accept_rate", "accept rate"), ("accuracy", "accuracy"))


def summary_table(evaluation: Evaluation) -> Table:
    """Conditions by row, 80 columns wide: shares in percent with 95% intervals, ? counts answers that name no label.

    What is not done says why under the table.
    """
    table = Table(
        title="predictions by condition (%, 95% interval)",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("condition", overflow="fold")  # a long name takes a second line before a number is cut
    for _, heading in (*_WITH_INTERVAL, ("auc", "AUC"), ("ece", "ECE"), ("unknown", "?")):
        table.add_column(heading, justify="right", no_wrap=True)
    causes = []
    for entry in [*evaluation.entries, *evaluation.analysis.get("externals", [])]:
        if entry["state"] != "done":
            table.add_row(Text(entry["name"]), Text(entry["state"], style="red"))
            causes.append(f"{entry['name']}: {entry['cause']}")
            continue
        table.add_row(
            Text(entry["name"]),
            *(percent(entry, key) for key, _ in _WITH_INTERVAL),
            *("-" if entry[key] is None else f"{entry[key]:.2f}" for key in ("auc", "ece")),
            str(entry["unknown"]),
        )
    if causes:
        table.caption = Text("\n".join(causes), style="red")
    return table


def percent(entry: dict[str, Any], key: str) -> str:
    """`48.3 (46.1-50.5)`: a share and its interval in percent; `-` where it does not exist."""
    value, low, high = (entry.get(k) for k in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ({100 * low:.1f}-{100 * high:.1f})"
