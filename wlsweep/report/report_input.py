"""What the page is made from, and the columns that its tables have in common."""

from __future__ import annotations

from dataclasses import dataclass

from wlsweep.analysis.evaluation_records import Analysis, MetricName, ModelResult, TheoryRow
from wlsweep.estimate import PERCENT, PLAIN, Format
from wlsweep.run.data_record import DataRecord, SourceRecord
from wlsweep.run.records import SweepRecord
from wlsweep.run.usage import Usage
from wlsweep.spec.condition import baseline_of, parse_name
from wlsweep.spec.task import Words


def columns(words: Words) -> tuple[tuple[MetricName, str, Format], ...]:
    """(metric, heading, how it is written) of the main table."""
    return (
        ("predicted_accept_rate", f"predicted {words.rate}", PERCENT),
        ("accuracy", "accuracy", PERCENT),
        ("precision", "precision", PERCENT),
        ("recall", f"recall of {words.positives}", PERCENT),
        ("precision_reject", f"precision of {words.negatives}", PERCENT),
        ("recall_reject", f"recall of {words.negatives}", PERCENT),
        ("f1", "F1", PERCENT),
        ("auc", "AUC", PLAIN),
        ("average_precision", "average precision", PLAIN),
        ("brier", "Brier", PLAIN),
        ("log_loss", "log loss", PLAIN),
        ("ece", "ECE", PLAIN),
        ("ece_equal_mass", "ECE, equal mass", PLAIN),
    )


def titles(words: Words) -> dict[MetricName, str]:
    """Headings by metric."""
    return {metric: title for metric, title, _ in columns(words)}


def classes(rows: SourceRecord, words: Words) -> str:
    """The counts of both classes in brackets, with a space before them."""
    return f" ({rows.accepts:,} {words.positives}, {rows.rejects:,} {words.negatives})"


@dataclass(frozen=True)
class ReportInput:
    """All that the page is made from."""

    sweep: SweepRecord
    data: DataRecord
    conditions: list[ModelResult]
    externals: list[ModelResult]
    analysis: Analysis
    usage: Usage | None = None
    """What the run used until now."""

    @property
    def words(self) -> Words:
        """What the task calls things."""
        return self.analysis.words

    @property
    def done(self) -> list[ModelResult]:
        """Conditions with metrics."""
        return [c for c in self.conditions if c.done]

    @property
    def baseline(self) -> ModelResult | None:
        """The first finished baseline."""
        return next((c for c in self.done if c.condition and baseline_of(c.condition).name == c.name), None)

    @property
    def reached(self) -> list[TheoryRow]:
        """Theory rows of conditions that theory covers."""
        return [t for t in self.analysis.theory if t.covered]

    @property
    def slope_kind(self) -> str:
        """The kind of fine-tuning that the slope is of, where theory covers conditions of several; else empty."""
        kinds = list(dict.fromkeys(parse_name(t.name).finetuning for t in self.reached))
        return kinds[0] if len(kinds) > 1 else ""
