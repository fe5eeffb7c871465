"""The page's part on validation: its curves, and what it says of each trained model; nothing where none was validated."""

from __future__ import annotations

from math import sqrt

from wlsweep.analysis.evaluation_records import LogLine
from wlsweep.estimate import PERCENT, PLAIN, Estimate
from wlsweep.report.blocks import Block, Pair, Row, Table, number, text
from wlsweep.report.figures.small_multiples import training
from wlsweep.report.figures.style import axis, share_axis
from wlsweep.report.report_input import ReportInput, classes
from wlsweep.spec.task import Words


def _look(words: Words) -> str:
    """How the lines of conditions are told apart."""
    return f" Colour: mix; solid: weight on {words.positives}, dashed: weight on {words.negatives}, paler for smaller gamma."


def validation_blocks(report: ReportInput) -> list[Block]:
    """Curves where a training was validated more than once, and a table of the last validations."""
    validated = {
        name: judged
        for name, lines in report.analysis.training.items()
        if (judged := [line for line in lines if line.get("validation_bce") is not None])
    }
    if not validated:
        return []
    curves: list[Block] = _curves(report) if any(len(lines) > 1 for lines in validated.values()) else []
    return [*curves, _table(report, {name: lines[-1] for name, lines in validated.items()})]


def _curves(report: ReportInput) -> list[Block]:
    words = report.words
    bce = training(
        report,
        "validation_bce",
        "validation_cross_entropy",
        f"Cross-entropy on validation {words.items}",
        f"Unweighted, on {words.items} that no condition trains on: a line that has turned up again is a training that"
        " went on too long. Weighted conditions say other probabilities on purpose, so compare a line with itself."
        + _look(words),
        axis("binary cross-entropy (nats)"),
    )
    auc = training(
        report,
        "validation_auc",
        "validation_auc",
        f"AUC on validation {words.items}",
        f"How well {words.items} are ranked, which an offset of log-odds does not change: flat from the start means that"
        " nothing was learnt that the base model did not know." + _look(words),
        axis("AUC"),
    )
    rate = training(
        report,
        "validation_accept_rate",
        "validation_accept_rate",
        f"Predicted {words.rate} on validation {words.items}",
        f"The predicted {words.rate} of the validation {words.items}: a line that still moves at the end has not settled."
        + _look(words),
        share_axis(f"predicted {words.rate}"),
    )
    loss = training(
        report,
        "validation_loss",
        "validation_loss",
        f"Weighted loss on validation {words.items}",
        "Each condition's own loss, whose height its weights decide: compare shapes." + _look(words),
        axis("weighted loss", rangemode="tozero"),
    )
    return [Pair([bce, auc]), Pair([rate, loss])]


def _table(report: ReportInput, last: dict[str, LogLine]) -> Table:
    papers, words = report.data.validation, report.words
    n = papers.rows if papers else 0
    headings = ["condition", "step", "cross-entropy", "AUC", "accuracy", f"predicted {words.rate}", "weighted loss"]
    rows = []
    for c in report.conditions:
        if (at := last.get(c.name)) is None:
            continue
        plain = (number(Estimate(at.get(f"validation_{key}")), PLAIN) for key in ("bce", "auc"))
        shares = (number(Estimate(at.get(f"validation_{key}")), PERCENT) for key in ("accuracy", "accept_rate"))
        loss = number(Estimate(at.get("validation_loss")), PLAIN)
        rows.append(Row([text(c.name), text(int(at["step"] or 0)), *plain, *shares, loss]))
    who = f"{n:,} {words.items}{classes(papers, words)}" if papers else words.items.capitalize()
    note = (
        f"{who} of the training rows, in no mix and not in the test set, the same for every condition. Cross-entropy is"
        " unweighted."
        + (f" On so many an accuracy is known to about {98 / sqrt(n):.0f} points either way (95%)." if n else "")
    )
    return Table("validation", "Validation at the end of training", headings, rows, note)
