"""Figures with a point a condition: precision against recall, forecast against observed, differences as a forest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wlsweep.report.figures.gamma import Entry, points
from wlsweep.report.figures.style import (
    FAINT,
    INK,
    Figure,
    Trace,
    axis,
    base_layout,
    error_bars,
    mark,
    panels,
    share_axis,
)
from wlsweep.spec.condition import Condition, parse_name

MOST_ROWS = 60
"""Rows of a forest plot; beyond it the largest differences are shown and the table holds the rest."""


def symbol(c: Condition) -> str:
    """Marker of a condition: its proportion's shape, open for the reject variant, a star for baselines."""
    if c.variant == "baseline":
        return "star"
    return mark(c.k).symbol + ("-open" if c.variant == "reject" else "")


def colour_of(c: Condition) -> str:
    """Colour of a condition: its proportion's; the baseline at 1/2, to which all is compared, is black."""
    return INK if c.variant == "baseline" and c.k == 2 else mark(c.k).colour


def by_proportion(conditions: Sequence[Condition]) -> list[tuple[str, list[int]]]:
    """(legend name, indices) by proportion and variant, in order."""
    out: dict[tuple[int, str], list[int]] = {}
    for i, c in enumerate(conditions):
        out.setdefault((c.k, c.variant), []).append(i)
    return [(f"1/{k} {variant}", found) for (k, variant), found in sorted(out.items())]


def precision_recall(entries: Sequence[Entry], externals: Sequence[Entry], caption: str) -> Figure:
    """Precision against recall of accepts, with lines of equal F1."""
    data: list[Trace] = []
    for f in (0.2, 0.4, 0.6, 0.8):
        recall = [f / (2 - f) + (i / 40) ** 2 * (1 - f / (2 - f)) for i in range(41)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+text",
                "x": recall,
                "y": [f * r / (2 * r - f) for r in recall],
                "text": [f"F1 {f:g}"] + [""] * 40,
                "textposition": "top right",
                "textfont": {"size": 10, "color": FAINT},
                "line": {"color": "#c4c4c4", "width": 1},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    measured = [p for p in points(entries) if p.entry["precision"] is not None and p.entry["recall"] is not None]
    conditions = [p.condition for p in measured]
    for name, found in by_proportion(conditions):
        on = [measured[i] for i in found]
        data.append(_cross([p.entry for p in on], name, colour_of(on[0].condition), symbol(on[0].condition)))
    for e in externals:
        if e["precision"] is not None and e["recall"] is not None:
            data.append(_cross([e], e["name"], INK, "x"))
    layout = base_layout(540)
    layout["xaxis"] = share_axis("recall: share of accepted papers that it accepts", range=[0, 1.03])
    layout["yaxis"] = share_axis("precision: share of its accepts that are right", range=_room(data))
    narrow = {
        "height": 560,
        "xaxis": layout["xaxis"] | {"title": {"text": "recall of accepts"}},
        "yaxis": layout["yaxis"] | {"title": {"text": "precision of accepts"}},
    }
    return Figure("precision_recall", "Precision and recall", caption, data, layout, narrow)


def _room(data: Sequence[Trace]) -> list[float]:
    lows = [y - d for t in data if "error_y" in t for y, d in zip(t["y"], t["error_y"]["arrayminus"], strict=True)]
    return [max(0.0, min([*lows, 0.45]) - 0.03), 1.05]


def _cross(on: Sequence[Entry], name: str, colour: str, shape: str) -> Trace:
    def bars(metric: str) -> dict[str, Any]:
        ends = [[e[f"{metric}_{end}"] for e in on] for end in ("low", "high")]
        return error_bars([e[metric] for e in on], *ends) | {"color": colour, "thickness": 0.8, "width": 0}

    return {
        "type": "scatter",
        "mode": "markers",
        "x": [e["recall"] for e in on],
        "y": [e["precision"] for e in on],
        "error_x": bars("recall"),
        "error_y": bars("precision"),
        "name": name,
        "marker": {"symbol": shape, "size": 11 if shape != "star" else 14, "color": colour},
        "text": [f"{e['name']}, F1 {e['f1']:.3f}" for e in on],
        "hovertemplate": "%{text}<br>recall %{x:.1%}, precision %{y:.1%}<extra></extra>",
    }


def forecast_observed(
    theory: Sequence[Mapping[str, Any]], entries: Sequence[Entry], slope: Mapping[str, Any], caption: str
) -> Figure:
    """Left: forecast and measured predicted accept rate; right: expected and measured shift of the log-odds."""
    measured = {e["name"]: e for e in entries if e["state"] == "done"}
    reached = [t for t in theory if t["covered"] and t["name"] in measured]
    conditions = [parse_name(t["name"]) for t in reached]
    shifts = [t["expected_shift"] for t in reached] + [t["observed_shift"] for t in reached] or [0.0]
    span = [min(shifts) - 0.3, max(shifts) + 0.3]
    data: list[Trace] = [_line([0, 1], [0, 1], "theory", FAINT, "dot", "x", "y", True)]
    data.append(_line(span, span, "theory", FAINT, "dot", "x2", "y2", False))
    if slope.get("slope") is not None:
        fitted = [slope["intercept"] + slope["slope"] * x for x in span]
        name = f"fit: slope {slope['slope']:.2f} ({slope['low']:.2f} to {slope['high']:.2f})"
        data.append(_line(span, fitted, name, INK, "solid", "x2", "y2", True))
    for name, found in by_proportion(conditions):
        on = [reached[i] for i in found]
        c = conditions[found[0]]
        look = {"symbol": symbol(c), "size": 10, "color": colour_of(c)}
        said = [t["forecast"]["predicted_accept_rate"] for t in on]
        seen = [measured[t["name"]] for t in on]
        shared = {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "legendgroup": name,
            "marker": look,
            "text": [t["name"] for t in on],
        }
        thin = {"color": look["color"], "thickness": 0.9, "width": 0}
        data.append(
            shared
            | {
                "x": [f["value"] for f in said],
                "y": [e["predicted_accept_rate"] for e in seen],
                "error_x": error_bars([f["value"] for f in said], [f["low"] for f in said], [f["high"] for f in said])
                | thin,
                "error_y": error_bars(
                    [e["predicted_accept_rate"] for e in seen],
                    [e["predicted_accept_rate_low"] for e in seen],
                    [e["predicted_accept_rate_high"] for e in seen],
                )
                | thin,
                "xaxis": "x",
                "yaxis": "y",
                "hovertemplate": "%{text}<br>forecast %{x:.1%}, measured %{y:.1%}<extra></extra>",
            }
        )
        values = [t["observed_shift"] for t in on]
        data.append(
            shared
            | {
                "x": [t["expected_shift"] for t in on],
                "y": values,
                "error_y": error_bars(
                    values, [t["observed_shift_low"] for t in on], [t["observed_shift_high"] for t in on]
                )
                | thin,
                "xaxis": "x2",
                "yaxis": "y2",
                "showlegend": False,
                "hovertemplate": "%{text}<br>expected %{x:.2f}, measured %{y:.2f}<extra></extra>",
            }
        )
    titles = ["predicted accept rate", "shift of the log-odds against the baseline"]

    def layout(columns: int, height: int, drop: float) -> dict[str, Any]:
        made = base_layout(height, legend={"orientation": "h", "y": drop, "yanchor": "top"})
        made |= panels(titles, columns, axis("forecast from the baseline alone"), axis("measured"), 0.1, 0.18)
        for one in ("xaxis", "yaxis"):
            made[one] |= {"tickformat": ".0%", "range": [0, 1]}
            made[one + "2"] |= {"range": span}
        made["xaxis2"] |= {"title": {"text": "expected"}}
        made["xaxis"] |= {"title": {"text": "forecast from the baseline alone"}}
        return made

    return Figure(
        "forecast_vs_observed", "Forecast and measured", caption, data, layout(2, 500, -0.22), layout(1, 880, -0.11)
    )


def _line(x: list[float], y: list[float], name: str, colour: str, dash: str, xa: str, ya: str, legend: bool) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "name": name,
        "legendgroup": name,
        "showlegend": legend,
        "line": {"color": colour, "dash": dash, "width": 1.3},
        "xaxis": xa,
        "yaxis": ya,
        "hoverinfo": "skip",
    }


def forest(comparisons: Sequence[Mapping[str, Any]], caption: str, externals: Sequence[str] = ()) -> Figure:
    """Differences in accuracy by condition: against the baseline, and against the baseline with its threshold moved."""
    rows = [c for c in comparisons if c["difference"]["accuracy"] is not None]
    rows = sorted(rows, key=lambda c: -abs(c["difference"]["accuracy"]["value"]))[:MOST_ROWS]
    if len(rows) < len(comparisons):
        caption += f" The {len(rows)} largest differences of {len(comparisons)} are shown; the table holds all."
    kept = {c["name"] for c in rows}
    rows = [c for c in comparisons if c["name"] in kept][::-1]
    places = list(range(len(rows)))
    data: list[Trace] = []
    for name, shape, colour, up, pick in (
        ("against the baseline", "circle", INK, 0.14, lambda c: c["difference"]["accuracy"]),
        ("against the baseline with its threshold moved", "diamond-open", "#D55E00", -0.14, _moved),
    ):
        on = [pick(c) for c in rows]
        values = [d["value"] for d in on]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": values,
                "y": [p + up for p in places],
                "error_x": error_bars(values, [d["low"] for d in on], [d["high"] for d in on])
                | {"color": colour, "thickness": 1.2, "width": 2},
                "name": name,
                "marker": {"symbol": shape, "size": 8, "color": colour},
                "text": [c["name"] for c in rows],
                "hovertemplate": "%{text}<br>%{x:+.1%}<extra></extra>",
            }
        )
    layout = base_layout(
        150 + 22 * max(len(rows), 3), legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    )
    layout["xaxis"] = axis("difference in accuracy", tickformat="+.0%", zeroline=True, zerolinecolor=INK)
    names = [c["name"] if c["name"] in externals else short(parse_name(c["name"])) for c in rows]
    layout["yaxis"] = axis("", tickvals=places, ticktext=names, range=[-0.7, len(rows) - 0.3])
    return Figure("accuracy_differences", "What re-training did to accuracy", caption, data, layout)


def _moved(comparison: Mapping[str, Any]) -> dict[str, Any]:
    at = comparison["moved_threshold"]
    return {"value": at["difference"], "low": at["low"], "high": at["high"]}


def short(c: Condition) -> str:
    """`accept 4 at 1/3`, for panels and rows."""
    extra = f" {c.group}" if c.group else ""
    gamma = "" if c.variant == "baseline" else f" {c.gamma:g}"
    return f"{c.variant}{gamma} at 1/{c.k}{extra}"
