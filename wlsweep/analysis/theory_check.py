"""Is theory right for this sweep? Which conditions must be measured to know, and how far it is off where they are.

A line is the conditions of one mix, loss and seed: they saw the same papers in the same order and differ in weights
alone. Theory says that along a line the mean log-odds rise by the expected shift, and from line to line by the difference
of the mixes. It is *tested* when each line has a measurement at both its ends, gamma up and gamma down, where theory
predicts the largest shifts. What was measured is then fitted by

    mean log-odds = offset of the line + slope * expected shift + N(0, spread^2)

by least squares, so that a forecast lies between two measurements of its own line and its error is that of a prediction
from the fit: a multivariate t with the fit's residual degrees of freedom (the usual prediction interval; as a posterior,
Gelman et al., Bayesian Data Analysis, 3rd ed., section 14.2). A theory that is far off is refuted, and then nothing is
forecast from it. What breaks one single condition that was not measured cannot be seen by any forecast.

The log-odds of a condition that was not measured are those of a measured one of its line, moved so that their mean is the
predicted one. Two neighbours serve, one for each half of the draws, so that the shape of the distribution counts as
uncertain too. Re-training also moves single papers: the two neighbours differ by that much, and the papers that lie so near
to the threshold are drawn anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wlsweep.analysis.bootstrap import Draws, from_counts
from wlsweep.files import JsonObject
from wlsweep.run.predictions import BoolArray, FloatArray
from wlsweep.spec.condition import Condition

SLOPE = (2 / 3, 3 / 2)
"""Slopes of observed on expected shift that still count as theory."""
LARGEST_MISS = 0.5
"""Log-odds by which one condition may miss the fit before it counts against the theory."""
LARGEST_OFFSET = 0.75
"""Log-odds by which a whole line may lie off where its mix should put it."""

Line = tuple[int, str]
"""k of the mix, and what else sets the conditions apart: loss, kind of fine-tuning, seed."""


def line_of(c: Condition) -> Line:
    """The line that a condition belongs to."""
    return (c.k, c.group)


@dataclass(frozen=True)
class TheoryTest:
    """What the measured conditions say of the theory."""

    missing: tuple[str, ...]
    """Conditions that must be measured before anything is forecast, largest expected shift first."""
    refuted: tuple[str, ...]
    """Why the theory does not hold here, a sentence each; empty while nothing speaks against it."""
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    """95% interval."""
    spread: float | None = None
    """SD of one condition's mean log-odds around its line."""
    degrees: int = 0
    """Residual degrees of freedom of the fit."""
    lines: tuple[Line, ...] = ()
    coefficients: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    """Offset of each line, then the slope."""
    covariance: FloatArray = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    """Of the coefficients, for a spread of 1."""

    @property
    def usable(self) -> bool:
        """Whether forecasts may be used."""
        return not self.missing and not self.refuted and self.spread is not None

    def as_dict(self) -> JsonObject:
        """Plain data, for `--json`."""
        return {
            "state": "refuted" if self.refuted else "tested" if self.usable else "untested",
            "missing": list(self.missing),
            "refuted": list(self.refuted),
            "slope": {"value": self.slope, "low": self.slope_low, "high": self.slope_high},
            "spread": self.spread,
        }

    def sentence(self) -> str:
        """For the terminal and the page."""
        if self.refuted:
            return f"Theory is refuted here and no forecast is used: {'; '.join(self.refuted)}."
        if self.missing:
            return (
                "Theory is not tested here yet and no forecast is used: it needs measurements where it predicts the most,"
                f" still {', '.join(self.missing)}."
            )
        if self.spread is None:
            return "Too few conditions are measured to know how far theory is off here, so no forecast is used."
        return (
            f"Theory was tested at both ends of each mix: slope of measured on expected shift {self.slope:.2f} "
            f"({self.slope_low:.2f} to {self.slope_high:.2f}), conditions scatter by {self.spread:.2f} log-odds around it; "
            "both are part of each forecast. What breaks one condition alone cannot be forecast."
        )


def needed_tests(conditions: Iterable[Condition], shifts: Mapping[str, float]) -> list[str]:
    """The conditions at the ends of each line, largest expected shift first; every one must be measured.

    Args:
        conditions: of the sweep.
        shifts: expected shift by name, of those that theory covers.
    """
    lines: dict[Line, list[Condition]] = {}
    for c in conditions:
        if c.name in shifts:
            lines.setdefault(line_of(c), []).append(c)
    found: list[str] = []
    for line in lines.values():
        up = max(line, key=lambda c: c.signed_log_gamma)
        down = min(line, key=lambda c: c.signed_log_gamma)
        found += [c.name for c in ({up.name: up} | {down.name: down}).values()]
    return sorted(found, key=lambda name: -abs(shifts[name]))


def judge_theory(
    conditions: Sequence[Condition], shifts: Mapping[str, float], means: Mapping[str, float], base: str
) -> TheoryTest:
    """Fit the lines to what was measured and say whether theory holds.

    Args:
        conditions: of the sweep.
        shifts: expected shift by name, of those that theory covers; the baseline's is 0.
        means: mean log-odds on the test papers, by name, of the conditions that are done.
        base: the baseline that shifts are counted from.
    """
    missing = tuple(name for name in needed_tests(conditions, shifts) if name not in means)
    points = [c for c in conditions if c.name in shifts and c.name in means]
    lines = tuple(dict.fromkeys(line_of(c) for c in points))
    degrees = len(points) - len(lines) - 1
    if degrees < 1:
        return TheoryTest(missing, ())
    x = _design(points, lines, shifts)
    y = np.array([means[c.name] for c in points])
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return TheoryTest(missing, ())
    covariance = np.linalg.inv(x.T @ x)
    fitted = covariance @ x.T @ y
    residuals = y - x @ fitted
    spread = float(np.sqrt(residuals @ residuals / degrees))
    from scipy.stats import t

    half = float(t.ppf(0.975, degrees)) * spread * float(covariance[-1, -1]) ** 0.5
    slope = float(fitted[-1])
    refuted = []
    if slope + half < SLOPE[0] or slope - half > SLOPE[1]:
        refuted.append(
            f"conditions move {slope:.2f} times as far as their expected shifts ({slope - half:.2f} to {slope + half:.2f})"
        )
    # a line's own slope takes up half of what one broken end does to it, so distances are judged from theory too
    by_theory = _misses(points, shifts, means, lines)
    for c, residual in zip(points, residuals, strict=True):
        miss = max(residual, by_theory[c.name], key=abs)
        if abs(miss) > LARGEST_MISS:
            refuted.append(f"{c.name} is {miss:+.2f} log-odds off its line")
    at = {line: float(fitted[i]) for i, line in enumerate(lines)}
    home = next((c.k for c in points if c.name == base), None)
    for k, group in lines:
        # another seed or kind of fine-tuning has an offset of its own, of which theory says nothing
        if home is None or (home, group) not in at:
            continue
        off = at[k, group] - at[home, group]
        if abs(off) > LARGEST_OFFSET:
            which = f"1/{k} ({group})" if group else f"1/{k}"
            refuted.append(f"the conditions at {which} lie {off:+.2f} log-odds off where their mix should put them")
    return TheoryTest(
        missing,
        tuple(refuted),
        slope,
        slope - half,
        slope + half,
        spread,
        degrees,
        lines,
        np.asarray(fitted),
        np.asarray(covariance),
    )


def _misses(
    points: Sequence[Condition], shifts: Mapping[str, float], means: Mapping[str, float], lines: Sequence[Line]
) -> dict[str, float]:
    """How far each condition is off the median of its line when slopes are 1."""
    off = {c.name: means[c.name] - shifts[c.name] for c in points}
    middle = {line: float(np.median([off[c.name] for c in points if line_of(c) == line])) for line in lines}
    return {c.name: off[c.name] - middle[line_of(c)] for c in points}


def _design(points: Sequence[Condition], lines: Sequence[Line], shifts: Mapping[str, float]) -> FloatArray:
    """A column for each line and one of expected shifts; shape (points, lines + 1)."""
    return np.array([[*(float(line_of(c) == line) for line in lines), shifts[c.name]] for c in points])


def predicted_means(
    test: TheoryTest, wanted: Sequence[Condition], shifts: Mapping[str, float], draws: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Mean log-odds that conditions will have, as the tested theory says.

    Args:
        test: a usable one.
        wanted: conditions of its lines.
        shifts: expected shift by name.
        draws: of the predictive distribution, the same draw for all conditions at once.
        seed: of the draws.

    Returns:
        the centre, shape (conditions,), and draws, shape (draws, conditions).
    """
    x = _design(wanted, test.lines, shifts)
    rng = np.random.default_rng([seed, 2])
    assert test.spread is not None
    sigma = test.spread * np.sqrt(test.degrees / rng.chisquare(test.degrees, draws))
    root = np.linalg.cholesky(test.covariance)
    shared = rng.normal(size=(draws, len(test.coefficients))) @ root.T @ x.T
    own = rng.normal(size=(draws, len(wanted)))
    centre = x @ test.coefficients
    return centre, centre + sigma[:, None] * (shared + own)


def forecast_unmeasured(
    test: TheoryTest,
    conditions: Sequence[Condition],
    log_odds: Mapping[str, FloatArray],
    accept: BoolArray,
    shifts: Mapping[str, float],
    base: str,
    draws: int,
) -> tuple[dict[str, Draws], dict[str, Draws]]:
    """Forecast every condition that theory covers and that is not measured.

    Args:
        test: a usable theory.
        conditions: of the sweep.
        log_odds: by name, of the measured conditions; shape (n,).
        accept: labels, shape (n,).
        shifts: expected shift by name, where theory covers it.
        base: the baseline; it is a neighbour where a line has just one measurement.
        draws: of the predictive distribution.

    Returns:
        by condition, each rate as an array of one number, and in every draw, shape (draws,).
    """
    wanted = [c for c in conditions if c.name in shifts and c.name not in log_odds]
    if not wanted:
        return {}, {}
    centre, means = predicted_means(test, wanted, shifts, draws, 0)
    rng = np.random.default_rng([0, 3])
    point: dict[str, Draws] = {}
    found: dict[str, Draws] = {}
    measured = [c for c in conditions if c.name in shifts and c.name in log_odds]
    for i, c in enumerate(wanted):
        line = [d.name for d in measured if line_of(d) == line_of(c)]
        line += [base] if base not in line and len(line) < 2 else []
        near = sorted(line, key=lambda name: abs(float(log_odds[name].mean()) - centre[i]))[:2]
        found[c.name], point[c.name] = _decisions(near, log_odds, accept, means[:, i], float(centre[i]), rng)
    return point, found


def _decisions(
    near: Sequence[str],
    log_odds: Mapping[str, FloatArray],
    accept: BoolArray,
    means: FloatArray,
    centre: float,
    rng: np.random.Generator,
) -> tuple[Draws, Draws]:
    """Rates in every draw and at the centre, from one or two neighbours."""
    from scipy.special import ndtr

    n, accepts = len(accept), float(accept.sum())
    apart = log_odds[near[0]] - log_odds[near[-1]]
    scatter = max(float(apart.std()), 1e-6)
    use = rng.permutation(np.arange(len(means)) % len(near))
    tp, fp, exact = np.empty(len(means)), np.empty(len(means)), np.zeros(2)
    for j, name in enumerate(near):
        z, mine = log_odds[name], use == j
        own = float(z.mean())
        for out, rows, slot in ((tp, accept, 0), (fp, ~accept, 1)):
            ranked = np.sort(z[rows])
            out[mine] = len(ranked) - np.searchsorted(ranked, own - means[mine], side="right")
            exact[slot] += float((ranked > own - centre).sum()) / len(near)
            # papers within reach of the threshold fall on either side of it
            p = ndtr((z[rows] + centre - own) / scatter)
            out[mine] += rng.normal(0.0, float((p * (1 - p)).sum()) ** 0.5, int(mine.sum()))
            out[mine] = np.clip(np.round(out[mine]), 0, len(ranked))
    one = np.array([accepts])
    return from_counts(tp, fp, np.full(len(means), accepts), n), from_counts(exact[:1], exact[1:], one, n)
