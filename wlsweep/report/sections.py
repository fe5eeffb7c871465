"""What the page says, in the order of a reader's questions: pure functions from entries and analysis to sections."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wlsweep.conditions import parse_name
from wlsweep.report.blocks import Block, Code, Drawn, Entry, Section, Table, metric_row, text
from wlsweep.report.gamma import against_gamma

METRICS = (
    ("predicted_accept_rate", "predicted accept rate", "share"),
    ("accuracy", "accuracy", "share"),
    ("precision", "precision", "share"),
    ("recall", "recall of accepts", "share"),
    ("recall_reject", "recall of rejects", "share"),
    ("f1", "F1", "share"),
    ("auc", "AUC", "plain"),
    ("average_precision", "average precision", "plain"),
    ("brier", "Brier", "plain"),
    ("log_loss", "log loss", "plain"),
    ("ece", "ECE", "plain"),
    ("ece_equal_mass", "ECE, equal mass", "plain"),
)


@dataclass(frozen=True)
class Story:
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


def sections(story: Story) -> list[Section]:
    """The whole page."""
    return [gamma_section(story), table_section(story), provenance_section(story)]


def lead(story: Story) -> str:
    """What was done, in one paragraph with the numbers."""
    test = story.data.get("test", {})
    source = story.data.get("source", {})
    ks = sorted({parse_name(e["name"]).k for e in story.entries})
    done, total = len(story.done), len(story.entries)
    parts = [
        f"One model was fine-tuned under {total} condition{'s' * (total != 1)}: a weight gamma on the accepts or on "
        f"the rejects of the loss, and training mixes with {', '.join(f'1/{k}' for k in ks)} accepts."
    ]
    if source:
        parts.append(
            f"The training rows come from {source['rows']:,} papers ({source['accepts']:,} accepts, "
            f"{source['rejects']:,} rejects)."
        )
    rows = story.analysis["rows"]
    accepts = f" ({test['accepts']:,} accepts, {test['rejects']:,} rejects)" if "accepts" in test else ""
    parts.append(f"All are judged on the same {rows:,} test papers{accepts}, which chose nothing.")
    parts.append(
        f"All {total} are done." if done == total else f"{done} of {total} are done; the others are listed below."
    )
    return " ".join(parts)


def gamma_section(story: Story) -> Section:
    """The two gamma plots."""
    if not story.done:
        return Section("gamma", "What gamma and the mix did", ["No condition has predictions yet."])
    actual = story.done[0]["actual_accept_rate"]
    reference = ("accept rate of the test set", actual)
    blocks: list[Block] = [
        Drawn(
            against_gamma(
                story.entries,
                "predicted_accept_rate",
                "Predicted accept rate",
                "acceptance_rate_vs_gamma",
                "Weighting accepts (left) should raise the share of papers that the model accepts, weighting rejects "
                "(right) should lower it, and fewer accepts in training should move the whole line down. The star is "
                "the baseline, drawn in both panels; bars are 95 % Wilson intervals.",
                story.externals,
                reference,
            )
        ),
        Drawn(
            against_gamma(
                story.entries,
                "accuracy",
                "Accuracy",
                "accuracy_vs_gamma",
                "What moving the accept rate costs: a line that falls away from the baseline (star) traded accuracy "
                "for a rate far from the test set's own. The axis is fitted to the data; bars are 95 % Wilson "
                "intervals.",
                story.externals,
                zoom=True,
            )
        ),
    ]
    return Section("gamma", "What gamma and the mix did", [], blocks)


def table_section(story: Story) -> Section:
    """All conditions, failed ones included."""
    headings = ["condition", "proportion", "variant", "gamma", *(title for _, title, _ in METRICS), "unknown answers"]
    columns = [(key, kind) for key, _, kind in METRICS]
    rows = []
    for e in story.entries:
        c = parse_name(e["name"])
        row = metric_row([text(c.name), text(c.proportion_text), text(c.variant), text(c.gamma)], e, columns)
        row.cells.append(text(e.get("unknown", "")))
        rows.append(row)
    for e in story.externals:
        row = metric_row([text(e["name"]), text("external"), text(""), text("")], e, columns)
        row.cells.append(text(e["unknown"]))
        rows.append(row)
    note = (
        "Decisions are the sign of the Accept-Reject margin. In grey: 95 % intervals (Wilson for shares, DeLong for "
        "AUC). Click a heading to sort."
    )
    return Section("tables", "All conditions", [], [Table("conditions", "Metrics by condition", headings, rows, note)])


def provenance_section(story: Story) -> Section:
    """Where it all came from and how to make it again."""
    blocks: list[Block] = [Code(str(story.sweep.get("command", "")))]
    folded: Sequence[tuple[str, Any]] = (
        ("provenance", story.sweep.get("provenance", {})),
        ("data", story.data),
        ("resolved configuration", story.sweep.get("sweep", {})),
    )
    blocks += [Code(json.dumps(value, indent=2, ensure_ascii=False), title) for title, value in folded]
    return Section(
        "provenance",
        "How to make this again",
        [f"The command that made it (fingerprint {story.sweep.get('fingerprint', 'unknown')}):"],
        blocks,
    )
