"""Small multiples: a panel a condition for reliability and years, a panel a proportion for coverage and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

from wlsweep.analysis.evaluation_records import MetricName, ModelResult
from wlsweep.report.figures.gamma import family
from wlsweep.report.figures.scatter import colour_of, short
from wlsweep.report.figures.style import (
    FAINT,
    INK,
    Axis,
    Figure,
    Layout,
    Trace,
    axes_of,
    axis,
    base_layout,
    error_bars,
    mark,
    name_once,
    panels,
    plain_line,
    scatter,
    share_axis,
)
from wlsweep.report.report_input import ReportInput
from wlsweep.spec.condition import Condition
from wlsweep.spec.task import Words

MOST_PANELS = 24
"""Panels of a figure; of larger sweeps the first ones in the order of the sweep, baselines and externals first."""

MOST_LINES = 8
"""Panels of mixes, and lines in each."""


def chosen(results: Sequence[ModelResult], externals: Sequence[ModelResult]) -> list[ModelResult]:
    """The models that get a panel."""
    done = [r for r in results if r.done]
    if len(done) + len(externals) > MOST_PANELS:
        done.sort(key=lambda r: r.condition is None or r.condition.variant != "baseline")
    return [*done[: MOST_PANELS - min(len(externals), MOST_PANELS - 1)], *externals][:MOST_PANELS]


def _look(result: ModelResult, words: Words) -> tuple[str, str, str]:
    """(panel title, colour, marker)."""
    if (c := result.condition) is None:
        return result.name[:24], INK, "x"
    return short(c, words), colour_of(c), mark(c.k).symbol


def _grid(
    report: ReportInput,
    draw: Callable[[ModelResult, str, str], list[Trace]],
    axes: tuple[Axis, Axis],
    slug: str,
    title: str,
    caption: str,
) -> Figure:
    shown = chosen(report.conditions, report.externals)
    data: list[Trace] = []
    titles = []
    for i, result in enumerate(shown):
        name, colour, shape = _look(result, report.words)
        titles.append(name)
        data += [t | axes_of(i) for t in draw(result, colour, shape)]

    def layout(columns: int, each: int) -> Layout:
        rows = max(1, -(-len(shown) // columns))
        height = 138 + each * rows
        legend = {"orientation": "h", "y": -60 / (height - 118), "yanchor": "top"}  # below the title of the last axis
        made = base_layout(height, legend=legend, margin={"l": 62, "r": 16, "t": 34, "b": 84})
        made |= panels(titles, columns, *axes, 0.02 if columns > 2 else 0.09, min(0.34 / rows, 0.2))
        made["annotations"] = [a | {"font": {"size": 11}} for a in made["annotations"]]
        for i in range(len(shown)):  # ticks on the outer axes only
            if i % columns:
                made[f"yaxis{i + 1}"] |= {"showticklabels": False}
        return made

    if (total := len(report.done) + len(report.externals)) > MOST_PANELS:
        caption += f" {MOST_PANELS} of {total} are shown; the tables hold all."
    return Figure(slug, title, caption, name_once(data), layout(5, 132), layout(2, 170))


def reliability(report: ReportInput, caption: str) -> Figure:
    """Predicted probability against the share accepted, a panel a condition; dotted: what the expected shift alone does."""
    shifts = {t.name: t.expected_shift for t in report.reached}
    words = report.words

    def draw(result: ModelResult, colour: str, shape: str) -> list[Trace]:
        bins = report.analysis.curves[result.name].reliability
        out = [plain_line([0, 1], [0, 1], "perfect calibration", FAINT, "solid")]
        if (shift := shifts.get(result.name)) is not None:
            grid = [i / 30 for i in range(1, 30)]
            bent = [_shifted(p, -shift) for p in grid]
            out.append(plain_line(grid, bent, "a calibrated baseline, shifted as expected", INK, "dot"))
        measured = scatter(
            "lines+markers",
            [b.mean_p for b in bins],
            [b.share.value for b in bins],
            "measured, 95% interval",
            error_y=error_bars([b.share for b in bins], color=colour, thickness=1, width=0),
            line={"color": colour, "width": 1.4},
            marker={"symbol": shape, "size": 6, "color": colour},
            text=[words.counted(b.n) for b in bins],
            hovertemplate="predicted %{x:.2f}: measured %{y:.1%} (%{text})<extra></extra>",
        )
        return [*out, measured]

    ticks = {"tickvals": [0, 0.5, 1], "range": [-0.02, 1.02]}
    axes = axis(f"P({words.positive})", **ticks), axis("measured", tickformat=".0%", **ticks)
    return _grid(report, draw, axes, "reliability", "Calibration", caption)


def _shifted(p: float, by: float) -> float:
    return 1 / (1 + exp(-(log(p / (1 - p)) + by)))


def per_year(report: ReportInput, caption: str) -> Figure:
    """Predicted rate, accuracy and the true rate by year, a panel a condition."""
    words = report.words

    def draw(result: ModelResult, colour: str, shape: str) -> list[Trace]:
        at = [y.year for y in result.by_year]
        true = [y.metrics["actual_accept_rate"].value or 0.0 for y in result.by_year]
        out = [plain_line(at, true, f"true {words.rate}", FAINT, "dot")]
        drawn: tuple[tuple[MetricName, str, str, str, float], ...] = (
            ("predicted_accept_rate", f"predicted {words.rate}", colour, shape, -0.08),
            ("accuracy", "accuracy", FAINT, "line-ew-open", 0.08),
        )
        for metric, name, ink, symbol, left in drawn:
            estimates = [y.metrics[metric] for y in result.by_year]
            look = {
                "error_y": error_bars(estimates, color=ink, thickness=1, width=0),
                "line": {"color": ink, "width": 1.3, "dash": "solid" if left < 0 else "dash"},
                "marker": {"symbol": symbol, "size": 6, "color": ink},
                "text": [f"{y.year}, {words.counted(y.metrics.n)}" for y in result.by_year],
                "hovertemplate": "%{text}: %{y:.1%}<extra></extra>",
            }
            out.append(scatter("lines+markers", [a + left for a in at], [e.value for e in estimates], name, **look))
        return out

    years = sorted({y.year for r in chosen(report.conditions, report.externals) for y in r.by_year}) or [0, 1]
    x = axis("year", range=[years[0] - 0.5, years[-1] + 0.5], tickvals=[years[0], years[-1]], tickformat="d")
    axes = x, share_axis("share", tickvals=[0, 0.5, 1])
    return _grid(report, draw, axes, "per_year", "Rates and accuracy by year", caption)


def _rank(c: Condition) -> tuple[bool, bool, int]:
    """Who is drawn first where not all can be: baselines, then what no other axis varies, then seed 0."""
    return c.variant != "baseline" or c.seed > 0, bool(family(c)), c.seed


Line = tuple[Sequence[float], Sequence[float | None], Trace | None]
"""x values, y values and error bars."""


def by_mix(
    results: Sequence[ModelResult],
    series: Callable[[ModelResult], Line],
    slug: str,
    title: str,
    caption: str,
    x: Axis,
    y: Axis,
    words: Words,
) -> Figure:
    """Lines of conditions in a panel a proportion: variants of the positive class solid and filled, of the other one
    dashed and open, paler for smaller gamma. What is more than `MOST_LINES` is left out and counted in the caption.

    Args:
        results: whose lines to draw; those without points are left out.
        series: the line of a model.
        slug: file name of the PNG.
        title: of the figure.
        caption: what to see.
        x: axis of every panel.
        y: axis of every panel.
        words: of the task.
    """
    groups: dict[int, list[tuple[Condition, ModelResult]]] = {}
    for r in results:
        if r.condition is not None:
            groups.setdefault(r.condition.k, []).append((r.condition, r))
    ks = sorted(groups)[:MOST_LINES]
    left_out = sum(len(found) - (min(len(found), MOST_LINES) if k in ks else 0) for k, found in groups.items())
    data: list[Trace] = []
    for i, k in enumerate(ks):
        shown = sorted(groups[k], key=lambda pair: _rank(pair[0]))[:MOST_LINES]
        top = max(c.gamma for c, _ in shown)
        for c, r in shown:
            xs, ys, bars = series(r)
            if not xs:
                continue
            plain = c.variant == "baseline"
            colour = colour_of(c)
            line = short(c, words).replace(f" at 1/{c.k}", "")  # the panel says the mix
            look = {
                "legendgroup": line,
                "line": {
                    "color": colour,
                    "dash": "dash" if c.variant == "reject" else "solid",
                    "width": 2 if plain else 1.4,
                },
                "marker": {"symbol": mark(k).symbol + ("-open" if c.variant == "reject" else ""), "size": 5},
                "opacity": 1 if plain else 0.55 + 0.45 * min(1.0, c.gamma / top),
                "hovertemplate": f"{short(c, words)}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
            }
            if bars:
                look["error_y"] = bars | {"color": colour, "thickness": 0.7, "width": 0}
            data.append(scatter("lines+markers" if len(xs) <= 40 else "lines", xs, ys, line, **look, **axes_of(i)))
    titles = [f"1/{k} {words.positives} in training" for k in ks]
    if left_out:
        caption += f" {left_out} conditions are left out here."

    def layout(columns: int, each: int, legend: int) -> Layout:
        rows = max(1, -(-len(ks) // columns))
        height = 80 + each * rows + legend
        return base_layout(height, legend={"orientation": "h", "y": -66 / (each * rows), "yanchor": "top"}) | {
            "margin": {"l": 62, "r": 16, "t": 34, "b": 46 + legend},
            **panels(titles, columns, x, y, 0.07, 0.3 / rows if rows > 1 else 0.1),
        }

    narrow = layout(1, 250, 90)
    half = layout(2, 170, 84)
    half["font"] |= {"size": 11}
    return Figure(slug, title, caption, name_once(data), layout(2, 230, 60), narrow, half)


def coverage(report: ReportInput, caption: str) -> Figure:
    """Accuracy on the most confident share of the papers; models from outside in every panel."""
    words = report.words
    curves = {r.name: report.analysis.curves[r.name].coverage[1::2] for r in (*report.done, *report.externals)}

    def series(r: ModelResult) -> Line:
        at = curves[r.name]
        bars = error_bars([c.accuracy for c in at], thickness=0.7, width=0)
        return [c.coverage for c in at], [c.accuracy.value for c in at], bars

    lowest = min((c.accuracy.low or 0.0 for at in curves.values() for c in at), default=0.0)
    x = share_axis(f"share of {words.items} decided", range=[0.05, 1.03])
    y = share_axis("accuracy on them", range=[max(0.0, lowest - 0.02), 1.01])
    figure = by_mix(
        report.done, series, "coverage", f"Accuracy on the {words.items} it is sure of", caption, x, y, words
    )
    panels_drawn = sorted({(t["xaxis"], t["yaxis"]) for t in figure.data})
    for e in report.externals:
        xs, ys, bars = series(e)
        for i, (xa, ya) in enumerate(panels_drawn):
            line = plain_line(xs, ys, e.name, INK, "longdashdot", legendgroup=e.name, error_y=bars)
            figure.data.append(line | {"xaxis": xa, "yaxis": ya, "showlegend": not i})
    return figure


def training(report: ReportInput, key: str, slug: str, title: str, caption: str, y: Axis) -> Figure:
    """One column of the metric logs against the optimizer step."""
    logs = report.analysis.training

    def series(r: ModelResult) -> Line:
        at = [line for line in logs.get(r.name, ()) if line.get(key) is not None]
        return [line["step"] or 0 for line in at], [line[key] for line in at], None

    logged = [r for r in report.conditions if logs.get(r.name)]
    return by_mix(logged, series, slug, title, caption, axis("optimizer step"), y, report.words)
