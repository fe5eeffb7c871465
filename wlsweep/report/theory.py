"""What theory foretold of each condition, and the model of all rates: the section of the page beneath the answer."""

from __future__ import annotations

from statistics import median

from wlsweep.analysis.evaluation_records import CellTest, MetricName, TheoryRow
from wlsweep.estimate import CHANGE, PERCENT_BARE, PLAIN, SHIFT, SLOPE, Estimate
from wlsweep.report.blocks import Block, Cell, Columns, Drawn, Listing, Section, Table, number, table_of, text
from wlsweep.report.figures.scatter import forecast_observed
from wlsweep.report.report_input import ReportInput

MAIN_TERMS = ("ln gamma", "logit proportion")
"""Terms of the logistic model whose share is what they explain beyond the other of the two, products left out."""
WIDE_POINTS = 40
"""A forecast interval wider than this holds most rates that a sweep can reach, so that hitting it shows little."""


def forecast_section(report: ReportInput) -> Section:
    """Theory against measurement, and whether re-training beat moving a threshold."""
    title = "Theory: could it have been known beforehand?"
    analysis, words = report.analysis, report.words
    outside = {e.name for e in report.externals}
    compared = [t for t in analysis.against_moved_threshold if t.name not in outside]
    if not compared:
        return Section("forecast", title, ["No condition besides a baseline is done, so there is nothing to compare."])
    better = [t.name for t in compared if _beats(t, +1)]
    worse = [t.name for t in compared if _beats(t, -1)]
    several = any(t.seeds > 1 for t in compared)
    how = (
        f"t test over seeds and {words.items} where there are several seeds, else for these trainings the exact McNemar"
        if several
        else "for these trainings, exact McNemar"
    )
    paragraphs = [
        f"Re-training with weights or another mix decided better than simply moving the baseline's threshold to the"
        f" same {words.rate} in {len(better)} of {len(compared)} conditions, and worse in {len(worse)} ({how}"
        f" test, Holm-corrected over {analysis.family}, at 5%)."
    ]
    if untested := [t.name for t in compared if t.seeds > 1 and t.p is None]:
        paragraphs.append(f"Not tested, because their seeds share a baseline: {', '.join(untested)}.")
    paragraphs += [f"{word}: {', '.join(names)}." for word, names in (("Better", better), ("Worse", worse)) if names]
    foreseen = [t for t in report.reached if t.inside is not None and t.forecast is not None]
    if foreseen:
        slope = analysis.slope
        spans = [t.forecast["predicted_accept_rate"].interval or (0.0, 1.0) for t in foreseen if t.forecast]
        width = median(100 * (high - low) for low, high in spans)
        sentence = (
            f"From the baseline's predictions alone, theory foresaw the predicted {words.rate} of"
            f" {sum(t.inside or False for t in foreseen)} of {len(foreseen)} conditions within its 95% interval, which is"
            f" {width:.0f} points wide in the median"
            + (", too wide to be told wrong by much." if width > WIDE_POINTS else ".")
        )
        if slope.slope.value is not None:
            kind = f"{report.slope_kind} " if report.slope_kind else ""
            sentence += (
                f" Log-odds moved {SLOPE.value(slope.slope.value)} times as far as expected"
                f" ({SLOPE.range(slope.slope)}, over {slope.n} {kind}conditions; 1 is theory)."
            )
        paragraphs.append(sentence)
    paragraphs += _kind_sentences(report)
    if (at := analysis.calibration) is not None:
        paragraphs.append(
            f"The baseline's own calibration, which the forecast rests on: offset {SHIFT.value(at.offset)} (standard error"
            f" {SLOPE.value(at.offset_error)}), slope {SLOPE.value(at.slope)} ({SLOPE.value(at.slope_error)}); 0 and 1 are"
            " perfect."
        )
    elif foreseen:
        paragraphs.append(
            "How well the baseline is calibrated cannot be told from its predictions, so the forecast's intervals count"
            f" only which {words.items} were drawn and are too narrow."
        )
    if (true := analysis.oracle) is not None:
        paragraphs.append(
            f"The {words.items} are made, so their true log-odds are known: the baseline's have a correlation of "
            f"{PLAIN.value(true.correlation)} with them and a slope of {SLOPE.value(true.slope)}."
        )
    blocks: list[Block] = []
    if report.reached:
        figure = forecast_observed(
            report,
            "On the dotted line, what was measured is what theory expected from the baseline alone. Horizontal"
            " whiskers: forecast intervals (sampling and calibration error); vertical: measured, 95%. A fit flatter"
            " than the dotted line in the second panel means that training moved the log-odds less than weights and"
            " mixes ask for.",
        )
        blocks.append(Drawn(figure))
    blocks += [_theory_table(report), _effects_block(report)]
    return Section("forecast", title, paragraphs, blocks)


def _kind_sentences(report: ReportInput) -> list[str]:
    """Whether weights and mixes act alike in each kind of fine-tuning."""
    sentences = []
    first = report.slope_kind
    for k in report.analysis.kinds:
        low, high = k.difference.interval or (-1.0, 1.0)
        how = "further than" if low > 0 else "less far than" if high < 0 else "not shown to differ from"
        mine, theirs = (SLOPE.value(s.slope.value) for s in (k.slope, k.first))
        sentences.append(
            f"Do weights and mixes act alike in {first} and in {k.finetuning}? On the {k.slope.n} conditions that both have,"
            f" log-odds moved {mine} times as far as expected in {k.finetuning} and {theirs} times in {first}: {how}"
            f" {first} (difference {SHIFT.full(k.difference)})."
        )
    return sentences


def _beats(test: CellTest, sign: int) -> bool:
    return test.p_holm is not None and test.p_holm < 0.05 and sign * (test.difference.value or 0.0) > 0


def _theory_table(report: ReportInput) -> Table:
    measured, rate = {r.name: r for r in report.done}, report.words.rate

    def foreseen(t: TheoryRow, metric: MetricName) -> Cell:
        return number((t.forecast or {}).get(metric, Estimate(None)), PERCENT_BARE)

    columns: Columns[TheoryRow] = (
        ("condition", lambda t: text(t.name)),
        ("expected shift", lambda t: number(Estimate(t.expected_shift), SHIFT)),
        ("measured shift", lambda t: number(t.observed_shift, SHIFT)),
        (f"forecast {rate} %", lambda t: foreseen(t, "predicted_accept_rate")),
        (f"measured {rate} %", lambda t: number(measured[t.name]["predicted_accept_rate"], PERCENT_BARE)),
        ("inside the interval", lambda t: text({True: "yes", False: "no", None: t.note or "-"}[t.inside])),
        ("forecast accuracy %", lambda t: foreseen(t, "accuracy")),
        ("measured accuracy %", lambda t: number(measured[t.name]["accuracy"], PERCENT_BARE)),
    )
    known = [t for t in report.analysis.theory if t.name in measured]
    title = "Forecast and measured, by condition"
    return table_of("forecast", title, columns, known, "In grey: 95% intervals.", folded=True)


def _effects_block(report: ReportInput) -> Block:
    fitted = report.analysis.effects
    kinds = list(dict.fromkeys(c.condition.finetuning for c in report.conditions if c.condition))
    what = f"the predicted {report.words.rate}" + (f" of {kinds[0]} fine-tuning" if len(kinds) > 1 else "")
    if fitted.note:
        return Listing([f"A logistic model of {what} cannot be fitted: {fitted.note}."])
    explained = fitted.explained
    main = [name for name in MAIN_TERMS if name in explained]
    rest = [name for name in explained if name not in (*MAIN_TERMS, "all")]
    lines = [
        f"A logistic model of the predicted {report.words.rate} of {fitted.conditions} conditions explains "
        f"{explained['all']:.1%} of"
        " their differences (deviance). Gamma and the proportion, each beyond the other of the two: "
        + ", ".join(f"{name} {explained[name]:.1%}" for name in main)
        + ("; the rest, each added last: " if rest else "")
        + ", ".join(f"{name} {explained[name]:.1%}" for name in rest)
        + f". Around it, conditions scatter by {fitted.lack_of_fit_sd:.2f} log-odds beyond the noise of the draws; the"
        " intervals hold that."
    ]
    lines += [f"{t.name}: {CHANGE.full(t.estimate)}" for t in fitted.terms]
    if fitted.seeds:
        lines.append(
            f"Which of the {fitted.seeds.count} seeds was drawn explains a further {fitted.seeds.explained:.2%}."
        )
    return Listing(lines, f"The logistic model of {what}")
