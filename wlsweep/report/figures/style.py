"""How figures look, decided once: a colour, marker and dash per proportion; panels beside each other or stacked.

Colours are those of Okabe and Ito, told apart by all common kinds of colour vision; markers and dashes tell them apart
in grey. Figures are plain Plotly dictionaries, so that drawing a page needs no Plotly in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log2, log10
from textwrap import wrap
from typing import Any

from wlsweep.estimate import Estimate

Trace = dict[str, Any]
"""A series of a figure, in Plotly's own JSON, whose schema has thousands of optional keys and comes with Plotly: what Plotly
does not know it ignores, so figures are looked at by the tests that draw them."""
Axis = dict[str, Any]
Layout = dict[str, Any]
"""Axes and the layout that holds them, likewise."""

# the page's script swaps these, each a colour that nothing else has, where the reader's screen is dark
INK, FAINT, PAPER = "#222222", "#8a8a8a", "#fffffe"
GRID = "#e6e6e6"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#5B4B8A")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
_PLACES = {2: 0, 3: 1, 4: 2, 8: 3}


@dataclass(frozen=True)
class Mark:
    """Colour, marker and dash of one proportion."""

    colour: str
    symbol: str
    dash: str


@dataclass(frozen=True)
class Figure:
    """A figure of the page: Plotly data, its layout on a wide and on a narrow screen, and what to see in it."""

    slug: str
    """Name of the PNG and of the place in the page."""
    title: str
    caption: str
    data: list[Trace]
    wide: Layout
    narrow: Layout = field(default_factory=dict)
    """What differs from `wide` on a narrow screen."""
    half: Layout = field(default_factory=dict)
    """What differs from `wide` where the figure has half of the page's width."""


def mark(k: int) -> Mark:
    """The look of proportion 1/k, the same in every figure of every sweep."""
    place = _PLACES.get(k, 4 + k % 4)
    return Mark(_COLOURS[place], _MARKERS[place], _DASHES[place])


def base_layout(height: int = 420, **more: Any) -> Layout:
    """The layout that all figures share."""
    return {
        "height": height,
        "font": {"family": "system-ui, 'Liberation Sans', 'DejaVu Sans', sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "margin": {"l": 62, "r": 16, "t": 34, "b": 56},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left"},
        "hoverlabel": {"namelength": -1},
        **more,
    }


def axis(title: str, **more: Any) -> Axis:
    """An axis with a light grid."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": INK,
        "ticks": "outside",
        "zeroline": False,
        "automargin": True,
        **more,
    }


def share_axis(title: str, **more: Any) -> Axis:
    """An axis of shares, in percent."""
    return axis(title, **({"tickformat": ".0%", "range": [0, 1]} | more))


def upright(title: str, most: int = 22) -> str:
    """The title of a y axis, in lines of at most `most` characters (more where a word is longer): a small figure is no
    higher than "Predicted accept rate" is long."""
    return "<br>".join(wrap(title, most, break_long_words=False, break_on_hyphens=False))


def gamma_axis(gammas: list[float]) -> Axis:
    """A log2 axis that names the gammas of the sweep, or powers of two where it has too many."""
    ticks = sorted(set(gammas))
    if len(ticks) > 9:
        ticks = [2.0**i for i in range(floor(log2(ticks[0])), ceil(log2(ticks[-1])) + 1)]
    return axis(
        "gamma (log2 scale)",
        type="log",
        tickvals=ticks,
        ticktext=[f"{g:g}" for g in ticks],
        range=[log10(ticks[0]) - 0.08, log10(ticks[-1]) + 0.08],
        minor={"ticks": ""},
    )


def panels(titles: list[str], columns: int, x: Axis, y: Axis, gap: float = 0.08, row_gap: float = 0.16) -> Layout:
    """Axes x, y, x2, y2, ... of panels in rows of `columns`, with a title above each; y titles on the left only."""
    rows = -(-len(titles) // columns)
    width = (1 - gap * (columns - 1)) / columns
    height = (1 - row_gap * (rows - 1)) / rows
    out: Layout = {"annotations": []}
    inner = {"title": {"text": ""}, "automargin": False}  # an inner axis cannot leave the figure; asking costs a redraw
    for i, title in enumerate(titles):
        row, column = divmod(i, columns)
        left, top = column * (width + gap), 1 - row * (height + row_gap)
        suffix = str(i + 1) if i else ""
        across, up = [left, min(left + width, 1)], [max(top - height, 0), top]
        below = row < rows - 1 and i + columns < len(titles)
        out[f"xaxis{suffix}"] = x | {"domain": across, "anchor": f"y{suffix}"} | (inner if below else {})
        out[f"yaxis{suffix}"] = y | {"domain": up, "anchor": f"x{suffix}"} | (inner if column else {})
        out["annotations"].append(
            {
                "text": f"<b>{title}</b>",
                "xref": "paper",
                "yref": "paper",
                "x": sum(across) / 2,
                "y": top,
                "xanchor": "center",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 13},
            }
        )
    return out


def scatter(mode: str, x: Sequence[float | None], y: Sequence[float | None], name: str, **look: Any) -> Trace:
    """A series of points, lines or both (`mode`)."""
    return {"type": "scatter", "mode": mode, "x": x, "y": y, "name": name, **look}


def plain_line(
    x: Sequence[float], y: Sequence[float | None], name: str, colour: str, dash: str, width: float = 1, **more: Any
) -> Trace:
    """A line that holds no measurement of its own, so that the reader's pointer passes over it."""
    look = {"color": colour, "dash": dash, "width": width}
    return scatter("lines", x, y, name, line=look, hoverinfo="skip", **more)


def axes_of(panel: int) -> Trace:
    """The axes that a trace of a panel of `panels` is drawn on, counted from 0."""
    suffix = str(panel + 1) if panel else ""
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def name_once(data: Sequence[Trace]) -> list[Trace]:
    """Traces of which only the first of each name stands in the legend, unless a trace says otherwise itself."""
    named: set[str] = set()
    for t in data:
        t.setdefault("showlegend", t["name"] not in named)
        named.add(t["name"])
    return list(data)


def error_bars(estimates: Sequence[Estimate], **look: Any) -> Trace:
    """Asymmetric error bars from intervals; none where there is no interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(e.high - e.value, 0) if e.value is not None and e.high is not None else 0 for e in estimates],
        "arrayminus": [max(e.value - e.low, 0) if e.value is not None and e.low is not None else 0 for e in estimates],
        "thickness": 1.2,
        "width": 3,
        **look,
    }
