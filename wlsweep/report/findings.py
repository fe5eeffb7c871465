"""The first half of the page: the answer, the gamma plots, theory against measurement, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from wlsweep.report.blocks import Block, Cell, Drawn, Listing, Row, Section, Table, Verdicts, text
from wlsweep.report.figures.gamma import gamma_figure
from wlsweep.report.figures.heatmap import CELLS, heatmap
from wlsweep.report.figures.scatter import forecast_observed, forest, precision_recall
from wlsweep.report.figures.small_multiples import coverage, reliability
from wlsweep.report.report_input import ReportInput, count, pct, pct_interval
from wlsweep.spec.condition import parse_name

_NOTHING = "No condition has predictions yet."

WIDE_POINTS = 40
"""A forecast interval wider than this holds most rates that a sweep can reach, so that hitting it shows little."""


def lead(report_input: ReportInput) -> str:
    """What was done, in one paragraph with the numbers."""
    test, source = report_input.data.get("test", {}), report_input.data.get("source", {})
    conditions = [parse_name(e["name"]) for e in report_input.entries]
    ks, seeds = sorted({c.k for c in conditions}), {c.seed for c in conditions}
    done, total = len(report_input.done), len(report_input.entries)
    mixes = ", ".join(f"1/{k}" for k in ks)
    parts = [
        f"One model ({_base_model(report_input)}) was fine-tuned under {count(total, 'condition')}: a weight gamma on the"
        f" accepts or on the rejects of the loss, and training mixes in which {mixes} of the papers are accepts"
        + (f", with {len(seeds)} seeds in all" if len(seeds) > 1 else ", with one seed each")
    ]
    single = len({replace(c, seed=0) for c in conditions}) - len(report_input.analysis["seeds"])
    if single and len(seeds) > 1:
        parts[0] += f", but one alone of {count(single, 'condition')}"
    parts[0] += ": what another seed would have changed is in no interval of theirs." if single else "."
    if chosen := report_input.analysis["inputs"]["only"]:
        declared = len(report_input.sweep.get("conditions", report_input.entries))
        parts.append(f"This page shows {total} of the sweep's {count(declared, 'condition')} (--only {chosen}).")
    if source:
        parts.append(
            f"The training rows come from {source['rows']:,} papers ({source['accepts']:,} accepts, "
            f"{source['rejects']:,} rejects)."
        )
    picked = any("--until-decided" in at.get("command", "") for at in report_input.sweep.get("launches", []))
    accepts = f" ({test['accepts']:,} accepts, {test['rejects']:,} rejects)" if "accepts" in test else ""
    parts.append(
        f"All are judged on the same {count(report_input.analysis['rows'], 'test paper')}{accepts}, which chose no model"
        + ("; the forecast from the baseline's scores on them chose which conditions to run." if picked else ".")
    )
    parts.append(
        f"All {total} are done." if done == total else f"{done} of {total} are done; the others are named below."
    )
    return " ".join(parts)


def _base_model(report_input: ReportInput) -> str:
    """Its name, or what it is where the sweep made it."""
    model = report_input.sweep.get("sweep", {}).get("model", {})
    if tiny := model.get("tiny"):
        return f"a Qwen2 of {tiny.get('layers')} layers and width {tiny.get('width')}, made for this sweep"
    return str(model.get("path") or report_input.sweep.get("base", "unknown"))


def answer(report_input: ReportInput) -> Section:
    """The verdicts, plainest sentence first."""
    verdicts = report_input.analysis["verdicts"]
    said = {v: sum(x["verdict"] == v for x in verdicts) for v in ("pass", "fail", "not testable")}
    paragraphs = []
    if report_input.done:
        ranked = sorted(report_input.done, key=lambda e: e["predicted_accept_rate"])
        low, high = ranked[0], ranked[-1]
        paragraphs.append(
            f"The predicted accept rate ran from {pct(low['predicted_accept_rate'])} ({low['name']}) to "
            f"{pct(high['predicted_accept_rate'])} ({high['name']}); "
            f"{pct(report_input.done[0]['actual_accept_rate'])} of the test papers were accepted in truth."
        )
    if base := report_input.baseline:
        paragraphs.append(_baseline_sentence(base))
    paragraphs.append(
        f"Of {count(len(verdicts), 'hypothesis', 'hypotheses and criteria')}, {said['pass']} pass, {said['fail']} fail"
        f" and {said['not testable']} cannot be tested. Verdicts go by the measured values; the share of bootstrap"
        " resamples with the same verdict says how firm they are."
    )
    judged = [dict(v) | {"title": f"{v['key']}. {v['title']}"} for v in verdicts]
    return Section("answer", "The answer", paragraphs, [Verdicts(judged)])


def _baseline_sentence(base: Mapping[str, Any]) -> str:
    larger = max(base["actual_accept_rate"], 1 - base["actual_accept_rate"])
    sentence = (
        f"The baseline accepts {pct_interval(base, 'predicted_accept_rate')} of the papers and is right on "
        f"{pct_interval(base, 'accuracy')}"
    )
    if base["accuracy_low"] <= larger:
        return sentence + (
            f": that cannot be told from always naming the more frequent label ({pct(larger)}), so differences in "
            "accuracy below say little."
        )
    return sentence + f"; always naming the more frequent label would be right on {pct(larger)}."


def gamma_section(report_input: ReportInput) -> Section:
    """The two gamma plots."""
    title = "What gamma and the mix did"
    if not report_input.done:
        return Section("gamma", title, [_NOTHING])
    forecasts = {
        t["name"]: t["forecast"]["predicted_accept_rate"]["value"]
        for t in report_input.reached
        if t["forecast"] is not None
    }
    several = (
        " Conditions with several seeds are their mean, with an interval of seeds and papers; circles are single seeds."
        if report_input.analysis["seeds"]
        else ""
    )
    reference = ("true accept rate of the test set", report_input.done[0]["actual_accept_rate"])
    rate = gamma_figure(
        report_input.entries,
        "predicted_accept_rate",
        "Predicted accept rate",
        "acceptance_rate_vs_gamma",
        "Weighting accepts (first panel) should raise the share of papers that the model accepts, weighting rejects"
        " should lower it, and fewer accepts in training should move a whole line down. The star is the baseline, drawn"
        " in both panels; pale bars are what theory expects from the baseline alone; whiskers are 95% Wilson"
        " intervals. Points at one gamma are set slightly apart." + several,
        report_input.externals,
        reference,
        forecasts,
        seeds=report_input.analysis["seeds"],
    )
    accuracy = gamma_figure(
        report_input.entries,
        "accuracy",
        "Accuracy",
        "accuracy_vs_gamma",
        "What moving the accept rate costs: a line that falls away from the baseline (star) traded accuracy for a rate"
        " far from the test set's own. The axis is fitted to the data; whiskers are 95% Wilson intervals." + several,
        report_input.externals,
        zoom=True,
        seeds=report_input.analysis["seeds"],
    )
    return Section("gamma", title, [], [Drawn(rate), Drawn(accuracy)])


def forecast_section(report_input: ReportInput) -> Section:
    """Theory against measurement, and whether re-training beat moving a threshold."""
    title = "Could it have been known beforehand?"
    analysis = report_input.analysis
    compared = [c for c in analysis["comparisons"] if c["name"] in {e["name"] for e in report_input.done}]
    if not compared:
        return Section("forecast", title, ["No condition besides a baseline is done, so there is nothing to compare."])
    better = [c["name"] for c in compared if _beats(c, +1)]
    worse = [c["name"] for c in compared if _beats(c, -1)]
    paragraphs = [
        f"Re-training with weights or another mix decided better than simply moving the baseline's threshold to the"
        f" same accept rate in {len(better)} of {len(compared)} conditions, and worse in {len(worse)} (exact McNemar"
        f" test, Holm-corrected over {analysis['family']}, at 5%)."
    ]
    if better:
        paragraphs.append("Better: " + ", ".join(better) + ".")
    if worse:
        paragraphs.append("Worse: " + ", ".join(worse) + ".")
    foreseen = [t for t in report_input.reached if t["inside"] is not None]
    if foreseen:
        slope = analysis["slope"]
        rates = [t["forecast"]["predicted_accept_rate"] for t in foreseen]
        width = median(100 * (rate["high"] - rate["low"]) for rate in rates)
        sentence = (
            "From the baseline's predictions alone, theory foresaw the predicted accept rate of"
            f" {sum(t['inside'] for t in foreseen)} of {len(foreseen)} conditions within its 95% interval, which is"
            f" {width:.0f} points wide in the median"
            + (", too wide to be told wrong by much." if width > WIDE_POINTS else ".")
        )
        if slope["slope"] is not None:
            sentence += (
                f" Log-odds moved {slope['slope']:.2f} times as far as expected ({slope['low']:.2f} to"
                f" {slope['high']:.2f}, over {slope['n']} conditions; 1 is theory)."
            )
        paragraphs.append(sentence)
    if (at := analysis.get("calibration")) is not None:
        paragraphs.append(
            f"The baseline's own calibration, which the forecast rests on: offset {at['offset']:+.2f} (standard error"
            f" {at['offset_error']:.2f}), slope {at['slope']:.2f} ({at['slope_error']:.2f}); 0 and 1 are perfect."
        )
    elif foreseen:
        paragraphs.append(
            "How well the baseline is calibrated cannot be told from its predictions, so the forecast's intervals count"
            " only which papers were drawn and are too narrow."
        )
    if (true := analysis.get("oracle")) is not None:
        paragraphs.append(
            "The papers are made, so their true log-odds are known: the baseline's have a correlation of "
            f"{true['correlation']:.3f} with them and a slope of {true['slope']:.2f}."
        )
    blocks: list[Block] = []
    if report_input.reached:
        figure = forecast_observed(
            report_input.reached,
            report_input.done,
            analysis["slope"],
            "On the dotted line, what was measured is what theory expected from the baseline alone. Horizontal"
            " whiskers: forecast intervals (sampling and calibration error); vertical: measured, 95%. A fit flatter"
            " than the dotted line in the second panel means that training moved the log-odds less than weights and"
            " mixes ask for.",
        )
        blocks.append(Drawn(figure))
    blocks += [_theory_table(report_input), _effects_block(report_input)]
    return Section("forecast", title, paragraphs, blocks)


def _beats(comparison: Mapping[str, Any], sign: int) -> bool:
    at = comparison["moved_threshold"]
    return bool(at["p_holm"] is not None and at["p_holm"] < 0.05 and sign * at["difference"] > 0)


def _percent(d: Mapping[str, Any] | None) -> Cell:
    """A share in percent with its interval, for a column whose heading has the unit."""
    if d is None or d["value"] is None:
        return Cell("-", "", number=True)
    value, low, high = (None if d[k] is None else 100 * d[k] for k in ("value", "low", "high"))
    if low is None or high is None:
        return Cell(f"{value:.1f}", value, number=True)
    return Cell(f"{value:.1f}", value, low, high, f"{low:.1f} to {high:.1f}", number=True)


def _theory_table(report_input: ReportInput) -> Table:
    measured = {e["name"]: e for e in report_input.done}
    rows = []
    for t in report_input.analysis["theory"]:
        e = measured.get(t["name"])
        if e is None:
            continue
        rate = t["forecast"]["predicted_accept_rate"] if t["forecast"] else None
        accuracy = t["forecast"]["accuracy"] if t["forecast"] else None
        shift = {"value": t["observed_shift"], "low": t["observed_shift_low"], "high": t["observed_shift_high"]}
        seen = {
            k: {"value": e[k], "low": e[f"{k}_low"], "high": e[f"{k}_high"]}
            for k in ("predicted_accept_rate", "accuracy")
        }
        rows.append(
            Row(
                [
                    text(t["name"]),
                    Cell(f"{t['expected_shift']:+.2f}", t["expected_shift"], number=True),
                    _plain(shift),
                    _percent(rate),
                    _percent(seen["predicted_accept_rate"]),
                    text({True: "yes", False: "no", None: t["note"] or "-"}[t["inside"]]),
                    _percent(accuracy),
                    _percent(seen["accuracy"]),
                ]
            )
        )
    headings = [
        "condition",
        "expected shift",
        "measured shift",
        "forecast accept rate %",
        "measured accept rate %",
        "inside the interval",
        "forecast accuracy %",
        "measured accuracy %",
    ]
    return Table("forecast", "Forecast and measured, by condition", headings, rows, "In grey: 95% intervals.")


def _plain(d: Mapping[str, Any]) -> Cell:
    if d["low"] is None:
        return Cell(f"{d['value']:+.2f}", d["value"], number=True)
    return Cell(
        f"{d['value']:+.2f}", d["value"], d["low"], d["high"], f"{d['low']:+.2f} to {d['high']:+.2f}", number=True
    )


def _effects_block(report_input: ReportInput) -> Block:
    fitted = report_input.analysis["effects"]
    if "note" in fitted:
        return Listing([f"A logistic model of all conditions cannot be fitted: {fitted['note']}."])
    explained = fitted["explained"]
    lines = [
        f"A logistic model of the accept rates of {fitted['conditions']} conditions explains {explained['all']:.1%} of"
        f" their differences (deviance): added last, ln gamma carries {explained['ln gamma']:.1%}, the logit of the"
        f" proportion {explained['logit proportion']:.1%}, their interaction {explained['interaction']:.1%}."
    ]
    lines += [f"{t['term']}: {t['value']:+.3f} ({t['low']:+.3f} to {t['high']:+.3f})" for t in fitted["terms"]]
    if fitted["seeds"]:
        lines.append(
            f"Which of the {fitted['seeds']['count']} seeds was drawn explains a further"
            f" {fitted['seeds']['explained']:.2%}."
        )
    return Listing(lines)


def _beside_the_grid(externals: Sequence[Mapping[str, Any]], key: str) -> str:
    """Models that have no gamma, for the caption of a heatmap."""
    known = [f"{e['name']} {pct_interval(e, key)}" for e in externals if e.get(key) is not None]
    return f" Outside of the grid: {'; '.join(known)}." if known else ""


def cost(report_input: ReportInput) -> Section:
    """Accuracy and calibration: what moving the rate took."""
    title = "What it cost in accuracy and calibration"
    if not report_input.done:
        return Section("cost", title, [_NOTHING])
    analysis = report_input.analysis
    outside = [e["name"] for e in report_input.externals]
    blocks: list[Block] = []
    if analysis["comparisons"]:
        blocks.append(
            Drawn(
                forest(
                    analysis["comparisons"],
                    "Filled: accuracy minus the baseline's. Open: accuracy minus that of the baseline with its"
                    " threshold moved to the same accept rate; where it sits on zero, re-training bought nothing that a"
                    " threshold would not. Whiskers: paired bootstrap, 95%.",
                    outside,
                )
            )
        )
    only_first = " Of several seeds, seed 0." if analysis["seeds"] else ""
    empty = "not shown" if analysis["inputs"]["only"] else "not run"  # a selection may leave out what was run
    wheres = (
        ("predicted_accept_rate", "Predicted accept rate", "Rises to the right, falls downwards.", True),
        ("accuracy", "Accuracy", "Colours span what was measured, not 0 to 100%.", False),
        ("f1", "F1 of accepts", "High where many papers are accepted; it does not punish accepting too many.", True),
        ("precision", "Precision of accepts", "Falls as more papers are accepted.", True),
        ("recall", "Recall of accepts", "Rises as more papers are accepted.", True),
    )
    blocks += [
        Drawn(
            heatmap(
                report_input.entries,
                key,
                f"{name} by gamma and proportion",
                CELLS + see + only_first + _beside_the_grid(report_input.externals, key),
                full,
                empty,
            )
        )
        for key, name, see, full in wheres
    ]
    blocks.append(
        Drawn(
            precision_recall(
                report_input.entries,
                report_input.externals,
                "Weights and mixes slide a model along its precision-recall trade; grey lines join points of equal F1."
                " A condition off the others' curve would have learned something else, not just moved its threshold."
                " Filled: accept variants, open: reject variants, star: baseline; whiskers: 95% Wilson intervals.",
            )
        )
    )
    shifts = {t["name"]: t["expected_shift"] for t in report_input.reached}
    blocks.append(
        Drawn(
            reliability(
                report_input.entries,
                report_input.externals,
                analysis["curves"],
                shifts,
                "On the diagonal, papers that the model accepts with 70% probability are accepted 70% of the time."
                " Weighted conditions must leave it: the dotted curve is where a calibrated baseline lands when it is"
                " shifted as expected. Whiskers: 95% Wilson intervals.",
            )
        )
    )
    blocks.append(
        Drawn(
            coverage(
                report_input.entries,
                report_input.externals,
                analysis["curves"],
                "Accuracy if only the most confident share of the papers is decided. A curve that rises to the left"
                " knows what it does not know. Black: baseline; solid: accept variants, dashed: reject variants, paler"
                " for smaller gamma; whiskers: 95% Wilson intervals.",
            )
        )
    )
    noise = report_input.baseline
    paragraphs = []
    if noise is not None:
        paragraphs.append(
            f"Expected calibration error of the baseline: {noise['ece']:.3f}; a perfectly calibrated model would show"
            f" about {noise['ece_noise']:.3f} on so few papers by chance."
        )
    return Section("cost", title, paragraphs, blocks)
