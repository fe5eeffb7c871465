"""The two figures that the sweep exists for: predicted accept rate and accuracy against gamma.

A panel a variant, a line a proportion, the baseline in both panels, a 95% interval at every point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wlsweep.report.figures.style import (
    FAINT,
    INK,
    Figure,
    Trace,
    base_layout,
    error_bars,
    gamma_axis,
    mark,
    panels,
    share_axis,
)
from wlsweep.spec.condition import Condition, parse_name

Entry = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A measured condition, or the mean over the seeds of one."""

    condition: Condition
    entry: Entry
    seeds: tuple[Entry, ...] = ()
    """The single seeds, where this is their mean."""

    def foreseen(self, forecast: dict[str, float]) -> float | None:
        """What was forecast for it, or for its seeds on average; None where nothing was."""
        known = [forecast[e["name"]] for e in self.seeds or (self.entry,) if e["name"] in forecast]
        return sum(known) / len(known) if known else None


def points(entries: Sequence[Entry]) -> list[Point]:
    """The conditions that have metrics, in order."""
    return [Point(parse_name(e["name"]), e) for e in entries if e["state"] == "done"]


def over_seeds(measured: Sequence[Point], seeds: Sequence[Entry], metric: str) -> list[Point]:
    """The same with all seeds of a condition drawn as one point, their mean with its interval.

    Args:
        measured: single conditions.
        seeds: `seeds` of the analysis.
        metric: which to average.
    """
    by_name = {p.entry["name"]: p for p in measured}
    out = dict(by_name)
    for s in seeds:
        at = s["metrics"].get(metric)
        members = [by_name[m] for m in s["members"] if m in by_name]
        if at is None or len(members) < len(s["members"]):
            continue
        for m in members:
            out.pop(m.entry["name"])
        joined = {"name": f"{s['name']} ({at['seeds']} seeds)", metric: at["mean"]}
        joined |= {f"{metric}_low": at["low"], f"{metric}_high": at["high"]}
        out[s["name"]] = Point(replace(members[0].condition, seed=0), joined, tuple(m.entry for m in members))
    return list(out.values())


def family(c: Condition) -> str:
    """What else distinguishes conditions of one proportion: the group without the seed."""
    return "_".join(part for part in c.group.split("_") if part and not part.startswith("seed"))


def gamma_figure(
    entries: Sequence[Entry],
    metric: str,
    title: str,
    slug: str,
    caption: str,
    externals: Sequence[Entry] = (),
    reference: tuple[str, float] | None = None,
    forecast: dict[str, float] | None = None,
    zoom: bool = False,
    seeds: Sequence[Entry] = (),
) -> Figure:
    """One metric against gamma.

    Args:
        entries: as in `all_metrics.json`.
        metric: a share with `_low` and `_high` beside it.
        title: of the figure, also the y axis.
        slug: file name of the PNG.
        caption: what to see.
        externals: entries that are drawn as horizontal lines.
        reference: (label, value) of a horizontal line.
        forecast: expected value by condition name, drawn as small open marks.
        zoom: fit the y axis to the data instead of 0 to 1.
        seeds: `seeds` of the analysis; a condition with several is drawn as their mean, single seeds as dots.
    """
    measured = over_seeds([p for p in points(entries) if p.entry.get(metric) is not None], seeds, metric)
    gammas = [1.0, *(p.condition.gamma for p in measured)]
    data: list[Trace] = []
    shown: set[str] = set()
    lines = sorted({(p.condition.k, family(p.condition)) for p in measured})
    for panel, variant in enumerate(("accept", "reject")):
        axes = {"xaxis": f"x{panel + 1}" if panel else "x", "yaxis": f"y{panel + 1}" if panel else "y"}
        for place, (k, kind) in enumerate(lines):
            on = [
                p
                for p in measured
                if p.condition.k == k and family(p.condition) == kind and p.condition.variant in (variant, "baseline")
            ]
            on = sorted(on, key=lambda p: (p.condition.gamma, p.condition.seed))
            if any(p.condition.variant == variant for p in on) or (on and kind == ""):
                name = f"1/{k} accepts" + (f", {kind}" if kind else "")
                dodge = place - (len(lines) - 1) / 2
                if forecast and any(p.foreseen(forecast) is not None for p in on):
                    data.insert(0, _expected(on, forecast, k, dodge, "theory" not in shown) | axes)
                    shown.add("theory")
                data.append(_line(on, metric, k, name, name not in shown, dodge, faint=bool(kind)) | axes)
                shown.add(name)
                stars = [p for p in on if p.condition.variant == "baseline"]
                if stars:
                    data.append(_stars(stars, metric, k, dodge, "baseline" not in shown) | axes)
                    shown.add("baseline")
                data += [t | axes for t in _single_seeds(on, metric, k, dodge)]
        span = [min(gammas) / 1.2, max(gammas) * 1.2]
        flats = [(reference[0], reference[1], "dot", FAINT)] if reference else []
        flats += [(e["name"], e[metric], "longdashdot", INK) for e in externals if e.get(metric) is not None]
        data += [t | axes for e in externals if e.get(metric) is not None for t in _band(e, metric, span)]
        for name, value, dash, colour in flats:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": span,
                    "y": [value, value],
                    "name": name,
                    "legendgroup": name,
                    "showlegend": name not in shown,
                    "line": {"dash": dash, "color": colour, "width": 1.3},
                    "hovertemplate": f"{name}: %{{y:.1%}}<extra></extra>",
                }
                | axes
            )
            shown.add(name)
    shown_entries = [*(p.entry for p in measured), *(e for e in externals if e.get(metric) is not None)]
    y = share_axis(title, **({"range": _fit(shown_entries, metric)} if zoom else {}))
    titles = ["accept variant: accepts weigh gamma", "reject variant: rejects weigh gamma"]
    x = gamma_axis(gammas)
    return Figure(
        slug,
        title,
        caption,
        data,
        base_layout(440) | panels(titles, 2, x, y),
        base_layout(760, legend={"orientation": "h", "y": -0.1, "yanchor": "top"}) | panels(titles, 1, x, y),
    )


def _line(on: list[Point], metric: str, k: int, name: str, legend: bool, dodge: float, faint: bool) -> Trace:
    look = mark(k)
    values = [p.entry[metric] for p in on]
    lows, highs = ([p.entry.get(f"{metric}_{end}") for p in on] for end in ("low", "high"))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [p.condition.gamma * 2 ** (0.035 * dodge) for p in on],
        "y": values,
        "error_y": error_bars(values, lows, highs) | {"color": look.colour},
        "name": name,
        "legendgroup": name,
        "showlegend": legend,
        "line": {"color": look.colour, "dash": "dot" if faint else look.dash, "width": 1.2 if faint else 2},
        "marker": {
            "symbol": look.symbol + ("-open" if faint else ""),
            "size": 9,
            "color": look.colour,
        },
        "customdata": [[p.entry["name"], low, high] for p, low, high in zip(on, lows, highs, strict=True)],
        "hovertemplate": "%{customdata[0]}<br>%{y:.1%} (%{customdata[1]:.1%} to %{customdata[2]:.1%})<extra></extra>",
    }


def _band(entry: Entry, metric: str, span: list[float]) -> list[Trace]:
    """The interval of an external model, as a band behind its line."""
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": span,
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
        "name": entry["name"],
    }
    low, high = entry[f"{metric}_low"], entry[f"{metric}_high"]
    return [edge | {"y": [low, low]}, edge | {"y": [high, high], "fill": "tonexty", "fillcolor": "rgba(60,60,60,0.10)"}]


def _stars(on: list[Point], metric: str, k: int, dodge: float, legend: bool) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [p.condition.gamma * 2 ** (0.035 * dodge) for p in on],
        "y": [p.entry[metric] for p in on],
        "name": "baseline (gamma 1)",
        "legendgroup": "baseline",
        "showlegend": legend,
        "marker": {"symbol": "star", "size": 15, "color": INK if k == 2 else mark(k).colour},
        "hoverinfo": "skip",
    }


def _single_seeds(on: list[Point], metric: str, k: int, dodge: float) -> list[Trace]:
    dots = [(p.condition.gamma * 2 ** (0.035 * dodge + 0.06), e) for p in on for e in p.seeds]
    if not dots:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [x for x, _ in dots],
            "y": [e[metric] for _, e in dots],
            "name": "single seeds",
            "showlegend": False,
            "marker": {"symbol": "circle-open", "size": 5, "color": mark(k).colour},
            "text": [e["name"] for _, e in dots],
            "hovertemplate": "%{text}<br>%{y:.1%}<extra></extra>",
        }
    ]


def _expected(on: list[Point], forecast: dict[str, float], k: int, dodge: float, legend: bool) -> Trace:
    known = [p for p in on if p.foreseen(forecast) is not None and p.condition.variant != "baseline"]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [p.condition.gamma * 2 ** (0.035 * dodge) for p in known],
        "y": [p.foreseen(forecast) for p in known],
        "name": "theory, from the baseline alone",
        "legendgroup": "theory",
        "showlegend": legend,
        "marker": {"symbol": "line-ew-open", "size": 26, "color": mark(k).colour, "line": {"width": 4}},
        "opacity": 0.35,
        "hovertemplate": "forecast %{y:.1%}<extra></extra>",
    }


def _fit(entries: Sequence[Entry], metric: str) -> list[float]:
    ends = [e[metric] if (at := e.get(f"{metric}_{end}")) is None else at for e in entries for end in ("low", "high")]
    if not ends:
        return [0, 1]
    low, high = min(ends), max(ends)
    room = max(0.05 * (high - low), 0.01)
    return [max(low - room, 0), min(high + room, 1)]
