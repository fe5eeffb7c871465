"""Figures with a point a condition: precision against recall, forecast against observed, differences as a forest."""

from __future__ import annotations

from collections.abc import Sequence

from wlsweep.analysis.evaluation_records import Comparison, ModelResult
from wlsweep.estimate import PLAIN, SLOPE, Estimate
from wlsweep.report.figures.style import (
    FAINT,
    INK,
    Figure,
    Layout,
    Trace,
    axes_of,
    axis,
    base_layout,
    error_bars,
    mark,
    panels,
    plain_line,
    scatter,
    share_axis,
)
from wlsweep.report.report_input import ReportInput
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.task import ICLR, Words

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


def by_proportion(conditions: Sequence[Condition], words: Words) -> list[tuple[str, list[int]]]:
    """(legend name, indices) by proportion and variant, in order."""
    out: dict[tuple[int, str], list[int]] = {}
    for i, c in enumerate(conditions):
        out.setdefault((c.k, c.variant), []).append(i)
    return [(f"1/{k} {words.variant(variant)}", found) for (k, variant), found in sorted(out.items())]


def precision_recall(report: ReportInput, caption: str) -> Figure:
    """Precision against recall of the positive class, with lines of equal F1."""
    words = report.words
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
    both = [r for r in report.conditions if r["precision"].value is not None and r["recall"].value is not None]
    conditions = [r.condition for r in both if r.condition is not None]
    for name, found in by_proportion(conditions, words):
        first = conditions[found[0]]
        data.append(_cross([both[i] for i in found], name, colour_of(first), symbol(first)))
    for e in report.externals:
        if e["precision"].value is not None and e["recall"].value is not None:
            data.append(_cross([e], e.name, INK, "x"))
    layout = base_layout(540)
    layout["xaxis"] = share_axis(f"recall: share of the {words.positives} that it finds", range=[0, 1.03])
    layout["yaxis"] = share_axis(f"precision: share of predicted {words.positives} that are right", range=_room(data))
    narrow = {
        "height": 560,
        "xaxis": layout["xaxis"] | {"title": {"text": f"recall of {words.positives}"}},
        "yaxis": layout["yaxis"] | {"title": {"text": f"precision of {words.positives}"}},
    }
    half = {"height": 470, "xaxis": narrow["xaxis"], "yaxis": narrow["yaxis"]}
    return Figure("precision_recall", "Precision and recall", caption, data, layout, narrow, half)


def _room(data: Sequence[Trace]) -> list[float]:
    lows = [y - d for t in data if "error_y" in t for y, d in zip(t["y"], t["error_y"]["arrayminus"], strict=True)]
    return [max(0.0, min([*lows, 0.45]) - 0.03), 1.05]


def _cross(on: Sequence[ModelResult], name: str, colour: str, shape: str) -> Trace:
    thin = {"color": colour, "thickness": 0.8, "width": 0}
    recall, precision = [r["recall"] for r in on], [r["precision"] for r in on]
    return scatter(
        "markers",
        [e.value for e in recall],
        [e.value for e in precision],
        name,
        error_x=error_bars(recall, **thin),
        error_y=error_bars(precision, **thin),
        marker={"symbol": shape, "size": 11 if shape != "star" else 14, "color": colour},
        text=[f"{r.name}, F1 {PLAIN.value(r['f1'].value)}" for r in on],
        hovertemplate="%{text}<br>recall %{x:.1%}, precision %{y:.1%}<extra></extra>",
    )


def forecast_observed(report: ReportInput, caption: str) -> Figure:
    """Left: forecast and measured rate; right: expected and measured shift of the log-odds."""
    measured = {r.name: r["predicted_accept_rate"] for r in report.done}
    reached = [t for t in report.reached if t.name in measured]
    conditions = [parse_name(t.name) for t in reached]
    shifts = [s for t in reached for s in (t.expected_shift, t.observed_shift.value) if s is not None] or [0.0]
    span = [min(shifts) - 0.3, max(shifts) + 0.3]
    left, right = axes_of(0), axes_of(1)

    def line(x: list[float], y: list[float], name: str, colour: str, dash: str, more: Trace) -> Trace:
        return plain_line(x, y, name, colour, dash, 1.3, legendgroup=name) | more

    data = [
        line([0, 1], [0, 1], "theory", FAINT, "dot", left | {"showlegend": True}),
        line(span, span, "theory", FAINT, "dot", right | {"showlegend": False}),
    ]
    fit = report.analysis.slope
    if fit.slope.value is not None and fit.intercept is not None:
        fitted = [fit.intercept + fit.slope.value * x for x in span]
        of = f" ({report.slope_kind})" if report.slope_kind else ""
        name = f"fit{of}: slope {SLOPE.full(fit.slope)}"
        data.append(line(span, fitted, name, INK, "solid", right | {"showlegend": True}))
    for name, found in by_proportion(conditions, report.words):
        on = [reached[i] for i in found]
        c = conditions[found[0]]
        thin = {"color": colour_of(c), "thickness": 0.9, "width": 0}
        foreseen = [(t.forecast or {}).get("predicted_accept_rate", Estimate(None)) for t in on]
        seen = [measured[t.name] for t in on]
        shared = {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "legendgroup": name,
            "marker": {"symbol": symbol(c), "size": 10, "color": colour_of(c)},
            "text": [t.name for t in on],
        }
        rates = {
            "x": [e.value for e in foreseen],
            "y": [e.value for e in seen],
            "error_x": error_bars(foreseen, **thin),
            "error_y": error_bars(seen, **thin),
            "hovertemplate": "%{text}<br>forecast %{x:.1%}, measured %{y:.1%}<extra></extra>",
        }
        moved = {
            "x": [t.expected_shift for t in on],
            "y": [t.observed_shift.value for t in on],
            "error_y": error_bars([t.observed_shift for t in on], **thin),
            "showlegend": False,
            "hovertemplate": "%{text}<br>expected %{x:.2f}, measured %{y:.2f}<extra></extra>",
        }
        data += [shared | rates | left, shared | moved | right]
    titles = [f"predicted {report.words.rate}", "shift of the log-odds against the baseline"]

    def layout(columns: int, height: int, drop: float) -> Layout:
        made = base_layout(height, legend={"orientation": "h", "y": drop, "yanchor": "top"})
        made |= panels(titles, columns, axis("forecast from the baseline alone"), axis("measured"), 0.1, 0.18)
        for one in ("xaxis", "yaxis"):
            made[one] |= {"tickformat": ".0%", "range": [0, 1]}
            made[one + "2"] |= {"range": span}
        made["xaxis2"] |= {"title": {"text": "expected"}}
        made["xaxis"] |= {"title": {"text": "forecast from the baseline alone"}}
        return made

    return Figure(
        "forecast_vs_observed", "Forecast and measured", caption, data, layout(2, 430, -0.26), layout(1, 880, -0.11)
    )


def forest(
    comparisons: Sequence[Comparison], caption: str, externals: Sequence[str] = (), words: Words = ICLR.words
) -> Figure:
    """Differences in accuracy by condition: against the baseline, and against the baseline with its threshold moved."""
    known = {c.name: c.difference["accuracy"] for c in comparisons if c.difference["accuracy"].value is not None}
    largest = sorted(known, key=lambda name: -abs(known[name].value or 0.0))[:MOST_ROWS]
    if len(largest) < len(comparisons):
        caption += f" The {len(largest)} largest differences of {len(comparisons)} are shown; the table holds all."
    rows = [c for c in comparisons if c.name in set(largest)][::-1]
    names = [c.name if c.name in externals else short(parse_name(c.name), words) for c in rows]
    data, layout = two_a_row(
        ("against the baseline", INK, [c.difference["accuracy"] for c in rows]),
        ("against the baseline with its threshold moved", "#D55E00", [c.moved_threshold.difference for c in rows]),
        [c.name for c in rows],
        names,
        "difference in accuracy, percentage points",
    )
    return Figure("accuracy_differences", "What re-training did to accuracy", caption, data, layout)


Differences = tuple[str, str, Sequence[Estimate]]
"""Name and colour of a series of differences, and one a row."""


def two_a_row(
    upper: Differences, lower: Differences, rows: Sequence[str], labels: Sequence[str], title: str
) -> tuple[list[Trace], Layout]:
    """Traces and layout of two series of differences, in percentage points, one slightly above the other.

    Args:
        upper: filled circles.
        lower: open diamonds.
        rows: what the reader's pointer is told, from the bottom up.
        labels: what stands at the axis.
        title: of the other axis.
    """
    data: list[Trace] = []
    for (name, colour, estimates), shape, up in ((upper, "circle", 0.14), (lower, "diamond-open", -0.14)):
        points = [e.scaled(100) for e in estimates]
        look = {
            "error_x": error_bars(points, color=colour, width=2),
            "marker": {"symbol": shape, "size": 8, "color": colour},
            "text": list(rows),
            "hovertemplate": "%{text}<br>%{x:+.1f} points<extra></extra>",
        }
        data.append(scatter("markers", [e.value for e in points], [at + up for at in range(len(rows))], name, **look))
    layout = base_layout(
        130 + 19 * max(len(rows), 3), legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
    )
    layout["xaxis"] = axis(title, zeroline=True, zerolinecolor=INK)
    places = list(range(len(rows)))
    layout["yaxis"] = axis("", tickvals=places, ticktext=list(labels), range=[-0.7, len(rows) - 0.3])
    return data, layout


def short(c: Condition, words: Words) -> str:
    """`accept 4 at 1/3`, for panels and rows."""
    extra = f" {c.group}" if c.group else ""
    gamma = "" if c.variant == "baseline" else f" {c.gamma:g}"
    return f"{words.variant(c.variant)}{gamma} at 1/{c.k}{extra}"
