"""The page in the order of a reader's questions: the answer, gamma, theory, cost; `tables` holds the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from wlsweep.analysis.evaluation_records import MetricName, ModelResult
from wlsweep.estimate import CHANGE, PERCENT, PLAIN, POINTS, count
from wlsweep.report.blocks import Answer, Block, Drawn, Pair, Section
from wlsweep.report.figures.gamma import gamma_figure
from wlsweep.report.figures.heatmap import CELLS, heatmap
from wlsweep.report.figures.scatter import forest, precision_recall
from wlsweep.report.figures.small_multiples import coverage, reliability
from wlsweep.report.figures.style import Figure
from wlsweep.report.report_input import ReportInput, classes
from wlsweep.report.tables import curves, provenance, tables, warnings, years
from wlsweep.report.theory import forecast_section
from wlsweep.report.usage import used
from wlsweep.spec.task import Words

_NOTHING = "No condition has predictions yet."
FIRM = 0.95
"""Least share of draws with the same verdict from which another draw of papers and trainings would hardly change it."""


def sections(report: ReportInput) -> list[Section]:
    """The whole page, in order."""
    parts = (answer, warnings, forecast_section, cost, tables, years, curves, used, provenance)
    return [part(report) for part in parts]


def lead(report: ReportInput) -> str:
    """What was done and what the intervals count, in one paragraph."""
    conditions = [c.condition for c in report.conditions if c.condition]
    ks, seeds, words = sorted({c.k for c in conditions}), {c.seed for c in conditions}, report.words
    done, total = len(report.done), len(report.conditions)
    parts = [
        f"{count(total, 'fine-tuning')} of {_base_model(report)}: weight gamma on the {words.positives} or on the"
        f" {words.negatives} of the loss, training mixes with {', '.join(f'1/{k}' for k in ks)} {words.positives},"
        + (f" {len(seeds)} seeds in all" if len(seeds) > 1 else " one seed each")
    ]
    declared_seeds = Counter(replace(c, seed=0).name for c in conditions)
    if (single := sum(n == 1 for n in declared_seeds.values())) and len(seeds) > 1:
        parts[0] += f", but only one seed each for {count(single, 'condition')}"
    parts[0] += "."
    if chosen := report.analysis.inputs.only:
        declared = len(report.sweep.conditions)
        parts.append(f"This page shows {total} of the sweep's {count(declared, 'condition')} (--only {chosen}).")
    if words.positive != "accept":
        parts.append(
            f"In names of conditions, accept_* weights the {words.positives} and reject_* the {words.negatives}."
        )
    made = "" if report.analysis.oracle is None else "synthetic "
    tested = count(report.analysis.rows, f"{made}test {words.item}", f"{made}test {words.items}")
    parts.append(
        f"All are judged on the same {tested}{classes(report.data.test, words)}, {chosen_by_test_set(report)}."
    )
    if done < total:
        parts.append(f"{done} of {total} are done; the others are named below.")
    parts.append(report.analysis.trainings.sentence)
    if report.externals and report.analysis.trainings.source:
        parts.append("Of models from outside of the sweep, their own trainings are not counted.")
    return " ".join(parts)


def chosen_by_test_set(report: ReportInput) -> str:
    """What the test set chose, as a clause: no model, and under `--until-decided` which conditions run."""
    picked = any("--until-decided" in launch.command for launch in report.sweep.launches)
    return "which chose no model" + ("; forecasts on them chose which conditions to run" if picked else "")


def _base_model(report: ReportInput) -> str:
    """Its name, or what it is where the sweep made it."""
    model = report.sweep.section("model")
    if isinstance(tiny := model.get("tiny"), dict):
        return f"a Qwen2 of {tiny.get('layers')} layers and width {tiny.get('width')}, made for this sweep"
    return str(model.get("path") or report.sweep.base)


def answer(report: ReportInput) -> Section:
    """The verdicts beside the two figures that the sweep exists for."""
    verdicts = report.analysis.verdicts
    passed, failed, unknown = (sum(v.verdict == kind for v in verdicts) for kind in ("pass", "fail", "not testable"))
    sentences = []
    if report.done:
        ranked = sorted(report.done, key=lambda r: r["predicted_accept_rate"].value or 0.0)
        low, high = ((PERCENT.value(r["predicted_accept_rate"].value), r.name) for r in (ranked[0], ranked[-1]))
        sentences.append(
            f"The predicted {report.words.rate} ran from {low[0]} ({low[1]}) to {high[0]} ({high[1]}); the true one is"
            f" {PERCENT.value(report.done[0]['actual_accept_rate'].value)}."
        )
    if base := report.baseline:
        sentences.append(_baseline_sentence(base, report.words))
        sentences += _outside_sentences(report)
    sentences.append(
        f"Of {count(len(verdicts), 'hypothesis', 'hypotheses and criteria')}, {count(passed, 'passes', 'pass')},"
        f" {count(failed, 'fails', 'fail')} and {unknown} cannot be tested."
    )
    if doubtful := [v for v in verdicts if v.support is not None and v.support < FIRM]:
        sentences.append(
            f"Not firm, since fewer than {FIRM:.0%} of draws say the same: "
            + ", ".join(f"{v.key} ({v.verdict}, {v.support:.0%})" for v in doubtful)
            + "."
        )
    if not report.done:
        sentences.append(_NOTHING)
    figures = _gamma_figures(report) if report.done else []
    return Section("answer", "The answer", [" ".join(sentences)], [Answer(verdicts, figures)])


def _baseline_sentence(base: ModelResult, words: Words) -> str:
    true = base["actual_accept_rate"].value or 0.0
    larger = PERCENT.value(max(true, 1 - true))
    sentence = (
        f"The baseline's is {PERCENT.full(base['predicted_accept_rate'])}, and it is right on "
        f"{PERCENT.full(base['accuracy'])} of the {words.items}"
    )
    if (base["accuracy"].low or 0.0) <= max(true, 1 - true):
        return sentence + (
            f": that cannot be told from always naming the more frequent label ({larger}), so differences in "
            "accuracy below say little."
        )
    return sentence + f"; always naming the more frequent label would be right on {larger}."


def _outside_sentences(report: ReportInput) -> list[str]:
    """How each model from outside of the sweep does against the baseline: whether fine-tuning was worth it at all."""
    outside, sentences = {e.name for e in report.externals}, []
    for c in report.analysis.comparisons:
        if c.name in outside:
            accuracy, auc = c.difference["accuracy"], c.difference["auc"]
            better = any((e.low or 0.0) > 0 for e in (accuracy, auc))
            worse = any((e.high or 0.0) < 0 for e in (accuracy, auc))
            how = {
                (True, False): "better than",
                (False, True): "worse than",
                (False, False): "not shown to differ from",
            }
            sentences.append(
                f"{c.name}, from outside of the sweep, is {how.get((better, worse), 'better in one and worse in one than')}"
                f" the baseline {c.baseline}: accuracy {POINTS.full(accuracy)} points, AUC {CHANGE.full(auc)}."
            )
    return sentences


def _gamma_figures(report: ReportInput) -> list[Figure]:
    """Predicted rate and accuracy against gamma."""
    words = report.words
    forecasts = {
        t.name: rate.value
        for t in report.reached
        if t.forecast is not None and (rate := t.forecast["predicted_accept_rate"]).value is not None
    }
    several = (
        f" Conditions with several seeds are their mean, with an interval of seeds and {words.items}; circles "
        "are single seeds."
        if report.analysis.seeds
        else ""
    )
    reference = (f"true {words.rate} of the test set", report.done[0]["actual_accept_rate"].value or 0.0)
    rates = gamma_figure(
        "predicted_accept_rate",
        f"Predicted {words.rate}",
        "acceptance_rate_vs_gamma",
        f"Weighting {words.positives} should raise the rate, weighting {words.negatives} lower it, fewer {words.positives}"
        " in training move a whole line down. Star: the baseline; pale bars: what theory expects from it alone; whiskers:"
        f" 95% Wilson intervals ({words.items} alone). Points at one gamma are set slightly apart." + several,
        report,
        reference,
        forecasts,
    )
    accuracy = gamma_figure(
        "accuracy",
        "Accuracy",
        "accuracy_vs_gamma",
        "What moving the rate costs; colours as above. The axis is fitted to the data.",
        report,
        zoom=True,
    )
    return [rates, accuracy]


def _outside_of_the_grid(externals: list[ModelResult], metric: MetricName) -> str:
    """Models that have no gamma, for the caption of a heatmap."""
    known = [f"{e.name} {PERCENT.full(e[metric])}" for e in externals if e[metric].value is not None]
    return f" Outside of the grid: {'; '.join(known)}." if known else ""


def cost(report: ReportInput) -> Section:
    """Accuracy and calibration: what moving the rate took."""
    title = "Cost in accuracy and calibration"
    if not report.done:
        return Section("cost", title, [_NOTHING])
    analysis, words = report.analysis, report.words
    outside = [e.name for e in report.externals]
    blocks: list[Block] = []
    if analysis.comparisons:
        blocks.append(
            Drawn(
                forest(
                    analysis.comparisons,
                    "Filled: accuracy minus the baseline's. Open: accuracy minus that of the baseline with its"
                    f" threshold moved to the same {words.rate}; where it sits on zero, re-training bought nothing that a"
                    f" threshold would not. Whiskers: 95%, over {words.items} (open) and over what the intervals of"
                    " this page count (filled).",
                    outside,
                    words,
                )
            )
        )
    only_first = " Of several seeds, seed 0." if analysis.seeds else ""
    empty = "not shown" if analysis.inputs.only else "not run"  # a selection may leave out what was run
    shown: tuple[tuple[MetricName, str, str, bool], ...] = (
        ("predicted_accept_rate", f"Predicted {words.rate}", "Rises to the right, falls downwards.", True),
        ("accuracy", "Accuracy", "Colours span what was measured, not 0 to 100%.", False),
        ("precision", f"Precision of {words.positives}", f"Falls as the predicted {words.rate} rises.", True),
        ("recall", f"Recall of {words.positives}", f"Rises with the predicted {words.rate}.", True),
        (
            "f1",
            f"F1 of {words.positives}",
            f"High where the predicted {words.rate} is high, even where it is too high.",
            True,
        ),
    )
    maps = [
        heatmap(
            report.conditions,
            key,
            f"{name} by gamma and proportion",
            CELLS + see + only_first + _outside_of_the_grid(report.externals, key),
            full,
            empty,
            words,
        )
        for key, name, see, full in shown
    ]
    trade = precision_recall(
        report,
        "Weights and mixes slide a model along its precision-recall trade; grey lines join points of equal F1."
        " A condition off the others' curve would have learned something else, not just moved its threshold."
        f" Filled: {words.positive} variants, open: {words.negative} variants, star: baseline; whiskers: 95% "
        "Wilson intervals.",
    )
    confident = coverage(
        report,
        f"Accuracy if only the most confident share of the {words.items} is decided; a curve that rises to the left"
        f" knows what it does not know. Colour: mix; solid: {words.positive} variants, dashed: {words.negative} variants,"
        " paler for smaller gamma; whiskers: 95% Wilson intervals.",
    )
    calibrated = reliability(
        report,
        f"On the diagonal, 70% of the {words.items} with P({words.positive}) = 70% are {words.positives}."
        " Weighted conditions must leave it: the dotted curve is where a calibrated baseline lands when it is"
        " shifted as expected. Whiskers: 95% Wilson intervals.",
    )
    blocks += [Pair(maps[:2]), Pair(maps[2:4]), Pair(maps[4:]), Pair([trade, confident]), Drawn(calibrated)]
    paragraphs = []
    if report.baseline is not None and report.baseline.metrics is not None:
        base = report.baseline.metrics
        paragraphs.append(
            f"Expected calibration error of the baseline: {PLAIN.value(base['ece'].value)}; a perfectly calibrated model"
            f" would show about {PLAIN.value(base.ece_noise)} on so few {words.items} by chance."
        )
    return Section("cost", title, paragraphs, blocks)
