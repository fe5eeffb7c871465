"""Heatmaps on one fixed grid: gamma (from reject 8 over the baseline to accept 8) by proportion.

Every cell holds its number and interval; cells that the sweep does not declare say "not run", others their state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wlsweep.analysis.evaluation_records import MetricName, ModelResult
from wlsweep.report.figures.gamma import family
from wlsweep.report.figures.style import Figure, Layout, Trace, axis, base_layout, upright
from wlsweep.spec.task import ICLR, Words

# cividis (Nunez et al. 2018): even in brightness, so it reads in grey and under colour blindness
_MOST_COLUMNS = 16  # with more, cells are too narrow for words
_SCALE = [[0.0, "#00204d"], [0.25, "#414d6b"], [0.5, "#7c7b78"], [0.75, "#bcaf6f"], [1.0, "#ffea46"]]

CELLS = "Each cell: percent, with its 95% interval below. "
"""How captions explain the words in the cells."""


def _signs(words: Words) -> tuple[str, str]:
    """A sign for each class, the positive one first, for narrow screens: its initial, where the two differ."""
    first, other = words.positive[0].upper(), words.negative[0].upper()
    return (first, other) if first != other else ("+", "-")


def heatmap(
    results: Sequence[ModelResult],
    metric: MetricName,
    title: str,
    caption: str,
    full_range: bool = True,
    empty: str = "not run",
    words: Words = ICLR.words,
) -> Figure:
    """One metric of the plain conditions (seed 0, no other axis varied), kinds of fine-tuning one below the other.

    Args:
        results: conditions.
        metric: a share.
        title: of the figure.
        caption: what to see.
        full_range: colours run from 0 to 1 instead of over what occurs.
        empty: what a cell without a condition says.
        words: of the task.
    """
    conditions = {
        r.name: r.condition
        for r in results
        if r.condition and not family(replace(r.condition, lora=0)) and not r.condition.seed
    }
    columns = sorted({(c.signed_log_gamma, c.variant, c.gamma) for c in conditions.values()})
    rows = sorted({(c.lora, c.k) for c in conditions.values()})
    several = len({rank for rank, _ in rows}) > 1
    proportions = [f"1/{k}" + (f" lora{rank}" if several and rank else "") for rank, k in rows]
    values: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    said = [[empty] * len(columns) for _ in rows]
    for r in results:
        if (c := conditions.get(r.name)) is None:
            continue
        i, j = rows.index((c.lora, c.k)), columns.index((c.signed_log_gamma, c.variant, c.gamma))
        e = r[metric].scaled(100)
        if not r.done:
            said[i][j] = r.state
        elif e.value is None or e.interval is None:
            said[i][j] = "none"
        else:
            values[i][j] = r[metric].value
            said[i][j] = f"<b>{e.value:.0f}</b><br>{e.low:.0f}-{e.high:.0f}"
    known = [v for row in values for v in row if v is not None]
    low, high = (0.0, 1.0) if full_range or not known else (min(known), max(known))
    names = ["1" if variant == "baseline" else f"{words.variant(variant)} {g:g}" for _, variant, g in columns]
    first, other = _signs(words)
    sign = {"accept": first, "reject": other}
    short = ["1" if variant == "baseline" else f"{sign[variant]}{g:g}" for _, variant, g in columns]
    places = list(range(len(columns)))
    every = -(-len(columns) // _MOST_COLUMNS)
    annotations: list[Layout] = [
        {
            "x": j,
            "y": i,
            "text": said[i][j],
            "showarrow": False,
            "font": {"size": 11, "color": _ink(values[i][j], low, high)},
        }
        for i in range(len(rows))
        for j in places
        if len(columns) <= _MOST_COLUMNS
    ]
    if not annotations:
        caption = caption.replace(CELLS, "Numbers and intervals are in the table; empty cells have none. ")
    data: list[Trace] = [
        {
            "type": "heatmap",
            "x": places,
            "y": list(range(len(rows))),
            "z": values,
            "zmin": low,
            "zmax": max(high, low + 1e-9),
            "colorscale": _SCALE,
            "xgap": 2,
            "ygap": 2,
            "hoverongaps": False,
            "colorbar": {"tickformat": ".0%", "thickness": 12, "len": 1.0},
            "hovertemplate": "gamma %{x}, proportion %{y}: %{z:.1%}<extra></extra>",
        }
    ]
    y = axis(
        upright(f"{words.positives} in training"),
        tickvals=list(range(len(rows))),
        ticktext=proportions,
        autorange="reversed",
    )
    height = 120 + 46 * max(3, len(rows))  # the axis title needs three rows
    bare = {"gridcolor": "rgba(0,0,0,0)"}
    wide = base_layout(height, annotations=annotations, yaxis=y | bare)
    wide["xaxis"] = axis("gamma, by the class that it weighs", tickvals=places[::every], ticktext=names[::every]) | bare
    narrow = {
        "xaxis": wide["xaxis"]
        | {
            "ticktext": short[::every],
            "title": {"text": f"gamma ({other}: on {words.negatives}, {first}: on {words.positives})"},
        },
        "annotations": [
            a | {"text": str(a["text"]).replace(empty, empty.replace(" ", "<br>")), "font": a["font"] | {"size": 9}}
            for a in annotations
        ],
        "margin": {"l": 46, "r": 4, "t": 14, "b": 50},
    }
    half = {
        "height": 84 + 40 * max(3, len(rows)),
        "xaxis": narrow["xaxis"],
        "margin": {"l": 52, "r": 4, "t": 10, "b": 46},
        "annotations": [a | {"font": a["font"] | {"size": 10}} for a in annotations],
    }
    return Figure(f"heatmap_{metric}", title, caption, data, wide, narrow, half)


def _ink(value: float | None, low: float, high: float) -> str:
    if value is None:
        return "#777777"
    return "#ffffff" if value < low + 0.55 * (high - low) else "#111111"
