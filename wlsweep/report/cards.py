"""Model cards with the evaluation: written again for each kept model when a report is made."""

from __future__ import annotations

from wlsweep.analysis.evaluate import Evaluation
from wlsweep.analysis.evaluation_records import MetricName, Metrics
from wlsweep.estimate import PERCENT
from wlsweep.report.report_input import COLUMNS
from wlsweep.run.layout import RunDir
from wlsweep.run.model_card import CardEvaluation, CardMetric, write_card

_TYPES: dict[MetricName, str] = {"auc": "roc_auc", "brier": "brier_score", "average_precision": "average_precision"}
"""As the Hub names metrics, where that differs."""
_NOTE = "Intervals count which papers were drawn, not other trainings."
_LEFT_OUT: tuple[MetricName, ...] = ("ece_equal_mass",)


def write_cards(run: RunDir, evaluation: Evaluation) -> int:
    """Write the card of each evaluated condition whose model is kept; returns how many."""
    return sum(
        write_card(run, r.name, CardEvaluation(r.metrics.n, _metrics(r.metrics), _NOTE))
        for r in evaluation.conditions
        if r.metrics is not None
    )


def _metrics(found: Metrics) -> list[CardMetric]:
    metrics = [CardMetric(_TYPES.get(m, m), title, found[m], form) for m, title, form in COLUMNS if m not in _LEFT_OUT]
    true = CardMetric("actual_accept_rate", "true accept rate of the test set", found["actual_accept_rate"], PERCENT)
    return [metrics[0], true, *metrics[1:]]
