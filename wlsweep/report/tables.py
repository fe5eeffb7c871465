"""The second half of the page: tables, years, training curves, failures and warnings, provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

from wlsweep.analysis.evaluation_records import LogLine, MetricName, ModelResult, SeedMean
from wlsweep.analysis.summary_table import answer_warnings, unfinished
from wlsweep.estimate import CHANGE, NONE, PERCENT, PLAIN, POINTS, Estimate, Format, count
from wlsweep.report.blocks import Block, Cell, Code, Drawn, Listing, Pair, Row, Section, Table, number, p_cell, text
from wlsweep.report.figures.small_multiples import per_year, training
from wlsweep.report.figures.style import axis, share_axis, upright
from wlsweep.report.report_input import ReportInput, classes, columns, titles
from wlsweep.run.record import plain
from wlsweep.spec.condition import parse_name
from wlsweep.spec.data_section import system_notes
from wlsweep.spec.task import Words


def tables(report: ReportInput) -> Section:
    """All conditions, failed ones included; differences to the baseline; what the text says; seeds."""
    blocks: list[Block] = [_conditions(report)]
    if report.analysis.comparisons:
        blocks.append(_differences(report))
    everyone = (*report.done, *report.externals)
    if differing := [r for r in everyone if r.metrics and (r.metrics.unknown or r.metrics.text_differs)]:
        blocks.append(_readings(differing, report.words))
    if report.analysis.seeds:
        blocks.append(_seeds(report))
    return Section("tables", "Tables", [], blocks)


def _who(r: ModelResult, words: Words) -> list[Cell]:
    if (c := r.condition) is None:
        return [text(r.name), text("external"), text(""), text(""), text("")]
    return [
        text(c.name),
        text(r.state),
        Cell(c.proportion_text, 1 / c.k),
        text(words.variant(c.variant)),
        text(c.gamma),
    ]


def _conditions(report: ReportInput) -> Table:
    words, shown = report.words, columns(report.words)
    who = ["condition", "state", "proportion", "variant", "gamma", words.items]
    headings = [*who, *(title for _, title, _ in shown), "unknown answers", "cause"]
    rows = []
    for r in [*report.conditions, *report.externals]:
        if r.metrics is None:
            rows.append(
                Row([*_who(r, words), text(""), *([Cell("", "")] * len(shown)), text(""), text(r.cause or "")], "bad")
            )
            continue
        numbers = [number(r[metric], form) for metric, _, form in shown]
        rows.append(Row([*_who(r, words), text(r.metrics.n), *numbers, text(r.metrics.unknown), text("")]))
    hidden = ("precision_reject", "average_precision", "log_loss", "ece_equal_mass")
    more = {*who[2:], *(title for metric, title, _ in shown if metric in hidden), "unknown answers"}
    if all(r.done for r in report.conditions):
        more |= {"state", "cause"}
    note = (
        f"Decisions are the sign of the {'-'.join(words.labels)} margin. In grey: 95% intervals over {words.items} (shares:"
        " Wilson; AUC: DeLong; average precision: jackknife; Brier and log loss: t; ECE: bootstrap, its lower "
        "end without the bias that"
        " a sample adds). Click a heading to sort."
    )
    return Table("conditions", "Metrics by condition", headings, rows, note, frozenset(more))


def _differences(report: ReportInput) -> Table:
    analysis = report.analysis
    shown = [
        (m, title, POINTS if form is PERCENT else CHANGE)
        for m, title, form in columns(report.words)
        if m not in ("precision_reject", "ece_equal_mass")
    ]
    headings = ["condition", *(title + (" (points)" if form is POINTS else "") for _, title, form in shown)]
    headings += ["McNemar p", "accuracy p", "Holm p", "accuracy - moved threshold (points)"]
    headings += ["McNemar p (moved)", "Holm p (moved)"]
    tested = [{t.name: t for t in tests} for tests in (analysis.against_baseline, analysis.against_moved_threshold)]
    outside = {e.name for e in report.externals}
    rows = []
    for c in analysis.comparisons:
        cell = c.name if c.name in outside else replace(parse_name(c.name), seed=0).name
        changes = [number(c.difference[metric], form) for metric, _, form in shown]
        against, moved = (tests.get(cell) for tests in tested)
        first = [
            p_cell(c.mcnemar.p),
            p_cell(against.p if against else None),
            p_cell(against.p_holm if against else None),
        ]
        second = [p_cell(c.moved_threshold.test.p), p_cell(moved.p_holm if moved else None)]
        rows.append(Row([text(c.name), *changes, *first, number(c.moved_threshold.difference, POINTS), *second]))
    note = (
        f"Condition minus its baseline on the same {report.words.items}. In grey: 95% intervals. "
        f"{analysis.trainings.sentence} {analysis.trainings.of_ranks} ({analysis.draws:,} bootstrap draws); ECE: what both"
        " intervals leave. McNemar is exact and about these two trainings; accuracy p counts what"
        f" the intervals count. Holm corrects accuracy p over the {count(analysis.family, 'declared condition')}"
        + (", each by one test over all its seeds." if analysis.seeds else ".")
    )
    more = {f"{titles(report.words)[m]} (points)" for m in ("recall_reject", "f1")}
    more |= {"average precision", "log loss", "McNemar p", "accuracy p", "McNemar p (moved)"}
    return Table("differences", "Differences to the baseline", headings, rows, note, frozenset(more), folded=True)


def _readings(differing: Sequence[ModelResult], words: Words) -> Table:
    named = titles(words)
    metrics: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy", "f1")
    headings = ["condition", words.items, "unknown answers", "answers against the margin"]
    headings += [f"{named[m]}, {reading}" for m in metrics for reading in ("strict", "parsed")]
    rows = []
    for r in differing:
        assert r.metrics is not None
        numbers = [number(reading[m], PERCENT) for m in metrics for reading in (r.metrics.strict, r.metrics.parsed)]
        counts = [text(x) for x in (r.metrics.n, r.metrics.unknown, r.metrics.text_differs)]
        rows.append(Row([text(r.name), *counts, *numbers]))
    note = (
        "Models whose generated text does not always say what the margin says. Strict: an answer that cannot be read is"
        " wrong. Parsed: only answers that can be read. Other rates: metrics/all_metrics.json."
    )
    return Table("readings", "Where the generated text differs", headings, rows, note, folded=True)


def _seeds(report: ReportInput) -> Table:
    named = titles(report.words)
    metrics: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy", "f1", "auc", "brier", "ece")
    compared: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy")
    headings = [
        "condition",
        "seeds",
        *(h for m in metrics for h in (f"{named[m]}, mean", f"{named[m]}, sd of seeds")),
        *(f"{named[m]} - baseline's (points), mean" for m in compared),
    ]
    rows = []
    for s in report.analysis.seeds:
        cells = [text(s.name), text(len(s.members))]
        for m in metrics:
            at = s.metrics.get(m)
            cells.append(_mean(at, PLAIN))
            cells.append(Cell(NONE, "", number=True) if at is None else text(round(at.between_seed_sd, 4)))
        cells += [_mean(s.difference.get(m), POINTS) for m in compared]
        rows.append(Row(cells))
    note = (
        f"In grey: 95% intervals that count both other seeds and other {report.words.items} (Satterthwaite); "
        "none for ECE, whose bias"
        " outweighs its spread. Differences pair each seed with the baseline of that seed, or the first one there is;"
        " where seeds share a baseline, the interval is that of the known noise of trainings, and there is none without it."
    )
    return Table("seeds", "Over seeds", headings, rows, note, folded=True)


def _mean(at: SeedMean | None, form: Format) -> Cell:
    return number(Estimate(None) if at is None else at.mean, form)


def years(report: ReportInput) -> Section:
    """Per year."""
    title = "Years"
    everyone, words = [*report.done, *report.externals], report.words
    if not everyone or not report.analysis.years:
        return Section(
            "years", title, [f"The test {words.items} have no year." if everyone else "No condition is done yet."]
        )
    figure = per_year(
        report,
        f"Coloured: predicted {words.rate}; grey dashes: accuracy; dotted: the true {words.rate} of the year. Whiskers:"
        f" 95% Wilson intervals, wide because a year has few {words.items}.",
    )
    shown: tuple[tuple[MetricName, str, Format], ...] = (
        ("predicted_accept_rate", f"predicted {words.rate}", PERCENT),
        ("actual_accept_rate", f"true {words.rate}", PERCENT),
        *((m, titles(words)[m], PERCENT) for m in _YEARLY),
        ("auc", "AUC", PLAIN),
        ("brier", "Brier", PLAIN),
    )
    rows = [
        Row(
            [
                text(r.name),
                Cell(str(y.year), y.year, number=True),
                text(y.metrics.n),
                *(number(y.metrics[metric], form) for metric, _, form in shown),
            ]
        )
        for r in everyone
        for y in r.by_year
    ]
    headings = ["condition", "year", words.items, *(heading for _, heading, _ in shown)]
    if len(rows) > MOST_YEARLY:  # megabytes of a page that is to open at once
        return Section("years", title, [f"The {len(rows):,} values are in metrics/by_year.parquet."], [Drawn(figure)])
    table = Table("years", "Metrics by condition and year", headings, rows, "In grey: 95% intervals.", folded=True)
    return Section("years", title, [], [Drawn(figure), table])


MOST_YEARLY = 2_000
"""Rows of the table by year beyond which it is left to the Parquet file."""
_YEARLY: tuple[MetricName, ...] = ("accuracy", "recall", "recall_reject", "f1")


def curves(report: ReportInput) -> Section:
    """Training curves, and those of validation where there is one."""
    title = "Training"
    logs, words = report.analysis.training, report.words
    if not any(logs.values()):
        return Section("training", title, ["No metric log was found."])
    loss = training(
        report,
        "loss",
        "training_loss",
        "Training loss",
        "Weighted loss of the logged batches; weights scale its height, so compare shapes: a curve that rises or jumps is a"
        f" training that went wrong. Colour: mix; solid: {words.positive} variants, dashed: {words.negative} "
        "variants, paler for"
        " smaller gamma. Batches are single draws, so there is no interval.",
        axis("weighted loss", rangemode="tozero"),
    )
    rate = training(
        report,
        "predicted_accept_rate",
        "training_accept_rate",
        f"Predicted {words.rate} while training",
        f"The predicted {words.rate} of training batches: where gamma acts, lines part within the first steps.",
        share_axis(upright(f"predicted {words.rate}")),
    )
    return Section("training", title, [], [Pair([loss, rate]), *_validation_blocks(report)])


def _legend(words: Words) -> str:
    """How the lines of conditions are told apart."""
    return f" Colour: mix; solid: weight on {words.positives}, dashed: weight on {words.negatives}, paler for smaller gamma."


def _validation_blocks(report: ReportInput) -> list[Block]:
    """Curves where a training was validated more than once, and a table of the last validations."""
    validated = {
        name: judged
        for name, lines in report.analysis.training.items()
        if (judged := [line for line in lines if line.get("validation_bce") is not None])
    }
    if not validated:
        return []
    drawn: list[Block] = _validation_curves(report) if any(len(lines) > 1 for lines in validated.values()) else []
    return [*drawn, _validation_table(report, {name: lines[-1] for name, lines in validated.items()})]


def _validation_curves(report: ReportInput) -> list[Block]:
    words = report.words
    bce = training(
        report,
        "validation_bce",
        "validation_cross_entropy",
        f"Cross-entropy on validation {words.items}",
        f"Unweighted, on {words.items} that no condition trains on: a line that has turned up again is a training that"
        " went on too long. Weighted conditions say other probabilities on purpose, so compare a line with itself."
        + _legend(words),
        axis("binary cross-entropy (nats)"),
    )
    auc = training(
        report,
        "validation_auc",
        "validation_auc",
        f"AUC on validation {words.items}",
        f"How well {words.items} are ranked, which an offset of log-odds does not change: flat from the start means that"
        " nothing was learnt that the base model did not know." + _legend(words),
        axis("AUC"),
    )
    rate = training(
        report,
        "validation_accept_rate",
        "validation_accept_rate",
        f"Predicted {words.rate} on validation {words.items}",
        f"The predicted {words.rate} of the validation {words.items}: a line that still moves at the end has not settled."
        + _legend(words),
        share_axis(f"predicted {words.rate}"),
    )
    loss = training(
        report,
        "validation_loss",
        "validation_loss",
        f"Weighted loss on validation {words.items}",
        "Each condition's own loss, whose height its weights decide: compare shapes." + _legend(words),
        axis("weighted loss", rangemode="tozero"),
    )
    return [Pair([bce, auc]), Pair([rate, loss])]


def _validation_table(report: ReportInput, last: dict[str, LogLine]) -> Table:
    papers, words = report.data.validation, report.words
    n = papers.rows if papers else 0
    headings = ["condition", "step", "cross-entropy", "AUC", "accuracy", f"predicted {words.rate}", "weighted loss"]
    rows = []
    for c in report.conditions:
        if (at := last.get(c.name)) is None:
            continue
        numbers = (number(Estimate(at.get(f"validation_{key}")), PLAIN) for key in ("bce", "auc"))
        shares = (number(Estimate(at.get(f"validation_{key}")), PERCENT) for key in ("accuracy", "accept_rate"))
        loss = number(Estimate(at.get("validation_loss")), PLAIN)
        rows.append(Row([text(c.name), text(int(at["step"] or 0)), *numbers, *shares, loss]))
    who = f"{n:,} {words.items}{classes(papers, words)}" if papers else words.items.capitalize()
    note = (
        f"{who} of the training rows, in no mix and not in the test set, the same for every condition. Cross-entropy is"
        " unweighted."
        + (f" On so many an accuracy is known to about {98 / sqrt(n):.0f} points either way (95%)." if n else "")
    )
    return Table("validation", "Validation at the end of training", headings, rows, note)


def warnings(report: ReportInput) -> Section:
    """Failures and everything that a reader must know before trusting a number."""
    words = report.words
    lines = [f"{line}." for line in unfinished(report.conditions)]
    if report.baseline is None:
        lines.append("No baseline is done among the conditions shown, so nothing can be compared with one.")
    for proportion, mix in report.data.mixes.items():
        if mix.duplicates:
            lines.append(
                f"The mix {proportion} uses {mix.duplicates:,} rows more than once: it has {mix.rejects:,}"
                f" {words.negatives} from {mix.distinct_rejects:,} different ones and {mix.accepts:,} {words.positives}"
                f" from {mix.distinct_accepts:,}."
            )
    lines += [f"The rows' {note}." for note in system_notes(report.data.system)]
    for name, at in report.data.truncated.items():
        if at.share:
            by = ", ".join(f"{label} {PERCENT.value(share)}" for label, share in at.by_class.items())
            lines.append(
                f"{PERCENT.value(at.share)} of the {name} {words.items} were cut to {report.data.cutoff} tokens ({by})."
            )
    lines += answer_warnings([*report.done, *report.externals], words)
    title = "Warnings"
    if not lines:
        none = "None: every condition is done, no row was used twice or cut, every answer could be read."
        return Section("warnings", title, [none])
    folded = all(r.done for r in report.conditions) and report.baseline is not None
    return Section("warnings", title, [], [Listing(lines, count(len(lines), "warning") if folded else "")])


def provenance(report: ReportInput) -> Section:
    """Where it all came from and how to make it again."""
    commands = report.sweep.commands
    blocks: list[Block] = [Code("\n".join(dict.fromkeys(commands)))]
    folded = (
        ("provenance", plain(report.sweep.provenance)),
        ("data", plain(report.data)),
        ("resolved configuration", report.sweep.sweep),
    )
    blocks += [Code(json.dumps(value, indent=2, ensure_ascii=False), title) for title, value in folded]
    chosen = report.analysis.inputs.only
    source, words = report.data.source, report.words
    what = "The command that made it" if len(set(commands)) == 1 else "The commands that made it, in order"
    paragraphs = [f"{what} (fingerprint {report.sweep.fingerprint}):"]
    if chosen:
        paragraphs.insert(0, f"This page shows a selection: --only {chosen}.")
    paragraphs.append(f"Its training rows come from {source.rows:,} {words.items}{classes(source, words)}.")
    if outside := report.analysis.inputs.externals:
        paragraphs.append(
            "Predictions made elsewhere: " + "; ".join(f"{name} from {path}" for name, path in outside) + "."
        )
    return Section("provenance", "How to make this again", paragraphs, blocks)
