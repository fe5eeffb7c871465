"""Training noise in what the page compares: differences, shifts, the slope, and draws for verdicts and effects.

    >>> Trainings.of(loaded, shifts).difference("a", "baseline", "accuracy", 0.02, draws)    # doctest: +SKIP

One object for an evaluation: the noise of its trainings and what each metric of each model does when its log-odds move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wlsweep.analysis.bootstrap import METRICS, Draws, percentile
from wlsweep.analysis.comparisons import with_interval
from wlsweep.analysis.evaluation_records import NoiseOfTrainings, Slope, TheoryRow
from wlsweep.analysis.intervals import Total, auc, average_precision, over_papers_and_trainings
from wlsweep.analysis.loaded_run import RunPredictions
from wlsweep.analysis.responses import Response, responses
from wlsweep.analysis.training_noise import TrainingNoise, training_noise
from wlsweep.estimate import Estimate
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.task import ICLR, Words

Pairs = Sequence[tuple[str, str]]
"""(training, the baseline that it is compared with), of the seeds of one condition."""
_OF_RANKS = {"auc": auc, "average_precision": average_precision}
"""Metrics that a common offset of log-odds leaves as they are. Only seeds show how far other trainings would move them."""
_SHARES = frozenset(METRICS) - {"brier", "log_loss"}


@dataclass(frozen=True)
class Trainings:
    """What is known of the noise of an evaluation's trainings."""

    noise: TrainingNoise | None
    moves: Mapping[str, Mapping[str, Response]]
    """By condition, by metric: what it becomes when the condition's log-odds move."""
    of_ranks: Mapping[str, TrainingNoise] = field(default_factory=dict)
    """By metric that an offset does not move: its own noise, in its own unit, where several seeds show it."""
    words: Words = ICLR.words
    """Of the task."""

    @classmethod
    def of(cls, loaded: RunPredictions, shifts: Mapping[str, float]) -> Trainings:
        """Estimate it from the conditions that are done.

        Args:
            loaded: truth and predictions.
            shifts: expected shift by name, of those that theory covers.
        """
        means = {c.name: float(loaded.scores[c.name].log_odds.mean()) for c in loaded.done}
        noise = training_noise(loaded.declared, shifts, means)
        if noise is None:
            return cls(None, {}, words=loaded.truth.task.words)
        accept, names = loaded.truth.accept, list(means)
        moves = {name: responses(accept, loaded.scores[name].log_odds) for name in names}
        of_ranks = {}
        for metric, measure in _OF_RANKS.items():
            found = {name: measure(accept, loaded.scores[name].log_odds)[0] for name in names}
            values = {name: value for name, value in found.items() if value is not None}
            if (own := training_noise(loaded.declared, {}, values)) is not None:
                of_ranks[metric] = own
        return cls(noise, moves, of_ranks, loaded.truth.task.words)

    @property
    def record(self) -> NoiseOfTrainings:
        """For `analysis.json` and the page."""
        at, how = self.noise, "and how far seeds differ in them" if self.of_ranks else "alone"
        counted = f"{self.words.items} {how}"
        ranks = f"AUC and average precision, which a common offset of log-odds does not move, count {counted}"
        if at is None:
            items = self.words.items
            alone = (
                f"Intervals count {items} alone: they hold for these {items} and these trainings, and say nothing of "
                "other trainings; several seeds, or three mixes, would tell."
            )
            return NoiseOfTrainings(None, None, None, None, None, alone, ranks)
        return NoiseOfTrainings(at.source, at.sd, at.own_sd, at.shared_sd, at.common_sd, at.sentence(self.words), ranks)

    @property
    def counted(self) -> str:
        """What the draws of `noisy` vary."""
        return self.words.items + ("" if self.noise is None else " and trainings")

    def total(self, name: str, base: str, metric: str, change: FloatArray) -> Total | None:
        """Of a model's metric less its baseline's, over papers and trainings; None where the noise is not known.

        The trainings of a model from outside of the sweep are not known, so only the baseline's count then.

        Args:
            name: the model.
            base: its baseline, of the sweep.
            metric: of both.
            change: the difference in every bootstrap draw of papers.
        """
        weights = {base: -1.0}
        if name in self.moves:
            weights[name] = 1.0
        return self._total(metric, weights, change)

    def total_over_seeds(self, pairs: Pairs, change: FloatArray, metric: str) -> Total | None:
        """Of the mean over seeds of a metric less the baseline's, where a baseline may serve several seeds.

        Args:
            pairs: (training, its baseline) of each seed.
            change: the mean difference in every bootstrap draw of papers, shape (draws,).
            metric: of all of them.
        """
        weights: dict[str, float] = {}
        for name, base in pairs:
            weights[name] = weights.get(name, 0.0) + 1 / len(pairs)
            weights[base] = weights.get(base, 0.0) - 1 / len(pairs)
        return self._total(metric, weights, change)

    def _total(self, metric: str, weights: Mapping[str, float], change: FloatArray) -> Total | None:
        """Of a weighted sum of models' metrics; None where the noise of one of their trainings is not known."""
        if (noise := self.of_ranks.get(metric)) is not None:
            known = all(name in noise.conditions for name in weights)
            return over_papers_and_trainings(change, noise.contrast(weights)) if known else None
        if self.noise is None or any(metric not in self.moves[name] for name in weights):
            return None
        numbers = {name: self.moves[name][metric] for name in weights}
        return over_papers_and_trainings(change, self.noise.contrast(weights, numbers))

    def difference(self, name: str, base: str, metric: str, value: float, change: FloatArray) -> Estimate:
        """A model's metric less its baseline's; with the interval of papers alone where trainings say nothing of it."""
        total = self.total(name, base, metric, change)
        if total is None:
            return with_interval(value, percentile(change))
        bound = 1.0 if metric in _SHARES else np.inf
        return with_interval(value, total.interval(value, -bound, bound))

    def noisy(self, papers: Mapping[str, Draws]) -> dict[str, Draws]:
        """Bootstrap draws of papers with what other trainings would add: draws over papers and trainings.

        Args:
            papers: by condition, by metric, shape (draws,).
        """
        if self.noise is None or not papers:
            return {name: dict(found) for name, found in papers.items()}
        draws = len(next(iter(next(iter(papers.values())).values())))
        offsets = self.noise.offset_draws(draws)
        out: dict[str, Draws] = {}
        for name, found in papers.items():
            out[name] = dict(found)
            for metric, move in self.moves.get(name, {}).items():
                if metric in found:
                    moved = found[metric] + move.change(offsets[name])
                    out[name][metric] = np.clip(moved, 0.0, 1.0) if metric in _SHARES else moved
        return out

    def slope(self, rows: Sequence[TheoryRow], papers: Mapping[str, Draws]) -> Slope:
        """Least-squares slope of observed on expected shifts over conditions.

        1 is theory; below 1 the conditions moved less than their weights and mixes ask for. A slope is a weighted sum of
        mean log-odds, so its noise is that of papers and trainings as for any other number; where the noise of trainings is
        not known, the interval is the t interval of least squares, from the scatter of the conditions around the line. None
        below three conditions or where all expected shifts are equal.

        Args:
            rows: conditions that theory covers.
            papers: bootstrap draws by condition, with `log_odds`.
        """
        from scipy.stats import linregress, t

        x = np.array([row.expected_shift for row in rows])
        n = len(x)
        if n < 3 or np.ptp(x) == 0:
            return Slope(Estimate(None), None, None, n)
        y = np.array([row.observed_shift.value for row in rows], dtype=np.float64)
        fit = linregress(x, y)
        value = float(fit.slope)
        half = float(t.ppf(0.975, n - 2)) * float(fit.stderr)
        at = Estimate(value, value - half, value + half)
        if self.noise is not None:
            at = self._weighted(value, _slope_weights(rows), papers)
        return Slope(at, float(fit.intercept), float(fit.rvalue**2), n)

    def slope_difference(
        self, rows: Sequence[TheoryRow], others: Sequence[TheoryRow], papers: Mapping[str, Draws]
    ) -> Estimate:
        """The slope of `rows` less that of `others`, with the interval of `slope`; without noise of trainings Welch's.

        None where either has no slope.
        """
        from scipy.stats import t

        first, second = self.slope(rows, papers), self.slope(others, papers)
        if first.slope.value is None or second.slope.value is None:
            return Estimate(None)
        value = first.slope.value - second.slope.value
        if self.noise is not None:
            weights = _slope_weights(rows)
            for name, w in _slope_weights(others).items():
                weights[name] = weights.get(name, 0.0) - w
            return self._weighted(value, weights, papers)
        degrees = np.array([first.n - 2, second.n - 2])
        halves = np.array([(s.slope.high or 0.0) - (s.slope.low or 0.0) for s in (first, second)]) / 2
        variances = (halves / t.ppf(0.975, degrees)) ** 2
        if variances.sum() == 0:
            return Estimate(value, value, value)
        half = float(t.ppf(0.975, variances.sum() ** 2 / (variances**2 / degrees).sum()) * variances.sum() ** 0.5)
        return Estimate(value, value - half, value + half)

    def _weighted(self, value: float, weights: Mapping[str, float], papers: Mapping[str, Draws]) -> Estimate:
        """`value`, a weighted sum of mean log-odds, with its interval over papers and trainings."""
        assert self.noise is not None
        change = np.sum([w * papers[name]["log_odds"] for name, w in weights.items()], axis=0)
        total = over_papers_and_trainings(change, self.noise.contrast(weights))
        return with_interval(value, None if total is None else total.interval(value))


def _slope_weights(rows: Sequence[TheoryRow]) -> dict[str, float]:
    """What each condition's mean log-odds count in the slope of observed on expected shifts."""
    x = np.array([row.expected_shift for row in rows])
    weights: dict[str, float] = {}
    for row, w in zip(rows, (x - x.mean()) / ((x - x.mean()) ** 2).sum(), strict=True):
        weights[row.name] = weights.get(row.name, 0.0) + float(w)
        weights[row.baseline] = weights.get(row.baseline, 0.0) - float(w)
    return weights
