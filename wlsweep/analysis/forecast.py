"""`wlsweep forecast`: what every other condition will do, from the baseline's predictions alone.

    >>> print(forecast_run(existing_run("runs/demo")).text())    # doctest: +SKIP

Works as soon as condition 0 is predicted. Conditions that are done too are shown beside their forecast, and count with
what was measured wherever hypotheses are judged ahead of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wlsweep.analysis import bootstrap as bs
from wlsweep.analysis.compare_conditions import effective_beta, mean_over_seeds, summarised
from wlsweep.analysis.doubts import Prospect, prospects
from wlsweep.analysis.hypotheses import Hypothesis, hypotheses
from wlsweep.analysis.predictions import FloatArray, load_predictions
from wlsweep.analysis.seeds import cell
from wlsweep.analysis.theory import Calibration, calibration, expected_shift, forecast
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir
from wlsweep.spec.condition import Condition, baseline_of

METRICS = ("predicted_accept_rate", "accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class ForecastRow:
    """One condition, forecast and (where it is done) measured."""

    name: str
    shift: float
    """Expected shift of the log-odds against the baseline."""
    note: str
    """Why there is no forecast; empty where there is one."""
    metrics: dict[str, dict[str, float | None]] | None
    """Metric -> value, low, high."""
    measured: dict[str, float | None] | None
    """Metric -> measured value, where the condition is done."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "shift": self.shift,
            "note": self.note or None,
            "forecast": self.metrics,
            "measured": self.measured,
        }


@dataclass(frozen=True)
class RunForecast:
    """The forecast of a whole sweep."""

    baseline: str
    n: int
    calibration: Calibration | None
    rows: list[ForecastRow]
    prospects: list[Prospect]
    conditions: tuple[Condition, ...]
    done: frozenset[str]
    hypotheses: list[Hypothesis] = field(repr=False)
    draws: Mapping[str, Mapping[str, FloatArray]] = field(repr=False)
    """By metric, by cell: forecast draws, or bootstrap draws of what was measured."""
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return {
            "baseline": self.baseline,
            "rows": self.n,
            "calibration": None if self.calibration is None else self.calibration._asdict(),
            "conditions": [row.as_dict() for row in self.rows],
            "hypotheses": [p.as_dict() for p in self.prospects],
        }

    def text(self) -> str:
        """For the terminal."""
        lines = [
            f"From {self.baseline} on {self.n:,} test papers alone: the log-odds of every condition are expected to be",
            "the baseline's plus the shift of its weights and its mix. 95% intervals count which papers were",
            "drawn, and that a re-trained model is calibrated no better than the baseline."
            if self.calibration
            else "drawn only: how well the baseline is calibrated cannot be told, so its forecast settles nothing.",
            "",
            f"{'condition':34} {'shift':>6}  {'predicted accepts %':>19}  {'accuracy %':>18}  measured %",
        ]
        for row in self.rows:
            if row.metrics is None:
                lines.append(f"{row.name:34} {row.shift:+6.2f}  no forecast: {row.note}")
                continue
            rate, accuracy = _shown(row.metrics["predicted_accept_rate"]), _shown(row.metrics["accuracy"])
            seen = "" if row.measured is None else f"{100 * (row.measured['predicted_accept_rate'] or 0):.1f}"
            lines.append(f"{row.name:34} {row.shift:+6.2f}  {rate:>19}  {accuracy:>18}  {seen:>10}")
        lines += ["", f"{'condition':34} {'precision %':>19}  {'recall %':>19}  {'F1 %':>19}"]
        for row in self.rows:
            if row.metrics is not None:
                shown = "  ".join(f"{_shown(row.metrics[m]):>19}" for m in ("precision", "recall", "f1"))
                lines.append(f"{row.name:34} {shown}")
        lines.append("")
        for p in self.prospects:
            if p.settled:
                state = f"settled: {p.settled}"
            elif p.p_pass is None:
                state = "open: not within reach of the forecast"
            else:
                state = f"open: passes in {p.p_pass:.1%} of draws"
            lines.append(f"{p.key}  {p.title}: {state}")
        lines.append("S2  is about a model of all measured rates and cannot be settled before they are there.")
        return "\n".join(line.rstrip() for line in lines)


def _shown(at: Mapping[str, float | None]) -> str:
    value, low, high = at["value"], at["low"], at["high"]
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if low is None or high is None else f" ({100 * low:.1f}-{100 * high:.1f})")


def forecast_run(run: RunDir, draws: int = 10_000) -> RunForecast:
    """Forecast every condition of a sweep from its baseline (seed 0 where there are several).

    Args:
        run: the run directory.
        draws: of test papers and of calibration error.

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
    base = ready[0]
    accept, log_odds = loaded.truth.accept, loaded.scores[base.name].log_odds
    shifts = {c.name: expected_shift(c, loaded.data, effective_beta(loaded.sweep)) for c in loaded.declared}
    resamples = bs.Resamples(loaded.truth.n, draws)
    known = calibration(accept, log_odds)
    wanted = {n: s.value for n, s in shifts.items() if s.covered and n != base.name}
    made = forecast(accept, log_odds, wanted, resamples, known)
    measured, seen = _measured(loaded.scores, accept, resamples)
    values: dict[str, dict[str, FloatArray]] = {}
    for metric in ("predicted_accept_rate", "accuracy"):
        # without a calibration the intervals are too narrow to settle anything: only what is measured counts
        foreseen = {} if known is None else {n: d[metric] for n, d in made.draws.items()}
        by_name = foreseen | {n: d[metric] for n, d in seen.items()}
        values[metric] = mean_over_seeds(loaded.declared, by_name)
    judged = hypotheses(loaded.declared, {cell(c): shifts[c.name].value for c in loaded.declared})
    rows = [
        ForecastRow(
            c.name,
            shifts[c.name].value,
            shifts[c.name].note,
            summarised(made.point[c.name], made.draws[c.name]) if c.name in wanted else None,
            measured.get(c.name),
        )
        for c in loaded.declared
        if c.name != base.name
    ]
    return RunForecast(
        base.name,
        loaded.truth.n,
        known,
        rows,
        prospects(judged, values, draws),
        loaded.declared,
        frozenset(loaded.scores),
        judged,
        values,
        draws,
    )


def _measured(
    scores: Mapping[str, Any], accept: Any, resamples: bs.Resamples
) -> tuple[dict[str, dict[str, float | None]], dict[str, bs.Draws]]:
    """Measured metrics of finished conditions, and the same in every draw."""
    names: Sequence[str] = list(scores)
    hits = np.column_stack([accept, *(scores[n].decision & accept for n in names)])
    alarms = np.column_stack([scores[n].decision & ~accept for n in names])
    sums, false = resamples.sums(hits.astype(np.float32)), resamples.sums(alarms.astype(np.float32))
    accepts = sums[:, 0].astype(np.float64)
    point, drawn = {}, {}
    for i, name in enumerate(names):
        drawn[name] = bs.from_counts(
            sums[:, i + 1].astype(np.float64), false[:, i].astype(np.float64), accepts, resamples.n
        )
        exact = bs.from_counts(
            hits[:, [i + 1]].sum(axis=0).astype(float),
            alarms[:, [i]].sum(axis=0).astype(float),
            np.array([float(accept.sum())]),
            resamples.n,
        )
        point[name] = {m: float(exact[m][0]) if np.isfinite(exact[m][0]) else None for m in METRICS}
    return point, drawn
