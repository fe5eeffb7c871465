"""Training noise: what another training of the same condition would have said, and how much of it a comparison holds.

A training of condition c with seed s on the mix m moves the mean log-odds of all papers by

    common[s] + shared[m, s] + own[c, s],     independent, normal, with standard deviations that are estimated here.

`common` is what an order of rows does to every mix (it cancels between conditions of one seed), `shared` what it does to
one mix (and loss, and kind of fine-tuning), `own` what is left. A number that moves by w[c] when the log-odds of c move by
1 - a rate, a difference of rates, a slope - has, for small offsets, the training variance

    sum over seeds (sum w)^2 * common^2 + sum over mixes and seeds (sum w)^2 * shared^2 + sum w^2 * own^2.

The variances come from mean squares by the method of moments: from several seeds of the same conditions (nested analysis
of variance), or, with one seed, from how far conditions miss theory's line (Henderson's method 3; Searle, Casella and
McCulloch, Variance Components, 1992, ch. 5). Few mixes and seeds leave them uncertain, and the trainings that are compared
are those that they were estimated from, so neither the normal nor the t quantile fits: intervals use the quantile of the
number's error over its own estimated standard error in `SIMULATIONS` trainings drawn from the fitted model (the parametric
bootstrap-t; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5). In these the number is made again
from moved log-odds (`responses.py`), so that what bends does. One seed cannot show `common`; it is then taken as `UNSEEN`
times `shared`. How often intervals hold the truth: `bench/coverage.py` and docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from wlsweep.analysis.intervals import SIMULATIONS, Contrast
from wlsweep.analysis.responses import LOG_ODDS, Response
from wlsweep.analysis.theory_check import line_of
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.condition import Condition
from wlsweep.spec.task import ICLR, Words

FEWEST_MIXES = 3
"""Without seeds, fewest mixes from which what a mix shares can be estimated."""
UNSEEN = 2.0
"""What one seed does to all mixes alike, where no second seed shows it, is taken to be so many times as large as what it
does to one mix; measured on the demo with several seeds: SDs of 0.08 and 0.04 log-odds."""
Source = Literal["seeds", "misfit", "both"]
"""Several seeds; how far conditions miss theory; or the latter and several seeds of one condition."""


class _Square(NamedTuple):
    """A mean square: of observations y, the mean of squares of `residual` @ y.

    On average it is own^2 + `shared` * shared^2 + `common` * common^2.
    """

    residual: FloatArray
    """Shape (observations, observations), a projection."""
    degrees: int
    shared: float = 0.0
    common: float = 0.0

    def of(self, y: FloatArray) -> FloatArray:
        """Of observations, shape (sets, observations)."""
        return np.asarray(((y @ self.residual) ** 2).sum(axis=1) / self.degrees)


@dataclass(frozen=True)
class TrainingNoise:
    """How much trainings differ, in mean log-odds."""

    source: Source
    own_sd: float
    shared_sd: float | None
    """None where it cannot be told from `own_sd`, which then holds it."""
    common_sd: float | None
    """None where it cannot be seen: with one seed."""
    conditions: Mapping[str, Condition] = field(repr=False)
    squares: tuple[_Square, ...] = field(repr=False)
    """From the coarsest to the finest; the last is that of own^2."""
    found: tuple[float, ...] = field(repr=False)
    """What each mean square is."""
    observed: tuple[str, ...] = field(repr=False)
    """Conditions that they were made of."""

    @cached_property
    def offsets(self) -> dict[str, FloatArray]:
        """What every simulated training adds to the mean log-odds, by condition, shape (simulations,)."""
        return self._drawn(np.random.default_rng([0, 4]), np.ones((3, SIMULATIONS)))

    @cached_property
    def simulated(self) -> list[FloatArray]:
        """The mean squares of every simulation, shape (simulations,) each."""
        y = np.column_stack([self.offsets[name] for name in self.observed])
        return [s.of(y) for s in self.squares]

    def _drawn(self, rng: np.random.Generator, scale: FloatArray) -> dict[str, FloatArray]:
        """Offsets by condition; `scale` multiplies the own, shared and common SD, shape (3, draws)."""
        draws = scale.shape[1]
        common_sd = UNSEEN * (self.shared_sd or 0.0) if self.source == "misfit" else self.common_sd
        own, shared, common = (scale[i] * (sd or 0.0) for i, sd in enumerate((self.own_sd, self.shared_sd, common_sd)))
        members = self.conditions.values()
        by_seed = {s: common * rng.normal(size=draws) for s in sorted({c.seed for c in members})}
        by_mix = {at: shared * rng.normal(size=draws) for at in sorted({line_of(c) for c in members})}
        return {c.name: by_seed[c.seed] + by_mix[line_of(c)] + own * rng.normal(size=draws) for c in members}

    def offset_draws(self, draws: int) -> dict[str, FloatArray]:
        """What other trainings would add to the mean log-odds of each condition, by name, shape (draws,).

        The standard deviations are drawn too, as uncertain as the degrees of freedom of their mean squares leave them.
        What a metric becomes at these offsets, added to the bootstrap draws of papers, makes them draws over papers and
        trainings.

        Args:
            draws: how many.
        """
        rng = np.random.default_rng([0, 6])
        degrees = [self.squares[-1].degrees, 1, 1]
        for s in self.squares[:-1]:
            degrees[2 if s.common else 1] = s.degrees
        scale = np.array([(df / rng.chisquare(df, draws)) ** 0.5 for df in degrees])
        if self.source == "misfit":  # `common` is taken from `shared`, and is as uncertain
            scale[2] = scale[1]
        return self._drawn(rng, scale)

    def contrast(self, weights: Mapping[str, float], numbers: Mapping[str, Response] | None = None) -> Contrast:
        """The noise of a weighted sum of one number of each condition.

        Args:
            weights: by name of a condition that is done.
            numbers: what the number becomes when a condition's log-odds move; without, it is their mean.
        """
        errors, here, there = np.zeros(SIMULATIONS), dict[str, FloatArray](), dict[str, FloatArray]()
        for name, w in weights.items():
            number, offsets = (numbers or {}).get(name, LOG_ODDS), self.offsets[name]
            moved = number.at(offsets)
            errors += w * (moved - moved.mean())
            here[name], there[name] = w * number.slope(np.zeros(1)), w * number.slope(offsets)
        variance = sum(share * found for share, found in zip(self._shares(here), self.found, strict=True))
        variances = sum(share * found for share, found in zip(self._shares(there), self.simulated, strict=True))
        return Contrast(max(float(np.sum(variance)), 0.0), errors, np.maximum(variances, 0.0))

    def _shares(self, slopes: Mapping[str, FloatArray]) -> list[FloatArray]:
        """What each mean square counts in the variance of a sum with these slopes, arrays of one shape."""
        common = _squares(slopes, lambda name: self.conditions[name].seed)
        shared = _squares(slopes, lambda name: line_of(self.conditions[name]))
        own = _squares(slopes, lambda name: name)
        if self.source == "misfit":
            shared = shared + UNSEEN**2 * common
        shares = []
        for s in self.squares:
            if s.common:
                share = common / s.common
                shared = shared - share * s.shared
            else:
                share = shared / s.shared if s.shared else own
            own = own - share
            shares.append(share)
        return shares

    @property
    def sd(self) -> float:
        """SD of the mean log-odds of one training, as far as it can be seen."""
        return float(np.hypot(np.hypot(self.own_sd, self.shared_sd or 0.0), self.common_sd or 0.0))

    def sentence(self, words: Words = ICLR.words) -> str:
        """What was counted, for the first lines of the page."""
        counted = f"Intervals that compare models count {words.items} and trainings"
        if self.source != "misfit":
            return f"{counted}: the seeds of one condition differ by an SD of {self.sd:.2f} log-odds."
        return (
            f"{counted}; with one seed, the noise of trainings is taken from how far conditions miss theory (SD "
            f"{self.sd:.2f} log-odds), and what the seed does to all mixes alike, which one seed cannot show, as "
            f"{UNSEEN:g} times what it does to one: more seeds of the baseline would show it."
        )


def _squares(slopes: Mapping[str, FloatArray], group: Callable[[str], Any]) -> FloatArray:
    """Sum over groups of the squared sum of slopes."""
    sums: dict[Any, FloatArray] = {}
    for name, w in slopes.items():
        sums[group(name)] = sums.get(group(name), np.zeros(1)) + w
    return np.asarray(sum(w * w for w in sums.values()))


def training_noise(
    conditions: Sequence[Condition], shifts: Mapping[str, float], means: Mapping[str, float]
) -> TrainingNoise | None:
    """The noise of the trainings of a sweep, from seeds where there are some, else from the misfit of theory.

    Args:
        conditions: of the sweep.
        shifts: expected shift by name, of those that theory covers.
        means: mean log-odds on the test papers by name, of those that are done.

    Returns:
        None where neither tells: too few conditions, mixes or seeds.
    """
    done = [c for c in conditions if c.name in means]
    table = _seed_table(done)
    of_one_seed = _with_slopes(_largest_seed([c for c in done if c.name in shifts]), shifts)
    squares = _misfit(of_one_seed, shifts)
    if table is not None and len(table) == 1 and squares is not None:
        return _estimated("both", done, *_joined(table[0], of_one_seed, squares), means)
    if table is not None:
        return _estimated("seeds", done, [c for row in table for c in row], _between_seeds(table), means)
    return None if squares is None else _estimated("misfit", done, of_one_seed, squares, means)


def _largest_seed(covered: Sequence[Condition]) -> list[Condition]:
    """The conditions of the seed that most of them have."""
    seeds = [c.seed for c in covered]
    most = max(sorted(set(seeds)), key=seeds.count, default=0)
    return [c for c in covered if c.seed == most]


def _with_slopes(covered: Sequence[Condition], shifts: Mapping[str, float]) -> list[Condition]:
    """The conditions of those kinds of fine-tuning that show a slope within a mix; of another kind a single training, or
    one a mix, tells nothing of how far it misses its line."""
    telling = set()
    for kind in {c.lora for c in covered}:
        at = [c for c in covered if c.lora == kind]
        lines = _indicators([line_of(c) for c in at])
        if np.linalg.matrix_rank(np.column_stack([lines, [shifts[c.name] for c in at]])) > lines.shape[1]:
            telling.add(kind)
    return [c for c in covered if c.lora in telling]


def _indicators(groups: Sequence[Any]) -> FloatArray:
    """A column of 0 and 1 for each group, in order; shape (members, groups)."""
    return np.array([[float(g == other) for other in sorted(set(groups))] for g in groups])


def _joined(
    row: Sequence[Condition], of_one_seed: Sequence[Condition], squares: Sequence[_Square]
) -> tuple[list[Condition], list[_Square]]:
    """Seeds of one condition show the whole noise of a training, the misfit what is not common to a seed: both together.

    Returns:
        the conditions observed, and the mean squares on all of them.
    """
    observed = [*of_one_seed, *(c for c in row if c not in of_one_seed)]
    at = [observed.index(c) for c in row]
    between = np.zeros((len(observed), len(observed)))
    between[np.ix_(at, at)] = np.eye(len(row)) - 1 / len(row)
    n = len(of_one_seed)
    wider = [s._replace(residual=np.pad(s.residual, (0, len(observed) - n))) for s in squares]
    return observed, [_Square(between, len(row) - 1, 1.0, 1.0), *wider]


def _estimated(
    source: Source,
    done: Sequence[Condition],
    observed: Sequence[Condition],
    squares: Sequence[_Square],
    means: Mapping[str, float],
) -> TrainingNoise:
    """Solve the mean squares for the variances."""
    y = np.array([[means[c.name] for c in observed]])
    found = [float(s.of(y)[0]) for s in squares]
    own = found[-1]
    shared = common = 0.0
    for s, square in zip(reversed(squares[:-1]), reversed(found[:-1]), strict=True):
        if s.common:
            common = max((square - own - s.shared * shared) / s.common, 0.0)
        else:
            shared = max((square - own) / s.shared, 0.0)
    return TrainingNoise(
        source,
        own**0.5,
        shared**0.5 if any(s.shared and not s.common for s in squares) else None,
        common**0.5 if any(s.common for s in squares) else None,
        {c.name: c for c in done},
        tuple(squares),
        tuple(found),
        tuple(c.name for c in observed),
    )


def _seed_table(done: Sequence[Condition]) -> list[list[Condition]] | None:
    """Rows of conditions, columns of seeds, without a gap: of all such tables, one with the most trainings."""
    cells: dict[str, dict[int, Condition]] = {}
    for c in done:
        cells.setdefault(replace(c, seed=0).name, {})[c.seed] = c
    several = [at for at in cells.values() if len(at) > 1]
    if not several:
        return None
    columns = max(
        ({*at} for at in several), key=lambda seeds: len(seeds) * sum(seeds <= set(other) for other in several)
    )
    return [[at[s] for s in sorted(columns)] for at in several if columns <= set(at)]


def _between_seeds(table: Sequence[Sequence[Condition]]) -> list[_Square]:
    """Nested analysis of variance of a table (conditions x seeds), conditions within mixes, as projections.

    Means over seeds are taken off first, so each mean square has (seeds - 1) times as many degrees of freedom as its
    part of the conditions has dimensions.
    """
    rows, seeds = len(table), len(table[0])
    across = np.eye(seeds) - 1 / seeds
    mixes = [line_of(replace(row[0], seed=0)) for row in table]
    kinds = sorted(set(mixes))
    member = np.array([[float(k == kind) for kind in kinds] for k in mixes])
    sizes = member.sum(axis=0)
    of_mix = member @ np.diag(1 / sizes) @ member.T
    of_all = np.full((rows, rows), 1 / rows)
    even = float((sizes**2).sum()) / rows
    parts: list[_Square] = []
    if len(kinds) > 1:
        parts.append(_Square(np.kron(of_all, across), seeds - 1, even, float(rows)))
        dimensions = len(kinds) - 1
        parts.append(_Square(np.kron(of_mix - of_all, across), dimensions * (seeds - 1), (rows - even) / dimensions))
    else:
        parts.append(_Square(np.kron(of_all, across), seeds - 1, float(rows)))
    if rows > len(kinds):
        parts.append(_Square(np.kron(np.eye(rows) - of_mix, across), (rows - len(kinds)) * (seeds - 1)))
    else:  # one condition a mix: what the mix shares cannot be told from what is its own
        parts = [p._replace(shared=0.0) for p in parts]
    return parts


def _misfit(covered: Sequence[Condition], shifts: Mapping[str, float]) -> list[_Square] | None:
    """How far conditions of one seed miss a straight line on their expected shifts, between mixes and within them.

    Each kind of fine-tuning has a line of its own: that adapters move half as far is no noise of trainings. What theory
    gets wrong otherwise counts as noise here, so the intervals hold it too. None with fewer than three mixes (of two kinds,
    four between them, and so on) or fewer than two residual degrees of freedom within them.
    """
    if not covered:
        return None
    z, kind = _indicators([line_of(c) for c in covered]), _indicators([c.lora for c in covered])
    n, m, kinds = len(covered), z.shape[1], kind.shape[1]
    if m - kinds < FEWEST_MIXES - 1 or n - m - kinds < 2:
        return None
    slopes = kind * np.array([[shifts[c.name]] for c in covered])
    beyond_line = _residual(np.column_stack([kind, slopes]))
    beyond_mixes = _residual(np.column_stack([z, slopes]))
    # on average, what mixes explain beyond the lines is (m - kinds) own^2 + tr(Z' (I - P_x) Z) shared^2
    degrees = m - kinds
    between = _Square(beyond_line - beyond_mixes, degrees, float(np.trace(z.T @ beyond_line @ z)) / degrees)
    return [between, _Square(beyond_mixes, n - m - kinds)]


def _residual(x: FloatArray) -> FloatArray:
    """The projection on what columns of x do not explain."""
    return np.asarray(np.eye(len(x)) - x @ np.linalg.pinv(x))
