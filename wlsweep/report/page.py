"""`wlsweep report`: one HTML file that needs nothing but a browser, its figures as PNG, and the cards of kept models.

>>> write_report(run, evaluate(run)).page    # doctest: +SKIP
PosixPath('runs/demo/report/index.html')
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wlsweep import __version__
from wlsweep.analysis.evaluate import Evaluation
from wlsweep.analysis.evaluation_records import MetricName, Metrics
from wlsweep.estimate import PERCENT
from wlsweep.report.blocks import Answer, Block, Drawn, Pair, Section
from wlsweep.report.figures.style import Figure
from wlsweep.report.png import Renderer, write_pngs
from wlsweep.report.report_input import ReportInput, columns
from wlsweep.report.sections import lead, sections
from wlsweep.run.data_record import DataRecord
from wlsweep.run.layout import RunDir, atomic_files, json_text
from wlsweep.run.model_card import CardEvaluation, CardMetric, write_card
from wlsweep.run.records import SweepRecord
from wlsweep.run.usage import usage_of
from wlsweep.spec.task import Words

_HERE = Path(__file__).parent
_HUB_NAMES: dict[MetricName, str] = {"auc": "roc_auc", "brier": "brier_score", "average_precision": "average_precision"}
"""As the Hub names metrics, where that differs."""


@dataclass(frozen=True)
class ReportFiles:
    """What `write_report` wrote."""

    page: Path
    pngs: list[Path]
    note: str
    """Why PNGs are missing; empty where none is."""


def write_report(run: RunDir, evaluation: Evaluation, renderer: Renderer | None = None) -> ReportFiles:
    """Write `report/index.html`, the cards of kept models, and with a renderer the figures as `report/plots/*.png`."""
    report = report_input_of(run, evaluation)
    html, figures = page(report)
    with atomic_files(run.report, run.usage_json) as (temporary, of_usage):
        temporary.write_text(html, encoding="utf-8")
        of_usage.write_text(json_text(report.usage.as_json() if report.usage else None), encoding="utf-8")
    write_cards(run, evaluation)
    pngs, note = ([], "") if renderer is None else write_pngs(renderer, figures, run.plots)
    return ReportFiles(run.report, pngs, note)


def write_cards(run: RunDir, evaluation: Evaluation) -> int:
    """Write the card of each evaluated condition whose model is kept again, with the evaluation; returns how many."""
    words = evaluation.analysis.words
    return sum(
        write_card(run, r.name, CardEvaluation(r.metrics.n, _card_metrics(r.metrics, words)))
        for r in evaluation.conditions
        if r.metrics is not None
    )


def _card_metrics(found: Metrics, words: Words) -> list[CardMetric]:
    shown = [(m, title, form) for m, title, form in columns(words) if m != "ece_equal_mass"]
    metrics = [CardMetric(_HUB_NAMES.get(m, m), title, found[m], form) for m, title, form in shown]
    true = CardMetric("actual_accept_rate", f"true {words.rate} of the test set", found["actual_accept_rate"], PERCENT)
    return [metrics[0], true, *metrics[1:]]


def report_input_of(run: RunDir, evaluation: Evaluation) -> ReportInput:
    """What the page of a run is made from."""
    sweep, data = SweepRecord.read(run.sweep_json), DataRecord.read(run.data_json)
    return ReportInput(sweep, data, evaluation.conditions, evaluation.externals, evaluation.analysis, usage_of(run))


def page(report_input: ReportInput) -> tuple[str, list[Figure]]:
    """The whole HTML and the figures in it, in order."""
    items = report_input.words.items
    counted = f"{items} and trainings" if report_input.analysis.trainings.source else f"{items} alone"
    return render(report_input.sweep.name, lead(report_input), sections(report_input), counted)


def render(name: str, first_words: str, chapters: Sequence[Section], counted: str) -> tuple[str, list[Figure]]:
    """A page of sections as HTML, and the figures in it, in order.

    Args:
        name: title.
        first_words: the paragraph below it.
        chapters: what follows.
        counted: what the draws behind the verdicts vary.
    """
    import jinja2
    from markupsafe import Markup

    figures = [figure for s in chapters for block in s.blocks for figure in _figures(block)]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["breakable"] = lambda text: Markup("_<wbr>").join(text.split("_"))
    template = environment.from_string((_HERE / "page.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        name=name,
        lead=first_words,
        sections=chapters,
        version=__version__,
        counted=counted,
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(_plotly_js()),
        figures=Markup(_json(figures)),
    )
    return html, figures


def _figures(block: Block) -> Sequence[Figure]:
    return (block.figure,) if isinstance(block, Drawn) else block.figures if isinstance(block, Pair | Answer) else ()


def _json(figures: Iterable[Figure]) -> str:
    """Figures as JSON that cannot end the script element that holds it."""
    plain = {f.slug: {"data": f.data, "wide": f.wide, "narrow": f.narrow, "half": f.half} for f in figures}
    return json.dumps(plain, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
