"""One logistic model of all conditions: how much of the predicted accept rate gamma explains, the mix, and both.

    logit P(model accepts) = b0 + b1 * signed ln gamma + b2 * (logit pi - logit 1/2) + b3 * b1's term * b2's term

Theory says b1 = b2 on the scale of a single paper and b3 = 0; over a spread of papers both shrink alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wlsweep.analysis.predictions import FloatArray
from wlsweep.analysis.records import Effects, SeedShare, Term
from wlsweep.estimate import Estimate
from wlsweep.spec.condition import Condition

TERMS = ("intercept", "ln gamma", "logit proportion", "interaction")


def design(conditions: Sequence[Condition]) -> FloatArray:
    """Columns 1, signed ln gamma, logit(1/k), their product; shape (conditions, 4)."""
    gamma = np.array([c.signed_log_gamma for c in conditions])
    mix = np.array([-np.log(c.k - 1) for c in conditions])
    return np.column_stack([np.ones(len(gamma)), gamma, mix, gamma * mix])


def effects(conditions: Sequence[Condition], accepted: npt.NDArray[np.int64], n: int, draws: FloatArray) -> Effects:
    """Fit the model and split the deviance.

    Args:
        conditions: comparable ones (they differ in variant, gamma, proportion and seed only).
        accepted: papers that each accepts, shape (conditions,).
        n: test papers.
        draws: accepted papers in every bootstrap draw, shape (draws, conditions): all conditions judge the same
            papers, so the coefficients' intervals come from resampling papers (one Newton step per draw).

    Returns:
        the coefficients and shares of the null deviance, or the reason why the conditions cannot tell them apart.
    """
    x = design(conditions)
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return Effects("the finished conditions do not vary gamma and proportion enough to tell their effects apart")
    between = (accepted > 0) & (accepted < n)
    if np.linalg.matrix_rank(x[between]) < x.shape[1]:
        # A condition that accepts all or nothing bounds the coefficients on one side only: the others must tell them.
        return Effects(
            f"{len(between) - int(between.sum())} of {len(between)} conditions accept every paper or none, which "
            "fits coefficients of any size, and the others do not vary enough to tell the effects apart"
        )
    fit, deviance, null = _fit(x, accepted, n)
    if null <= 1e-9:
        return Effects("all conditions accept the same number of papers, so there is nothing to explain")
    mean = fit.mu
    information = (x * (n * mean * (1 - mean))[:, None]).T @ x
    moved = np.linalg.solve(information, x.T @ (draws - n * mean).T).T
    low, high = np.quantile(moved - moved.mean(axis=0), [0.025, 0.975], axis=0)
    without = {name: _fit(np.delete(x, keep, axis=1), accepted, n)[1] for name, keep in _REDUCED.items()}
    seeds = sorted({c.seed for c in conditions})
    seed_share = None
    if len(seeds) > 1:
        dummies = np.column_stack([[float(c.seed == s) for c in conditions] for s in seeds[1:]])
        with_seeds = _fit(np.column_stack([x, dummies]), accepted, n)[1]
        seed_share = SeedShare(len(seeds), (deviance - with_seeds) / null)
    return Effects(
        terms=tuple(
            Term(t, Estimate(float(v), float(v + a), float(v + b)))
            for t, v, a, b in zip(TERMS, fit.params, low, high, strict=True)
        ),
        explained={
            "all": 1 - deviance / null,
            "ln gamma": (without["mix only"] - without["additive"]) / null,
            "logit proportion": (without["gamma only"] - without["additive"]) / null,
            "interaction": (without["additive"] - deviance) / null,
        },
        conditions=len(conditions),
        seeds=seed_share,
    )


_REDUCED = {"additive": [3], "gamma only": [2, 3], "mix only": [1, 3]}


def _fit(x: FloatArray, accepted: npt.NDArray[np.int64], n: int) -> tuple[Any, float, float]:
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    fit = GLM(np.column_stack([accepted, n - accepted]), x, family=Binomial()).fit()
    return fit, float(fit.deviance), float(fit.null_deviance)
