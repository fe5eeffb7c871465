"""What the conditions say together: comparisons, theory against observation, effects, seeds and verdicts.

    >>> compare_conditions(loaded, measured, draws=10_000).verdicts[0].verdict    # doctest: +SKIP
    'pass'

Pure: predictions in, records out. All models share one set of bootstrap resamples of the test papers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from wlsweep.analysis import bootstrap as bs
from wlsweep.analysis.comparisons import difference_of_ece, mcnemar, with_interval
from wlsweep.analysis.effects import effects, separable
from wlsweep.analysis.evaluation_records import (
    BaselineCalibration,
    Comparison,
    Effects,
    Findings,
    Judged,
    KindSlope,
    MetricName,
    Metrics,
    MovedThreshold,
    OracleFit,
    TheoryRow,
)
from wlsweep.analysis.hypotheses import hypotheses, kinds_of, name_of
from wlsweep.analysis.loaded_run import RunPredictions
from wlsweep.analysis.seeds import SEEDED, cell, cell_tests, mean_over_seeds, seed_groups
from wlsweep.analysis.theory import Shift, calibration, expected_shift, forecast, moved_threshold
from wlsweep.analysis.trainings import Trainings
from wlsweep.analysis.verdicts import judge
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.condition import Condition, baseline_of, parse_name
from wlsweep.spec.task import ICLR

_BLOCK = 64  # models per matrix product: 64 x 19 columns of 20,000 rows are 97 MB
FORECAST: tuple[MetricName, ...] = ("predicted_accept_rate", "accuracy", "precision", "recall", "f1")
"""Metrics that are forecast."""


def compare_conditions(loaded: RunPredictions, measured: Mapping[str, Metrics], draws: int) -> Findings:
    """Everything that needs more than one model.

    Args:
        loaded: truth and predictions.
        measured: metrics of every model that has predictions, by name.
        draws: bootstrap draws.
    """
    resamples = bs.Resamples(loaded.truth.n, draws)
    partners = _partners(loaded)
    shifts = {c.name: expected_shift(c, loaded.data.mixes, loaded.sweep.effective_beta) for c in loaded.declared}
    covered = {n: s.value for n, s in shifts.items() if s.covered}
    trainings = Trainings.of(loaded, covered)
    forecasts = _forecasts(loaded, partners, covered, resamples)
    kept: dict[str, bs.Draws] = {}
    comparisons: list[Comparison] = []
    theory: list[TheoryRow] = []
    ece: dict[str, Estimate] = {}
    apart: dict[str, FloatArray] = {}
    apart_from_moved: dict[str, FloatArray] = {}
    for name, found in _drawn(loaded, partners, resamples):
        ece[name] = _ece(measured[name], found)
        kept[name] = {metric: found[metric] for metric in (*SEEDED, "recall", "precision", "log_odds")}
        base = partners.get(name)
        if base is None:
            if name in loaded.scores and name in set(partners.values()):
                kept[name] = found
            continue
        difference = _differences(trainings, name, base, measured, found, kept[base])
        difference["ece"] = difference_of_ece(ece[name], ece[base])
        comparisons.append(_comparison(name, base, loaded, difference, found))
        apart[name] = found["accuracy"] - kept[base]["accuracy"]
        apart_from_moved[name] = found["accuracy"] - found["moved_accuracy"]
        if name in shifts:
            moved = float(np.mean(loaded.scores[name].log_odds - loaded.scores[base].log_odds))
            at = trainings.difference(name, base, "log_odds", moved, found["log_odds"] - kept[base]["log_odds"])
            rate = measured[name]["predicted_accept_rate"]
            theory.append(_theory_row(name, base, shifts[name], at, rate, forecasts.get(name)))
    family = len({cell(c) for c in loaded.declared if baseline_of(c).name != c.name}) + len(loaded.externals)
    observed = {c.name: kept[c.name] for c in loaded.done}
    noisy = trainings.noisy(observed)
    fitted = _effects(loaded, measured, noisy, next(iter(kinds_of(loaded.declared))))

    def accuracy_p(c: Comparison) -> float | None:
        total = trainings.total(c.name, c.baseline, "accuracy", apart[c.name])
        return c.mcnemar.p if total is None else total.p_value(c.difference["accuracy"].value or 0.0)

    return Findings(
        family,
        tuple(comparisons),
        cell_tests(
            loaded,
            comparisons,
            apart,
            lambda c: c.difference["accuracy"],
            accuracy_p,
            family,
            partial(trainings.total_over_seeds, metric="accuracy"),
        ),
        cell_tests(
            loaded,
            comparisons,
            apart_from_moved,
            lambda c: c.moved_threshold.difference,
            lambda c: c.moved_threshold.test.p,
            family,
        ),
        tuple(theory),
        trainings.slope(_of_first_kind([t for t in theory if t.covered]), observed),
        _calibration(loaded, partners),
        oracle(loaded),
        fitted,
        seed_groups(loaded, measured, observed, partners, trainings),
        _verdicts(loaded, measured, noisy, {n: s.value for n, s in shifts.items()}, fitted, trainings.counted),
        ece,
        trainings.record,
        _kind_slopes(trainings, [t for t in theory if t.covered], observed),
    )


def ece_of(loaded: RunPredictions, measured: Mapping[str, Metrics], draws: int) -> dict[str, Estimate]:
    """ECE of every model with its interval, by name; arguments as of `compare_conditions`."""
    if not (loaded.scores or loaded.externals):
        return {}
    resamples = bs.Resamples(loaded.truth.n, draws)
    return {name: _ece(measured[name], found) for name, found in _drawn(loaded, {}, resamples)}


def _ece(measured: Metrics, found: bs.Draws) -> Estimate:
    value = measured["ece"].value
    assert value is not None  # a model has rows
    return with_interval(value, bs.ece_interval(found["ece"], value, measured.ece_by_chance))


def _differences(
    trainings: Trainings,
    name: str,
    base: str,
    measured: Mapping[str, Metrics],
    found: bs.Draws,
    base_found: bs.Draws,
) -> dict[MetricName, Estimate]:
    """This minus baseline by metric, over papers and trainings; no value where either has none."""
    out: dict[MetricName, Estimate] = {}
    for metric in bs.METRICS:
        a, b = measured[name][metric].value, measured[base][metric].value
        if a is None or b is None:
            out[metric] = Estimate(None)
        else:
            out[metric] = trainings.difference(name, base, metric, a - b, found[metric] - base_found[metric])
    return out


def oracle(loaded: RunPredictions) -> OracleFit | None:
    """Baseline log-odds against the true ones, where the world is synthetic: slope, intercept, correlation."""
    from scipy.stats import linregress

    base = next((c for c in loaded.done if baseline_of(c).name == c.name), None)
    true = loaded.truth.true_log_odds
    if base is None or true is None or loaded.truth.n < 3 or np.ptp(true) == 0:
        return None
    fit = linregress(true, loaded.scores[base.name].log_odds)
    return OracleFit(float(fit.slope), float(fit.intercept), float(fit.rvalue))


def _partners(loaded: RunPredictions) -> dict[str, str]:
    """Which finished baseline each finished model is compared with: that of its seed, else the first one of its kind of
    fine-tuning."""
    done = [c for c in loaded.done if baseline_of(c).name == c.name]
    baselines, first = [c.name for c in done], {c.lora: c.name for c in reversed(done)}
    out = {}
    for c in loaded.done:
        own = baseline_of(c).name
        if own != c.name and c.lora in first:
            out[c.name] = own if own in loaded.scores else first[c.lora]
    return out | (dict.fromkeys(loaded.externals, baselines[0]) if baselines else {})


def _drawn(
    loaded: RunPredictions, partners: Mapping[str, str], resamples: bs.Resamples
) -> Iterator[tuple[str, bs.Draws]]:
    """Every model with its metrics in every draw, baselines first; a block of models at a time in memory."""
    accept = loaded.truth.accept
    accepts = resamples.sums(accept[:, None].astype(np.float32))[:, 0].astype(np.float64)
    models = {**loaded.scores, **loaded.externals}
    order = sorted(models, key=lambda name: name in partners)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        made = []
        for name in block:
            base = partners.get(name)
            moved = None
            if base is not None:
                moved = moved_threshold(models[base].log_odds, int(models[name].decision.sum()))
            made.append(bs.columns(accept, models[name].log_odds, moved))
        sums = resamples.sums(np.concatenate([m.values for m in made], axis=1))
        width = made[0].values.shape[1]
        for i, name in enumerate(block):
            yield name, bs.draws_of(sums[:, i * width : (i + 1) * width], accepts, len(accept), made[i])


def _comparison(
    name: str, base: str, loaded: RunPredictions, difference: Mapping[MetricName, Estimate], found: bs.Draws
) -> Comparison:
    """Against the baseline, and whether re-training did better than moving its threshold to the same accept rate."""
    accept, other = loaded.truth.accept, loaded.scores[base]
    decision = (loaded.scores[name] if name in loaded.scores else loaded.externals[name]).decision
    moved = moved_threshold(other.log_odds, int(decision.sum()))
    mine, theirs = decision == accept, moved == accept
    at = bs.percentile(found["accuracy"] - found["moved_accuracy"])
    against_moved = MovedThreshold(
        accuracy=float(mine.mean()),
        moved_accuracy=float(theirs.mean()),
        difference=with_interval(float(mine.mean() - theirs.mean()), at),
        test=mcnemar(mine, theirs),
        papers_decided_differently=int(np.sum(decision != moved)),
    )
    return Comparison(name, base, difference, mcnemar(mine, other.decision == accept), against_moved)


def _forecasts(
    loaded: RunPredictions, partners: Mapping[str, str], shifts: Mapping[str, float], resamples: bs.Resamples
) -> dict[str, dict[MetricName, Estimate]]:
    """Forecast of every covered, finished condition from its own baseline."""
    out: dict[str, dict[MetricName, Estimate]] = {}
    for base in sorted({b for n, b in partners.items() if n in shifts}):
        wanted = {n: shifts[n] for n, b in partners.items() if b == base and n in shifts}
        log_odds = loaded.scores[base].log_odds
        made = forecast(loaded.truth.accept, log_odds, wanted, resamples, calibration(loaded.truth.accept, log_odds))
        out |= {n: summarised(made.point[n], made.draws[n]) for n in wanted}
    return out


def summarised(point: bs.Draws, draws: bs.Draws) -> dict[MetricName, Estimate]:
    """The metrics of a forecast with their intervals."""
    out: dict[MetricName, Estimate] = {}
    for metric in FORECAST:
        value, at = float(point[metric][0]), bs.percentile(draws[metric])
        out[metric] = Estimate(value if np.isfinite(value) else None, *(at or (None, None)))
    return out


def _theory_row(
    name: str,
    base: str,
    shift: Shift,
    observed: Estimate,
    measured: Estimate,
    foreseen: Mapping[MetricName, Estimate] | None,
) -> TheoryRow:
    inside = None
    if foreseen is not None and measured.value is not None and (span := foreseen["predicted_accept_rate"].interval):
        inside = span[0] <= measured.value <= span[1]
    return TheoryRow(name, base, shift.value, shift.covered, shift.note, observed, foreseen, inside)


def _of_first_kind(rows: Sequence[TheoryRow]) -> list[TheoryRow]:
    """Those of the first one's kind of fine-tuning: each kind may move by a share of its own of what is expected."""
    return [t for t in rows if parse_name(t.name).lora == parse_name(rows[0].name).lora]


def _kind_slopes(
    trainings: Trainings, rows: Sequence[TheoryRow], observed: Mapping[str, bs.Draws]
) -> tuple[KindSlope, ...]:
    """Each kind of fine-tuning against the first one, on the conditions that both have."""
    kinds: dict[str, dict[str, TheoryRow]] = {}
    for row in rows:
        condition = parse_name(row.name)
        kinds.setdefault(condition.finetuning, {})[replace(condition, lora=0).name] = row
    found = []
    for kind in list(kinds)[1:]:
        first, other = (kinds[k] for k in (next(iter(kinds)), kind))
        both = [name for name in first if name in other]
        mine, theirs = [other[n] for n in both], [first[n] for n in both]
        difference = trainings.slope_difference(mine, theirs, observed)
        if difference.value is not None:
            slopes = trainings.slope(mine, observed), trainings.slope(theirs, observed)
            found.append(KindSlope(kind, *slopes, difference))
    return tuple(found)


def _calibration(loaded: RunPredictions, partners: Mapping[str, str]) -> BaselineCalibration | None:
    bases = [b for n, b in partners.items() if n in loaded.scores] or [
        c.name for c in loaded.done if baseline_of(c).name == c.name
    ]
    found = calibration(loaded.truth.accept, loaded.scores[bases[0]].log_odds) if bases else None
    return None if found is None else BaselineCalibration(bases[0], *found)


def _is_plain(c: Condition, rank: int) -> bool:
    """Whether a condition is of a kind of fine-tuning and differs in nothing but variant, gamma, proportion and seed."""
    return c.lora == rank and replace(c, seed=0, lora=0).group == ""


def _effects(
    loaded: RunPredictions, measured: Mapping[str, Metrics], observed: Mapping[str, bs.Draws], rank: int
) -> Effects:
    """Fitted to the plain conditions of one kind of fine-tuning."""
    comparable = [c for c in loaded.done if _is_plain(c, rank)]
    if not comparable:
        return Effects("no condition is done")
    n = loaded.truth.n
    counts = [measured[c.name].counts for c in comparable]
    accepted = np.array([at.tp + at.fp for at in counts])
    draws = np.column_stack([observed[c.name]["predicted_accept_rate"] for c in comparable]) * n
    return effects(comparable, accepted, n, draws)


def _verdicts(
    loaded: RunPredictions,
    measured: Mapping[str, Metrics],
    observed: Mapping[str, bs.Draws],
    shifts: Mapping[str, float],
    fitted: Effects,
    counted: str,
) -> tuple[Judged, ...]:
    by_cell = {cell(c): shifts[c.name] for c in loaded.declared}
    out, words = [], loaded.truth.task.words
    for h in hypotheses(loaded.declared, by_cell, words):
        values = {n: m[h.metric].value for n, m in measured.items()}
        point = mean_over_seeds(loaded.declared, {n: np.array([v]) for n, v in values.items() if v is not None})
        at = mean_over_seeds(loaded.declared, {n: d[h.metric] for n, d in observed.items()})
        out.append(judge(h, {n: float(v[0]) for n, v in point.items()}, at, counted))
    kinds, separate = kinds_of(loaded.declared), []
    for i, (rank, conditions) in enumerate(kinds.items()):
        missing = sum(_is_plain(c, rank) and c.name not in measured for c in conditions)
        for verdict in separable(_effects(loaded, measured, observed, rank) if i else fitted, missing, words, counted):
            key, title = name_of(verdict.key, verdict.title, conditions[0].finetuning, i, len(kinds))
            separate.append(replace(verdict, key=key, title=title))
    if words.labels != ICLR.labels:
        separate = [replace(v, plan="") for v in separate]  # criteria have numbers in the plan of ICLR's experiment
    place = [v.key for v in out].index("S3")
    return (*out[:place], *separate, *out[place:])
