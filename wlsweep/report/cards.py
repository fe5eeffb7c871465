"""Model cards with the evaluation: written again for each kept model when a report is made."""

from __future__ import annotations

from wlsweep.analysis.evaluate import Evaluation
from wlsweep.analysis.evaluation_records import MetricName, Metrics
from wlsweep.estimate import PERCENT
from wlsweep.report.report_input import columns
from wlsweep.run.layout import RunDir
from wlsweep.run.model_card import CardEvaluation, CardMetric, write_card
from wlsweep.spec.task import Words

_TYPES: dict[MetricName, str] = {"auc": "roc_auc", "brier": "brier_score", "average_precision": "average_precision"}
"""As the Hub names metrics, where that differs."""
_LEFT_OUT: tuple[MetricName, ...] = ("ece_equal_mass",)


def write_cards(run: RunDir, evaluation: Evaluation) -> int:
    """Write the card of each evaluated condition whose model is kept; returns how many."""
    words = evaluation.analysis.words
    return sum(
        write_card(run, r.name, CardEvaluation(r.metrics.n, _metrics(r.metrics, words)))
        for r in evaluation.conditions
        if r.metrics is not None
    )


def _metrics(found: Metrics, words: Words) -> list[CardMetric]:
    shown = [(m, title, form) for m, title, form in columns(words) if m not in _LEFT_OUT]
    metrics = [CardMetric(_TYPES.get(m, m), title, found[m], form) for m, title, form in shown]
    true = CardMetric("actual_accept_rate", f"true {words.rate} of the test set", found["actual_accept_rate"], PERCENT)
    return [metrics[0], true, *metrics[1:]]
