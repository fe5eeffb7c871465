"""The second half of the page: tables, years, training curves, failures and warnings, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from wlsweep.report.blocks import Block, Cell, Code, Drawn, Entry, Listing, Row, Section, Table, metric_row, text
from wlsweep.report.figures.small_multiples import per_year, training
from wlsweep.report.figures.style import axis, share_axis
from wlsweep.report.report_input import METRICS, ReportInput, count, pct
from wlsweep.spec.condition import parse_name

_READINGS = ("predicted_accept_rate", "accuracy", "precision", "recall", "recall_reject", "f1")


def tables(report_input: ReportInput) -> Section:
    """All conditions, failed ones included; differences to the baseline; what the text says; seeds."""
    blocks: list[Block] = [_conditions(report_input)]
    if report_input.analysis["comparisons"]:
        blocks.append(_differences(report_input))
    if report_input.done or report_input.externals:
        blocks.append(_readings(report_input))
    if report_input.analysis["seeds"]:
        blocks.append(_seeds(report_input))
    return Section("tables", "All numbers", [], blocks)


def _who(e: Entry, outside: bool) -> list[Cell]:
    if outside:
        return [text(e["name"]), text("external"), text(""), text(""), text("")]
    c = parse_name(e["name"])
    return [text(c.name), text(e["state"]), Cell(c.proportion_text, 1 / c.k), text(c.variant), text(c.gamma)]


def _everyone(report_input: ReportInput) -> list[tuple[Entry, bool]]:
    return [(e, False) for e in report_input.entries] + [(e, True) for e in report_input.externals]


def _conditions(report_input: ReportInput) -> Table:
    headings = ["condition", "state", "proportion", "variant", "gamma", "papers", *(title for _, title, _ in METRICS)]
    headings += ["unknown answers", "cause"]
    columns = [(key, kind) for key, _, kind in METRICS]
    rows = []
    for e, outside in _everyone(report_input):
        row = metric_row([*_who(e, outside), text(e.get("n", ""))], e, columns)
        rows.append(Row([*row.cells, text(e.get("unknown", "")), text(e.get("cause") or "")], row.tone))
    note = (
        "Decisions are the sign of the Accept-Reject margin. In grey: 95% intervals (shares: Wilson; AUC: DeLong;"
        " average precision: jackknife; Brier and log loss: t; ECE: bootstrap, its lower"
        " end without the bias that a sample adds). Click a heading to sort."
    )
    return Table("conditions", "Metrics by condition", headings, rows, note)


def _change(d: Mapping[str, Any] | None, scale: float, digits: int) -> Cell:
    if d is None:
        return Cell("-", "", number=True)
    value, low, high = (None if d[k] is None else scale * d[k] for k in ("value", "low", "high"))
    shown = f"{value:+.{digits}f}"
    if low is None or high is None:
        return Cell(shown, value, number=True)
    return Cell(shown, value, low, high, f"{low:+.{digits}f} to {high:+.{digits}f}", number=True)


def _p(value: float | None) -> Cell:
    return Cell("-", "", number=True) if value is None else Cell(f"{value:.2g}", value, number=True)


def _differences(report_input: ReportInput) -> Table:
    percent = ("predicted_accept_rate", "accuracy", "precision", "recall", "recall_reject", "f1")
    plain = ("auc", "average_precision", "brier", "log_loss", "ece")
    titles = {key: title for key, title, _ in METRICS}
    headings = ["condition", *(f"{titles[m]} (points)" for m in percent), *(titles[m] for m in plain)]
    headings += ["McNemar p", "Holm p", "accuracy - moved threshold (points)", "McNemar p (moved)", "Holm p (moved)"]
    rows = []
    for c in report_input.analysis["comparisons"]:
        d, moved = c["difference"], c["moved_threshold"]
        at = {"value": moved["difference"], "low": moved["low"], "high": moved["high"]}
        rows.append(
            Row(
                [
                    text(c["name"]),
                    *(_change(d[m], 100, 1) for m in percent),
                    *(_change(d[m], 1, 3) for m in plain),
                    _p(c["mcnemar"]["p"]),
                    _p(c["mcnemar"]["p_holm"]),
                    _change(at, 100, 1),
                    _p(moved["p"]),
                    _p(moved["p_holm"]),
                ]
            )
        )
    note = (
        f"Condition minus its baseline on the same papers. In grey: paired bootstrap intervals, 95%,"
        f" {report_input.analysis['draws']:,} draws, of test papers only (ECE: what both"
        f" intervals leave). McNemar is exact; Holm corrects over the"
        f" {report_input.analysis['family']} declared comparisons."
    )
    return Table("differences", "Differences to the baseline", headings, rows, note)


def _readings(report_input: ReportInput) -> Table:
    titles = {key: title for key, title, _ in METRICS}
    headings = ["condition", "reading", "papers", *(titles[m] for m in _READINGS)]
    rows = []
    for e, _ in _everyone(report_input):
        if e["state"] != "done":
            continue
        for name in ("strict", "parsed"):
            row = metric_row(
                [text(e["name"]), text(name), text(e[name]["accuracy_n"])], e[name], [(m, "share") for m in _READINGS]
            )
            rows.append(row)
    note = (
        "The same rates from the generated text instead of the margin. Strict: an answer that cannot be read is wrong."
        " Parsed: only answers that can be read."
    )
    return Table("readings", "What the generated text says", headings, rows, note)


def _seeds(report_input: ReportInput) -> Table:
    metrics = ("predicted_accept_rate", "accuracy", "f1", "auc", "brier", "ece")
    compared = ("predicted_accept_rate", "accuracy")
    titles = {key: title for key, title, _ in METRICS}
    headings = [
        "condition",
        "seeds",
        *(h for m in metrics for h in (f"{titles[m]}, mean", f"{titles[m]}, sd of seeds")),
        *(f"{titles[m]} - baseline's (points), mean" for m in compared),
    ]
    rows = []
    for s in report_input.analysis["seeds"]:
        cells = [text(s["name"]), text(len(s["members"]))]
        for m in metrics:
            at = s["metrics"].get(m)
            cells.append(_mean(at, 1, ".3f"))
            cells.append(Cell("-", "", number=True) if at is None else text(round(at["between_seed_sd"], 4)))
        cells += [_mean(s.get("difference", {}).get(m), 100, "+.1f") for m in compared]
        rows.append(Row(cells))
    note = (
        "In grey: 95% intervals that count both other seeds and other papers (Satterthwaite); none for ECE, whose bias"
        " outweighs its spread. Differences pair each seed with the baseline of that seed, or the only one there is."
    )
    return Table("seeds", "Over seeds", headings, rows, note)


def _mean(at: Mapping[str, Any] | None, scale: float, form: str) -> Cell:
    """A mean over seeds with its interval."""
    if at is None:
        return Cell("-", "", number=True)
    value = scale * at["mean"]
    if at["low"] is None:
        return Cell(f"{value:{form}}", value, number=True)
    low, high = scale * at["low"], scale * at["high"]
    return Cell(f"{value:{form}}", value, low, high, f"{low:{form}} to {high:{form}}", number=True)


def years(report_input: ReportInput) -> Section:
    """Per year."""
    title = "Year by year"
    everyone = [*report_input.done, *report_input.externals]
    if not everyone or not report_input.analysis["years"]:
        return Section("years", title, ["The test papers have no year." if everyone else "No condition is done yet."])
    figure = per_year(
        report_input.entries,
        report_input.externals,
        "Coloured: predicted accept rate; grey dashes: accuracy; dotted: the true accept rate of the year. Whiskers:"
        " 95% Wilson intervals, wide because a year has few papers.",
    )
    shares = ("predicted_accept_rate", "actual_accept_rate", "accuracy", "recall", "recall_reject", "f1")
    columns = [*((key, "share") for key in shares), ("auc", "plain"), ("brier", "plain")]
    rows = [
        metric_row([text(e["name"]), Cell(str(y["year"]), y["year"], number=True), text(y["n"])], y, columns)
        for e in everyone
        for y in e["by_year"]
        if y["n"]
    ]
    headings = ["condition", "year", "papers", "predicted accept rate", "true accept rate", "accuracy"]
    headings += ["recall of accepts", "recall of rejects", "F1", "AUC", "Brier"]
    table = Table("years", "Metrics by condition and year", headings, rows, "In grey: 95% intervals.")
    return Section("years", title, [], [Drawn(figure), table])


def curves(report_input: ReportInput) -> Section:
    """Training curves."""
    title = "Training"
    logs = report_input.analysis["training"]
    if not any(logs.values()):
        return Section("training", title, ["No metric log was found."])
    loss = training(
        report_input.entries,
        logs,
        "loss",
        "training_loss",
        "Training loss",
        "Weighted loss of the logged batches; heights differ between conditions because weights scale them, so compare"
        " shapes: a curve that rises or jumps is a training that went wrong. Black: baseline; solid: accept variants,"
        " dashed: reject variants, paler for smaller gamma. Batches are single draws, so there is no interval.",
        axis("weighted loss", rangemode="tozero"),
    )
    rate = training(
        report_input.entries,
        logs,
        "predicted_accept_rate",
        "training_accept_rate",
        "Predicted accept rate while training",
        "Share of the training batch that the model would accept: where gamma acts, lines part within the first steps.",
        share_axis("predicted accept rate"),
    )
    return Section("training", title, [], [Drawn(loss), Drawn(rate)])


def warnings(report_input: ReportInput) -> Section:
    """Failures and everything that a reader must know before trusting a number."""
    lines = [f"{e['name']}: {e['state']} ({e['cause']})." for e in report_input.entries if e["state"] != "done"]
    if report_input.baseline is None:
        lines.append("No baseline is done among the conditions shown, so nothing can be compared with one.")
    for proportion, mix in report_input.data.get("mixes", {}).items():
        if mix.get("duplicates"):
            lines.append(
                f"The mix {proportion} uses {mix['duplicates']:,} rows more than once: it has {mix['rejects']:,}"
                f" rejects from {mix['distinct_rejects']:,} papers and {mix['accepts']:,} accepts from"
                f" {mix['distinct_accepts']:,}."
            )
    for name, at in report_input.data.get("truncated", {}).items():
        if at.get("share"):
            by = ", ".join(f"{label} {pct(share)}" for label, share in at.get("by_class", {}).items())
            lines.append(
                f"{pct(at['share'])} of the {name} papers were cut to {report_input.data.get('cutoff')} tokens ({by})."
            )
    lines += _answer_warnings([*report_input.done, *report_input.externals])
    quiet = not lines
    return Section(
        "warnings",
        "Failures and warnings",
        ["None: every condition is done, no row was used twice or cut, every answer could be read."] if quiet else [],
        [] if quiet else [Listing(lines)],
    )


def _answer_warnings(done: Sequence[Entry]) -> list[str]:
    lines = []
    unknown = [e for e in done if e["unknown"]]
    if unknown:
        worst = max(unknown, key=lambda e: e["unknown"])
        lines.append(
            f"Answers that could not be read occur in the predictions of {count(len(unknown), 'model')}; most in"
            f" {worst['name']} ({worst['unknown']:,} of {worst['n']:,}). The headline decisions come from the margin and"
            " do not need them."
        )
    if differing := [e for e in done if e["text_differs"]]:
        worst = max(differing, key=lambda e: e["text_differs"])
        lines.append(
            f"In the predictions of {count(len(differing), 'model')} some generated texts contradict the margin; most in"
            f" {worst['name']} ({worst['text_differs']:,} of {worst['n']:,})."
        )
    if tied := [e for e in done if e["ties"]]:
        lines.append(f"A margin of exactly 0 counts as Reject; it occurs {sum(e['ties'] for e in tied):,} times.")
    if other := [e for e in done if (e["p_other_mean"] or 0) > 0.05]:
        lines.append(
            "More than 5% of the probability goes to neither label in " + ", ".join(e["name"] for e in other[:5]) + "."
        )
    return lines


def provenance(report_input: ReportInput) -> Section:
    """Where it all came from and how to make it again."""
    commands = [str(at.get("command", "")) for at in report_input.sweep.get("launches", [])] or [
        report_input.sweep.get("command", "")
    ]
    blocks: list[Block] = [Code("\n".join(dict.fromkeys(commands)))]
    folded: Sequence[tuple[str, Any]] = (
        ("provenance", report_input.sweep.get("provenance", {})),
        ("data", report_input.data),
        ("resolved configuration", report_input.sweep.get("sweep", {})),
    )
    blocks += [Code(json.dumps(value, indent=2, ensure_ascii=False), title) for title, value in folded]
    chosen = report_input.analysis["inputs"]["only"]
    what = "The command that made it" if len(set(commands)) == 1 else "The commands that made it, in order"
    paragraphs = [f"{what} (fingerprint {report_input.sweep.get('fingerprint', 'unknown')}):"]
    if chosen:
        paragraphs.insert(0, f"This page shows a selection: --only {chosen}.")
    if outside := report_input.analysis["inputs"]["externals"]:
        paragraphs.append(
            "Predictions made elsewhere: " + "; ".join(f"{name} from {path}" for name, path in outside) + "."
        )
    return Section("provenance", "How to make this again", paragraphs, blocks)
