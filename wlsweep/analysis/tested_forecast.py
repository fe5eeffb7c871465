"""What conditions that were not trained will decide on the same papers, once theory was tested on those that were.

A condition's log-odds are those of a measured one of its line, moved so that their mean is the predicted one
(`theory_check.predicted_means`). Two neighbours serve, one for each half of the draws, so that the shape of the
distribution counts as uncertain too. Re-training also moves single papers: the two neighbours differ by that much, and the
papers that lie so near to the threshold are drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wlsweep.analysis.bootstrap import Draws, from_counts
from wlsweep.analysis.loaded_run import BoolArray, FloatArray
from wlsweep.analysis.theory_check import TheoryTest, line_of, predicted_means
from wlsweep.spec.condition import Condition


def forecast_unmeasured(
    test: TheoryTest,
    conditions: Sequence[Condition],
    log_odds: Mapping[str, FloatArray],
    accept: BoolArray,
    shifts: Mapping[str, float],
    base: str,
    draws: int,
    seed: int = 0,
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
        seed: of the draws.

    Returns:
        by condition, each rate as an array of one number, and in every draw, shape (draws,).
    """
    wanted = [c for c in conditions if c.name in shifts and c.name not in log_odds]
    if not wanted:
        return {}, {}
    centre, means = predicted_means(test, wanted, shifts, draws, seed)
    rng = np.random.default_rng([seed, 3])
    point: dict[str, Draws] = {}
    found: dict[str, Draws] = {}
    measured = [c for c in conditions if c.name in shifts and c.name in log_odds]
    for i, c in enumerate(wanted):
        line = [d.name for d in measured if line_of(d) == line_of(c)]
        line += [base] if base not in line and len(line) < 2 else []
        near = sorted(line, key=lambda name: abs(float(log_odds[name].mean()) - centre[i]))[:2]
        made, exact = _decisions(near, log_odds, accept, means[:, i], float(centre[i]), rng)
        found[c.name], point[c.name] = made, exact
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
            p = _above(z[rows] + centre - own, scatter)
            out[mine] += rng.normal(0.0, float((p * (1 - p)).sum()) ** 0.5, int(mine.sum()))
            out[mine] = np.clip(np.round(out[mine]), 0, len(ranked))
    one = np.array([accepts])
    return from_counts(tp, fp, np.full(len(means), accepts), n), from_counts(exact[:1], exact[1:], one, n)


def _above(distance: FloatArray, scatter: float) -> FloatArray:
    """P(distance + N(0, scatter^2) > 0)."""
    from scipy.special import ndtr

    return np.asarray(ndtr(distance / scatter), dtype=np.float64)
