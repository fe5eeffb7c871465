"""The two figures that the sweep exists for: predicted accept rate and accuracy against gamma.

A panel a variant, a line a proportion, the baseline in both panels, a 95% interval at every point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wlsweep.analysis.evaluation_records import MetricName, ModelResult, SeedGroup
from wlsweep.estimate import Estimate
from wlsweep.report.figures.style import (
    FAINT,
    INK,
    Figure,
    Layout,
    Trace,
    axes_of,
    base_layout,
    error_bars,
    gamma_axis,
    mark,
    name_once,
    panels,
    scatter,
    share_axis,
    upright,
)
from wlsweep.report.report_input import ReportInput
from wlsweep.spec.condition import Condition


@dataclass(frozen=True)
class Point:
    """A measured condition, or the mean over the seeds of one."""

    name: str
    condition: Condition
    estimate: Estimate
    """Of the metric that is drawn."""
    seeds: tuple[tuple[str, float], ...] = ()
    """(name, value) of the single seeds, where this is their mean."""

    def forecast(self, forecasts: Mapping[str, float]) -> float | None:
        """What was forecast for it, or for its seeds on average; None where nothing was."""
        names = [name for name, _ in self.seeds] or [self.name]
        known = [forecasts[name] for name in names if name in forecasts]
        return sum(known) / len(known) if known else None


def points(results: Sequence[ModelResult], seeds: Sequence[SeedGroup], metric: MetricName) -> list[Point]:
    """The conditions that have the metric, all seeds of a condition as one point: their mean with its interval.

    Args:
        results: conditions.
        seeds: conditions with several seeds.
        metric: which to draw.
    """
    out = {
        r.name: Point(r.name, r.condition, r[metric])
        for r in results
        if r.condition is not None and r[metric].value is not None
    }
    for s in seeds:
        at = s.metrics.get(metric)
        members = [out[m] for m in s.members if m in out]
        if at is None or len(members) < len(s.members):
            continue
        for m in members:
            del out[m.name]
        single = tuple((m.name, m.estimate.value) for m in members if m.estimate.value is not None)
        plain = replace(members[0].condition, seed=0)
        out[s.name] = Point(f"{s.name} ({at.seeds} seeds)", plain, at.mean, single)
    return list(out.values())


def family(c: Condition) -> str:
    """What else distinguishes conditions of one proportion: the group without the seed."""
    return replace(c, seed=0).group


def gamma_figure(
    metric: MetricName,
    title: str,
    slug: str,
    caption: str,
    report: ReportInput,
    reference: tuple[str, float] | None = None,
    forecasts: Mapping[str, float] | None = None,
    zoom: bool = False,
) -> Figure:
    """One metric against gamma; a condition with several seeds is drawn as their mean, single seeds as dots.

    Args:
        metric: a share.
        title: of the figure, also the y axis.
        slug: file name of the PNG.
        caption: what to see.
        report: what to draw; models from outside of the sweep are horizontal lines.
        reference: (label, value) of a horizontal line.
        forecasts: expected value by condition name, drawn as pale bars.
        zoom: fit the y axis to the data instead of 0 to 1.
    """
    words = report.words
    drawn = points(report.conditions, report.analysis.seeds, metric)
    externals = [(e.name, e[metric]) for e in report.externals if e[metric].value is not None]
    gammas = [1.0, *(p.condition.gamma for p in drawn)]
    lines = sorted({(p.condition.k, family(p.condition)) for p in drawn})
    flats = [(reference[0], reference[1], "dot", FAINT)] if reference else []
    flats += [(name, e.value or 0.0, "longdashdot", INK) for name, e in externals]
    span = [min(gammas) / 1.2, max(gammas) * 1.2]
    data: list[Trace] = []
    for panel, variant in enumerate(("accept", "reject")):
        axes = axes_of(panel)
        for place, (k, kind) in enumerate(lines):
            of_line = [p for p in drawn if p.condition.k == k and family(p.condition) == kind]
            on = [p for p in of_line if p.condition.variant in (variant, "baseline")]
            on.sort(key=lambda p: (p.condition.gamma, p.condition.seed))
            if not (any(p.condition.variant == variant for p in on) or (on and kind == "")):
                continue
            x = [p.condition.gamma * 2 ** (0.035 * (place - (len(lines) - 1) / 2)) for p in on]
            if forecasts:
                data[:0] = [t | axes for t in _expected(on, x, forecasts, k)]
            data.append(_line(on, x, k, f"1/{k} {words.positives}" + (f", {kind}" if kind else ""), bool(kind)) | axes)
            data += [t | axes for t in _stars_and_seeds(on, x, k)]
        data += [t | axes for _, e in externals for t in _band(e, span)]
        data += [_flat(*flat, span) | axes for flat in flats]
    ends = [*(p.estimate for p in drawn), *(e for _, e in externals)]
    y = share_axis(upright(title), **({"range": _fit(ends)} if zoom else {}))
    half = [f"{words.positives} weigh gamma", f"{words.negatives} weigh gamma"]
    titles = [f"{words.variant(v)} variant: {each}" for v, each in zip(("accept", "reject"), half, strict=True)]
    x_axis = gamma_axis(gammas)
    return Figure(
        slug,
        title,
        caption,
        name_once(data),
        base_layout(440) | panels(titles, 2, x_axis, y),
        base_layout(760, legend={"orientation": "h", "y": -0.1, "yanchor": "top"}) | panels(titles, 1, x_axis, y),
        _half(panels(half, 2, x_axis, y), with_legend=not zoom),
    )


def _half(axes: Layout, with_legend: bool) -> Layout:
    """Half as wide: small type; of two figures beside each other, one legend is enough."""
    layout = base_layout(300 if with_legend else 212, showlegend=with_legend) | axes
    layout["font"] |= {"size": 11}
    layout["legend"] |= {"y": -0.24, "font": {"size": 10}}
    layout["margin"] = {"l": 50, "r": 8, "t": 26, "b": 100 if with_legend else 40}
    return layout


def _line(on: list[Point], x: list[float], k: int, name: str, faint: bool) -> Trace:
    look = mark(k)
    estimates = [p.estimate for p in on]
    return scatter(
        "lines+markers",
        x,
        [e.value for e in estimates],
        name,
        error_y=error_bars(estimates, color=look.colour),
        legendgroup=name,
        line={"color": look.colour, "dash": "dot" if faint else look.dash, "width": 1.2 if faint else 2},
        marker={"symbol": look.symbol + ("-open" if faint else ""), "size": 9, "color": look.colour},
        customdata=[[p.name, e.low, e.high] for p, e in zip(on, estimates, strict=True)],
        hovertemplate="%{customdata[0]}<br>%{y:.1%} (%{customdata[1]:.1%} to %{customdata[2]:.1%})<extra></extra>",
    )


def _flat(name: str, value: float, dash: str, colour: str, span: list[float]) -> Trace:
    look = {"dash": dash, "color": colour, "width": 1.3}
    shown = f"{name}: %{{y:.1%}}<extra></extra>"
    return scatter("lines", span, [value, value], name, legendgroup=name, line=look, hovertemplate=shown)


def _band(e: Estimate, span: list[float]) -> list[Trace]:
    """The interval of a model from outside, as a band behind its line."""
    hidden = {"line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    low, high = (scatter("lines", span, [end, end], "interval", **hidden) for end in (e.low, e.high))
    return [low, high | {"fill": "tonexty", "fillcolor": "rgba(120,120,120,0.18)"}]


def _markers(at: Sequence[tuple[float, float | None]], name: str, **look: Any) -> list[Trace]:
    """A trace of markers at (x, y), none without any."""
    return [scatter("markers", [x for x, _ in at], [y for _, y in at], name, **look)] if at else []


def _stars_and_seeds(on: list[Point], x: list[float], k: int) -> list[Trace]:
    """A star at the baseline, and circles at the single seeds of means."""
    stars = [(at, p.estimate.value) for at, p in zip(x, on, strict=True) if p.condition.variant == "baseline"]
    seeds = [(at * 2**0.06, *seed) for at, p in zip(x, on, strict=True) for seed in p.seeds]
    return _markers(
        stars,
        "baseline (gamma 1)",
        legendgroup="baseline",
        marker={"symbol": "star", "size": 15, "color": INK if k == 2 else mark(k).colour},
        hoverinfo="skip",
    ) + _markers(
        [(at, value) for at, _, value in seeds],
        "single seeds",
        showlegend=False,
        marker={"symbol": "circle-open", "size": 5, "color": mark(k).colour},
        text=[name for _, name, _ in seeds],
        hovertemplate="%{text}<br>%{y:.1%}<extra></extra>",
    )


def _expected(on: list[Point], x: list[float], forecasts: Mapping[str, float], k: int) -> list[Trace]:
    found = [(at, p.forecast(forecasts)) for at, p in zip(x, on, strict=True) if p.condition.variant != "baseline"]
    return _markers(
        [(at, value) for at, value in found if value is not None],
        "theory, from the baseline alone",
        legendgroup="theory",
        marker={"symbol": "line-ew-open", "size": 26, "color": mark(k).colour, "line": {"width": 4}},
        opacity=0.35,
        hovertemplate="forecast %{y:.1%}<extra></extra>",
    )


def _fit(estimates: Sequence[Estimate]) -> list[float]:
    ends = [end for e in estimates for end in (e.interval or (e.value, e.value)) if end is not None]
    if not ends:
        return [0, 1]
    low, high = min(ends), max(ends)
    room = max(0.05 * (high - low), 0.01)
    return [max(low - room, 0), min(high + room, 1)]
