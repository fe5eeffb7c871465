"""`wlsweep forecast`: what the conditions that are not trained yet will do, from those that are.

    >>> print(forecast_run(existing_run("runs/demo")).text())    # doctest: +SKIP

From the baseline alone it shows what theory expects, and decides nothing. Once theory was tested (`theory_check`), forecasts
carry the error that was measured, and a hypothesis may have a *forecast* verdict: what the full sweep would say in at
least 97.5% of draws. A verdict as such comes from measurements only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from wlsweep.analysis import bootstrap as bs
from wlsweep.analysis.compare_conditions import FORECAST, summarised
from wlsweep.analysis.evaluation_records import MetricName
from wlsweep.analysis.hypotheses import Hypothesis, hypotheses, kinds_of
from wlsweep.analysis.loaded_run import load_predictions
from wlsweep.analysis.seeds import cell, mean_over_seeds
from wlsweep.analysis.theory import Calibration, Shift, calibration, expected_shift, forecast
from wlsweep.analysis.theory_check import TheoryTest, forecast_unmeasured, judge_theory
from wlsweep.analysis.verdicts import Prospect, prospects
from wlsweep.errors import WlsweepError
from wlsweep.estimate import Estimate, percent
from wlsweep.files import JsonObject
from wlsweep.run.layout import RunDir
from wlsweep.run.predictions import BoolArray, FloatArray
from wlsweep.spec.condition import Condition, baseline_of
from wlsweep.spec.task import ICLR, Words


@dataclass(frozen=True)
class ForecastRow:
    """One condition, forecast and (where it is done) measured."""

    name: str
    shift: float
    """Expected shift of the log-odds against the baseline."""
    covered: bool
    """Whether theory covers its loss."""
    note: str
    """Why there is no forecast; empty where there is one."""
    metrics: dict[MetricName, Estimate] | None
    measured: dict[MetricName, float | None] | None
    """Metric -> measured value, where the condition is done."""

    def as_dict(self) -> JsonObject:
        """Plain data."""
        return {
            "name": self.name,
            "shift": self.shift,
            "note": self.note or None,
            "forecast": self.metrics
            and {m: {"value": e.value, "low": e.low, "high": e.high} for m, e in self.metrics.items()},
            "measured": self.measured,
        }


@dataclass(frozen=True)
class RunForecast:
    """The forecast of a whole sweep."""

    baseline: str
    n: int
    calibration: Calibration | None
    theory: TheoryTest
    rows: list[ForecastRow]
    prospects: list[Prospect]
    conditions: tuple[Condition, ...]
    done: frozenset[str]
    hypotheses: list[Hypothesis] = field(repr=False)
    measured: Mapping[str, Mapping[str, FloatArray]] = field(repr=False)
    """By metric, by cell, of cells all of whose seeds are done: the measured value, shape (draws,)."""
    draws: Mapping[str, Mapping[str, FloatArray]] = field(repr=False)
    """The same with forecast draws of the other cells, where theory was tested and holds."""
    left_out: tuple[str, ...] = ()
    """Conditions of other kinds of fine-tuning than the baseline's, of which it says nothing."""
    words: Words = ICLR.words
    """What the task calls things."""

    def as_dict(self) -> JsonObject:
        """Plain data, for `--json`."""
        return {
            "baseline": self.baseline,
            "rows": self.n,
            "calibration": None if self.calibration is None else self.calibration._asdict(),
            "theory": self.theory.as_dict(),
            "conditions": [row.as_dict() for row in self.rows],
            "hypotheses": [p._asdict() for p in self.prospects],
            "left_out": list(self.left_out),
        }

    def text(self) -> str:
        """For the terminal."""
        heading = f"{self.words.rate} %"
        wide = max(19, len(heading))
        lines = [
            f"Theory: the log-odds of each condition are those of {self.baseline} plus the shift of its weights and mix.",
            self.theory.sentence(),
            f"Forecasts are for these {self.n:,} test {self.words.items}, with 95% intervals."
            if self.theory.usable
            else f"The 95% intervals below count which {self.words.items} were drawn and the baseline's calibration, not"
            " whether theory holds.",
            "",
            f"{'condition':34} {'shift':>6}  {heading:>{wide}}  {'accuracy %':>18}  measured %",
        ]
        for row in self.rows:
            seen = "" if row.measured is None else f"{100 * (row.measured['predicted_accept_rate'] or 0):.1f}"
            if row.metrics is None:
                measured = f"; measured {seen}" if seen else ""
                lines.append(f"{row.name:34} {row.shift:+6.2f}  no forecast: {row.note}{measured}")
                continue
            rate, accuracy = percent(row.metrics["predicted_accept_rate"]), percent(row.metrics["accuracy"])
            lines.append(f"{row.name:34} {row.shift:+6.2f}  {rate:>{wide}}  {accuracy:>18}  {seen:>10}")
        lines += ["", f"{'condition':34} {'precision %':>19}  {'recall %':>19}  {'F1 %':>19}"]
        for row in self.rows:
            if row.metrics is not None:
                shown = "  ".join(f"{percent(row.metrics[m]):>19}" for m in FORECAST[2:])
                lines.append(f"{row.name:34} {shown}")
        lines.append("")
        lines += [f"{p.key}  {p.title}: {p.sentence()}" for p in self.prospects]
        lines.append("S2  is about a model of all measured rates; no forecast stands in for it.")
        if self.left_out:
            lines.append(
                f"No forecast: {', '.join(self.left_out)} (of another kind of fine-tuning than {self.baseline}, which speaks"
                " for its own kind alone)."
            )
        return "\n".join(line.rstrip() for line in lines)


def forecast_run(run: RunDir, draws: int = 10_000) -> RunForecast:
    """Forecast every condition of a sweep from what is done (shifts against the baseline of the lowest seed).

    Args:
        run: the run directory.
        draws: of the forecast.

    Raises:
        WlsweepError: if the sweep declares no baseline, or it is not predicted yet, or predictions do not fit.
    """
    loaded = load_predictions(run)
    baselines = [c for c in loaded.declared if baseline_of(c).name == c.name]
    if not baselines:
        raise WlsweepError(
            f"{run.sweep_json}: the sweep declares no baseline (gamma 1.0 at 1/2), from which all else is forecast;"
            " add it to the search space and run it"
        )
    ready = [c for c in baselines if c.name in loaded.scores]
    if not ready:
        state, cause = loaded.states[baselines[0].name]
        raise WlsweepError(
            f"{run.root}: the baseline {baselines[0].name} is not predicted ({state}: {cause}); the forecast needs it"
            f" first: wlsweep run SWEEP.toml --only {baselines[0].index}"
        )
    shifts = {c.name: expected_shift(c, loaded.data.mixes, loaded.sweep.effective_beta) for c in loaded.declared}
    log_odds = {name: scores.log_odds for name, scores in loaded.scores.items()}
    declared = kinds_of(loaded.declared)[ready[0].lora]  # a baseline speaks for its own kind of fine-tuning
    log_odds = {c.name: log_odds[c.name] for c in declared if c.name in log_odds}
    found = forecast_sweep(
        declared, shifts, log_odds, loaded.truth.accept, ready[0].name, draws, loaded.truth.task.words
    )
    return replace(found, left_out=tuple(c.name for c in loaded.declared if c not in declared))


def forecast_sweep(
    declared: Sequence[Condition],
    shifts: Mapping[str, Shift],
    log_odds: Mapping[str, FloatArray],
    accept: BoolArray,
    base: str,
    draws: int,
    words: Words = ICLR.words,
) -> RunForecast:
    """The forecast on plain data.

    Args:
        declared: the conditions of the sweep.
        shifts: expected shift of each.
        log_odds: of the conditions that are done, by name, shape (n,).
        accept: labels, shape (n,).
        base: the baseline; it is done.
        draws: of the forecast.
        words: of the task.
    """
    covered = {n: s.value for n, s in shifts.items() if s.covered}
    means = {name: float(z.mean()) for name, z in log_odds.items()}
    theory = judge_theory(declared, covered, means, base)
    known = calibration(accept, log_odds[base])
    point, drawn, reason = _foreseen(theory, declared, covered, log_odds, accept, base, known, draws)
    measured = {name: _rates(z > 0, accept) for name, z in log_odds.items()}
    decided: dict[str, dict[str, FloatArray]] = {}
    values: dict[str, dict[str, FloatArray]] = {}
    for metric in ("predicted_accept_rate", "accuracy"):
        exact = {n: np.full(draws, m[metric]) for n, m in measured.items()}
        decided[metric] = mean_over_seeds(declared, exact)
        ahead = {n: d[metric] for n, d in drawn.items() if n not in measured} if theory.usable else {}
        values[metric] = mean_over_seeds(declared, exact | ahead)
    declared_hypotheses = hypotheses(declared, {cell(c): shifts[c.name].value for c in declared}, words)
    judged = [h for h in declared_hypotheses if not h.further]
    rows = [
        ForecastRow(
            c.name,
            shifts[c.name].value,
            shifts[c.name].covered,
            shifts[c.name].note or ("" if c.name in drawn else reason),
            summarised(point[c.name], drawn[c.name]) if c.name in drawn else None,
            {m: x if np.isfinite(x := measured[c.name][m]) else None for m in FORECAST} if c.name in measured else None,
        )
        for c in declared
        if c.name != base
    ]
    return RunForecast(
        base,
        len(accept),
        known,
        theory,
        rows,
        prospects(judged, decided, values, draws),
        tuple(declared),
        frozenset(log_odds),
        judged,
        decided,
        values,
        words=words,
    )


def _foreseen(
    theory: TheoryTest,
    declared: Sequence[Condition],
    covered: Mapping[str, float],
    log_odds: Mapping[str, FloatArray],
    accept: BoolArray,
    base: str,
    known: Calibration | None,
    draws: int,
) -> tuple[dict[str, bs.Draws], dict[str, bs.Draws], str]:
    """Forecasts to show, at the centre and in draws, and why the other conditions have none.

    While theory is not tested they come from the baseline alone; a tested one forecasts what is not measured; a refuted
    one forecasts nothing.
    """
    if theory.refuted:
        return {}, {}, "theory is refuted here"
    if theory.usable:
        point, drawn = forecast_unmeasured(theory, declared, log_odds, accept, covered, base, draws)
        return point, drawn, "it is measured"
    wanted = {n: s for n, s in covered.items() if n != base}
    made = forecast(accept, log_odds[base], wanted, bs.Resamples(len(accept), draws), known)
    return made.point, made.draws, ""


def _rates(decision: BoolArray, accept: BoolArray) -> dict[str, float]:
    tp, fp = np.array([float((decision & accept).sum())]), np.array([float((decision & ~accept).sum())])
    found = bs.from_counts(tp, fp, np.array([float(accept.sum())]), len(accept))
    return {metric: float(found[metric][0]) for metric in FORECAST}
