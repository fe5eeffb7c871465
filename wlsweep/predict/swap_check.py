"""Does the engine serve the model that it was given? Judged from scores, apart from rounding.

A trained model left the log-probabilities of both labels on some rows. The engine computes them with other kernels, so
in bf16 they differ: at 135M parameters by 0.1 to 0.26 in the largest of eight. A fixed tolerance is either wider than
what tells two conditions apart, or refuses sound models. So three things are judged:

1. the root mean square of all differences, against what was measured on the first model of this engine, which was loaded and
   not swapped in, and so differs by rounding alone;
2. whether the scores moved at all: weights that were not replaced give the same bits on the same rows;
3. whether they moved to the new model: of the way from the scores before the swap to those of the trained model, how much
   was gone. Sound swaps go all of it but for rounding, old weights or old keys and values none or a part of it.

What scores cannot show (one layer of thirty that kept its old weights) is counted while the weights are read:
`wlsweep.predict.worker`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""[rows, 2]: log P(Accept) and log P(Reject) at the decision position."""

FRESH_LIMIT = {"float32": 0.01, "bfloat16": 0.5}
"""Largest root mean square of the first model of an engine, natural log units."""
SMALLEST_LIMIT = {"float32": 0.002, "bfloat16": 0.15}
"""Below it rounding is never blamed, however little the first model showed of it."""
TIMES_ROUNDING = 4.0
"""How much more than the first model's a later model's differences may be."""
WAY = 0.5
"""Smallest share of the way from the model before to this one."""
TELLS_APART = 3.0
"""How many times the rounding two models must differ by, for their scores to tell which one is served."""


class Judged(NamedTuple):
    """What a check found."""

    error: float
    """Root mean square of the differences between engine and trained model, natural log units."""
    limit: float
    way: float | None
    """Share of the way from the model before; None where there was none or it scores alike."""
    wrong: str | None
    """Why the engine does not serve the model; None if it does."""


def rms(x: Scores) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(x))))


def judge(
    served: Scores, own: Scores, before: Scores | None, rounding: float | None, dtype: str, limit: float | None = None
) -> Judged:
    """Judge whether an engine serves a model.

    Args:
        served: what the engine says.
        own: what the trained model said of the same rows.
        before: what the engine said of them before the weights were swapped; None for a fresh engine.
        rounding: root mean square of the differences of this engine's first model; None if this is the first.
        dtype: of the engine, `float32` or `bfloat16`.
        limit: replaces the limit on the root mean square.
    """
    error = rms(served - own)
    if limit is None:
        limit = FRESH_LIMIT[dtype]
        if rounding is not None:
            limit = min(limit, max(SMALLEST_LIMIT[dtype], TIMES_ROUNDING * rounding))
    way: float | None = None
    wrong: str | None = None
    if before is not None:
        far = own - before
        # Without a measured rounding (the first adapter of an engine) the smallest that is ever blamed on it.
        if rms(far) > (TELLS_APART * rounding if rounding is not None else SMALLEST_LIMIT[dtype]):
            way = float(np.sum((served - before) * far) / np.sum(np.square(far)))
        if np.array_equal(served, before):
            wrong = "it gives, to the last bit, what the model before it gave"
        elif way is not None and not way >= WAY:
            wrong = f"its scores went {way:.0%} of the way from the model before to this one"
    if not error <= limit:  # also where something is not a number
        largest = float(np.abs(served - own).max())
        wrong = (
            f"label log-probabilities differ by {largest:.4f} from those of the trained model (root mean square "
            f"{error:.4f}, of which {limit:.4f} would pass as rounding)"
        )
    return Judged(error, limit, way, wrong)
