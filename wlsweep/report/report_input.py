"""What the page is told from, and small sentences that several parts of it need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wlsweep.spec.condition import baseline_of, parse_name

Entry = dict[str, Any]

METRICS = (
    ("predicted_accept_rate", "predicted accept rate", "share"),
    ("accuracy", "accuracy", "share"),
    ("precision", "precision", "share"),
    ("recall", "recall of accepts", "share"),
    ("precision_reject", "precision of rejects", "share"),
    ("recall_reject", "recall of rejects", "share"),
    ("f1", "F1", "share"),
    ("auc", "AUC", "plain"),
    ("average_precision", "average precision", "plain"),
    ("brier", "Brier", "plain"),
    ("log_loss", "log loss", "plain"),
    ("ece", "ECE", "plain"),
    ("ece_equal_mass", "ECE, equal mass", "plain"),
)
"""(key, heading, kind) of the columns of the main table."""


@dataclass(frozen=True)
class ReportInput:
    """All that the page is told from."""

    sweep: Mapping[str, Any]
    data: Mapping[str, Any]
    entries: list[Entry]
    analysis: Mapping[str, Any]

    @property
    def done(self) -> list[Entry]:
        """Entries with metrics."""
        return [e for e in self.entries if e["state"] == "done"]

    @property
    def externals(self) -> list[Entry]:
        """Measured predictions from elsewhere."""
        return list(self.analysis.get("externals", []))

    @property
    def baseline(self) -> Entry | None:
        """The first finished baseline."""
        return next((e for e in self.done if baseline_of(parse_name(e["name"])).name == e["name"]), None)

    @property
    def reached(self) -> list[Mapping[str, Any]]:
        """Theory rows of conditions that theory covers."""
        return [t for t in self.analysis["theory"] if t["covered"]]


def pct(value: float | None, digits: int = 1) -> str:
    """`48.3%`."""
    return "-" if value is None else f"{100 * value:.{digits}f}%"


def pct_interval(entry: Mapping[str, Any], key: str) -> str:
    """`48.3% (46.1 to 50.5)`."""
    value, low, high = (entry.get(k) for k in (key, f"{key}_low", f"{key}_high"))
    if value is None or low is None or high is None:
        return pct(value)
    return f"{100 * value:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def count(n: int, one: str, many: str = "") -> str:
    """`1 condition`, `3 conditions`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
