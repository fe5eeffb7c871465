"""One logistic model of all conditions: what gamma and the mix do to the predicted accept rate, and whether they mix.

    logit P(model accepts) = b0 + b1 * G + b2 * M + b3 * V + b4 * G * M + b5 * V * M

with G = signed ln gamma, M = logit(1/k) and V = +-1/2 for the two variants (0 for the baseline). Theory says b1 = b2 on the
scale of a single paper and the others 0; over a spread of papers both shrink alike. Criterion S2, "gamma and the proportion
are separable", is about b4; S2v, "the proportion acts alike in both variants", about b5.

The intervals hold the lack of fit: what the conditions miss the model by, beyond what the draws explain, counts as noise of
single conditions (method of moments; the usual Satterthwaite t), so a model with no residual degrees of freedom has none.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wlsweep.analysis.evaluation_records import Effects, Judged, SeedShare, Term
from wlsweep.estimate import PERCENT, PLAIN, Estimate, count
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.condition import Condition
from wlsweep.spec.task import ICLR, Words

TERMS = ("intercept", "ln gamma", "logit proportion", "variant", "gamma x proportion", "variant x proportion")
_MAIN = (1, 2)
_ESSENTIAL = (0, 1, 2, 4)
"""Terms without which there is nothing to say; the others join where the conditions can tell them."""
FEWEST_RESIDUAL = 3
"""Residual degrees of freedom below which the fit says too little of its own error."""
LARGEST_INTERACTION = 0.05
"""Largest share of the explained deviance that an interaction may carry if the effects are to count as separable."""


class Fit(NamedTuple):
    """A fitted model."""

    params: FloatArray
    mean: FloatArray
    """Fitted rates, shape (conditions,)."""
    deviance: float
    null: float
    """Deviance of the model with an intercept alone."""


def design(conditions: Sequence[Condition]) -> FloatArray:
    """The columns of `TERMS`, shape (conditions, 6)."""
    gamma = np.array([c.signed_log_gamma for c in conditions])
    mix = np.array([-np.log(c.k - 1) for c in conditions])
    variant = np.array([{"accept": 0.5, "reject": -0.5, "baseline": 0.0}[c.variant] for c in conditions])
    return np.column_stack([np.ones(len(gamma)), gamma, mix, variant, gamma * mix, variant * mix])


def effects(conditions: Sequence[Condition], accepted: npt.NDArray[np.int64], n: int, draws: FloatArray) -> Effects:
    """Fit the model and split the deviance.

    Args:
        conditions: comparable ones (they differ in variant, gamma, proportion and seed only).
        accepted: papers that each accepts, shape (conditions,).
        n: test papers.
        draws: accepted papers in every draw of papers (and trainings), shape (draws, conditions): all conditions judge
            the same papers, so the coefficients' noise comes from the draws (one Newton step each).

    Returns:
        the coefficients and shares of the null deviance, or the reason why the conditions cannot tell them apart.
    """
    whole = design(conditions)
    between = (accepted > 0) & (accepted < n)
    if np.linalg.matrix_rank(whole[:, _ESSENTIAL]) < len(_ESSENTIAL):
        return Effects("the finished conditions do not vary gamma and proportion enough to tell their effects apart")
    if np.linalg.matrix_rank(whole[between][:, _ESSENTIAL]) < len(_ESSENTIAL):
        # A condition that predicts one class throughout bounds the coefficients on one side only: the others must tell them.
        return Effects(
            f"{len(between) - int(between.sum())} of {len(between)} conditions predict one class for every row, which "
            "fits coefficients of any size, and the others do not vary enough to tell the effects apart"
        )
    terms = _terms(whole[between])
    residual = int(between.sum()) - len(terms)
    if residual < FEWEST_RESIDUAL:
        return Effects(
            f"{count(int(between.sum()), 'condition')} for {len(terms)} coefficients leave"
            f" {count(residual, 'residual degree')} of freedom; at least {FEWEST_RESIDUAL} are needed to know how well the"
            " model fits"
        )
    fit = _fit(whole[:, terms], accepted, n)
    if fit.null <= 1e-9:
        return Effects("the predicted rate is the same in all conditions, so there is nothing to explain")
    explained = {"all": 1 - fit.deviance / fit.null}
    additive = _fit(whole[:, [0, *_MAIN]], accepted, n)
    for t in terms[1:]:  # the variant comes after gamma, whose sign it is
        rest = [0, *(m for m in _MAIN if m != t)] if t in _MAIN else [u for u in terms if u != t]
        fuller = additive if t in _MAIN else fit
        explained[TERMS[t]] = (_fit(whole[:, rest], accepted, n).deviance - fuller.deviance) / fit.null
    seeds = sorted({c.seed for c in conditions})
    seed_share = None
    if len(seeds) > 1:
        dummies = np.column_stack([[float(c.seed == s) for c in conditions] for s in seeds[1:]])
        with_seeds = _fit(np.column_stack([whole[:, terms], dummies]), accepted, n).deviance
        seed_share = SeedShare(len(seeds), (fit.deviance - with_seeds) / fit.null)
    estimates, spread, drawn = _with_intervals(whole[:, terms], fit, accepted, n, draws)
    return Effects(
        terms=tuple(Term(TERMS[t], e) for t, e in zip(terms, estimates, strict=True)),
        explained=explained,
        conditions=len(conditions),
        residual_degrees=len(conditions) - len(terms),
        lack_of_fit_sd=spread,
        would_pass=_would_pass(terms, whole[:, terms], fit, n, estimates, drawn),
        seeds=seed_share,
    )


def _would_pass(
    terms: Sequence[int], x: FloatArray, fit: Fit, n: int, estimates: Sequence[Estimate], drawn: FloatArray
) -> dict[str, float]:
    """Share of draws of the coefficients, shape (draws, terms), in which each criterion of `separable` would pass.

    A coefficient explains its square over its binomial variance (Wald's approximation of the deviance that it saves).
    """
    weight = n * fit.mean * (1 - fit.mean)
    variance = np.diag(np.linalg.inv((x * weight[:, None]).T @ x))
    small = drawn**2 / variance <= LARGEST_INTERACTION * (fit.null - fit.deviance)
    half = [(e.high or 0.0) - (e.value or 0.0) for e in estimates]
    shown = np.all([drawn[:, terms.index(t)] > half[terms.index(t)] for t in _MAIN], axis=0)
    shares = {"S2": shown & small[:, terms.index(4)]}
    if 5 in terms:
        shares["S2v"] = small[:, terms.index(5)]
    return {key: float(passes.mean()) for key, passes in shares.items()}


def _terms(x: FloatArray) -> list[int]:
    """The essential terms, and of the others those that can be told apart with residual degrees of freedom left."""
    terms = list(_ESSENTIAL)
    for extra in ((3, 5), (3,)):
        wider = sorted([*terms, *extra])
        if np.linalg.matrix_rank(x[:, wider]) == len(wider) and len(x) - len(wider) >= FEWEST_RESIDUAL:
            return wider
    return terms


def _with_intervals(
    x: FloatArray, fit: Fit, accepted: npt.NDArray[np.int64], n: int, draws: FloatArray
) -> tuple[list[Estimate], float, FloatArray]:
    """The coefficients with 95% intervals, the SD of conditions' logits around the model beyond the draws' noise, and draws
    of the coefficients with that noise and the draws', shape (draws, terms)."""
    from scipy.stats import t as student

    weight = n * fit.mean * (1 - fit.mean)
    information = (x * weight[:, None]).T @ x
    slopes = np.linalg.solve(information, x.T)  # a unit more accepted papers moves the coefficients by a column
    leave = np.eye(len(x)) - x @ slopes * weight  # residual of a move of logits

    def misfit(papers: FloatArray) -> FloatArray:
        """Weighted sum of squared residual logits of numbers of accepted papers, shape (sets, conditions)."""
        logits = (papers / weight) @ leave.T
        return np.asarray((weight * logits**2).sum(axis=1))

    apart = draws - draws.mean(axis=0)
    excess = float(misfit((accepted - n * fit.mean)[None])[0] - misfit(apart).mean())
    variance = max(excess, 0.0) / float(np.trace(leave.T @ (leave * weight[:, None])))
    own = (slopes * weight) @ (slopes * weight).T * variance
    of_draws = (apart @ slopes.T).var(axis=0, ddof=1)
    total = of_draws + np.diag(own)
    degrees = len(x) - x.shape[1]
    out = []
    for value, mine, lack in zip(fit.params, total, np.diag(own), strict=True):
        freedom = degrees * (mine / lack) ** 2 if lack > 0 else np.inf
        half = float(student.ppf(0.975, freedom)) * float(mine) ** 0.5
        out.append(Estimate(float(value), float(value) - half, float(value) + half))
    rng = np.random.default_rng(0)
    scatter = np.sqrt(variance * degrees / rng.chisquare(degrees, len(draws)))  # itself known to so many degrees
    lack_drawn = (scatter[:, None] * rng.standard_normal((len(draws), len(x)))) @ (slopes * weight).T
    return out, variance**0.5, fit.params + apart @ slopes.T + lack_drawn


def _fit(x: FloatArray, accepted: npt.NDArray[np.int64], n: int) -> Fit:
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of perfect separation and saturation, which are checked before and after
        fit: Any = GLM(np.column_stack([accepted, n - accepted]), x, family=Binomial()).fit()
        return Fit(np.asarray(fit.params), np.asarray(fit.mu), float(fit.deviance), float(fit.null_deviance))


def separable(fitted: Effects, missing: int, words: Words = ICLR.words, noise: str = "papers") -> list[Judged]:
    """Criteria S2 and S2v.

    S2 passes where both main effects are above 0 with their whole intervals and the interaction explains next to nothing;
    where it is only an interval that reaches 0, it is not testable.
    While conditions are missing, either is not testable: the fit may change with them.

    Args:
        fitted: what `effects` returned.
        missing: conditions that the model is about and that are not done.
        words: of the task.
        noise: what the draws vary, such as "papers and trainings".
    """
    s2 = ("S2", "Gamma and proportion act separably")
    s2v = ("S2v", "The proportion acts alike in both variants")
    if fitted.note:
        return [_unknown(key, f"It cannot be fitted: {fitted.note}.") for key in (s2, s2v)]
    known = {t.name: t.estimate for t in fitted.terms}
    gamma, mix = known["ln gamma"], known["logit proportion"]
    share = _share(fitted, "gamma x proportion")
    fits = share <= LARGEST_INTERACTION
    passed = (gamma.low or 0.0) > 0 and (mix.low or 0.0) > 0 and fits
    sentence = (
        f"Each unit of ln gamma moves the log-odds of the {words.rate} by {gamma.value:.2f}, each unit of logit "
        f"proportion by {mix.value:.2f}; their interaction carries {PERCENT.value(share)} of what the model explains "
        f"(at most {LARGEST_INTERACTION:.0%} counts as separable)."
    )
    out = [_judged(s2, passed, sentence, missing, fitted, noise)]
    if not passed and fits:
        both = f"ln gamma {PLAIN.full(gamma)}, logit proportion {PLAIN.full(mix)}"
        if (gamma.value or 0.0) > 0 and (mix.value or 0.0) > 0:  # precision is lacking, and nothing else
            why = f" That both effects are above 0 is not shown: {both}."
            untold = _judged(s2, None, sentence, missing, fitted, noise)
            out = [replace(untold, sentence=untold.sentence + why)]
        else:
            out = [replace(out[0], sentence=f"{out[0].sentence} Both effects must be above 0: {both}.")]
    if (apart := known.get("variant x proportion")) is None:
        out.append(_unknown(s2v, "The finished conditions cannot tell it from the other effects."))
        return out
    share = _share(fitted, "variant x proportion")
    sentence = (
        f"A unit of logit proportion moves the log-odds of the {words.rate} by {PLAIN.full(apart)} more in the"
        f" {words.positive} variant than in the {words.negative} variant, which carries {PERCENT.value(share)} of what the"
        f" model explains (at most {LARGEST_INTERACTION:.0%} counts as alike)."
    )
    out.append(_judged(s2v, share <= LARGEST_INTERACTION, sentence, missing, fitted, noise))
    return out


def _share(fitted: Effects, term: str) -> float:
    return fitted.explained[term] / fitted.explained["all"] if fitted.explained["all"] > 0 else 1.0


def _numbers(fitted: Effects) -> list[str]:
    lines = [f"{t.name}: {PLAIN.full(t.estimate)}" for t in fitted.terms[1:]]
    lines += [f"share of deviance explained by {name}: {PERCENT.value(x)}" for name, x in fitted.explained.items()]
    return [
        *lines,
        f"conditions scatter by {fitted.lack_of_fit_sd:.2f} log-odds around the model, beyond the draws' noise",
    ]


def _unknown(key: tuple[str, str], why: str) -> Judged:
    return Judged(*key, "not testable", why, [], None, "criterion 2" if key[0] == "S2" else "")


def _judged(
    key: tuple[str, str], passed: bool | None, sentence: str, missing: int, fitted: Effects, noise: str
) -> Judged:
    plan, numbers = "criterion 2" if key[0] == "S2" else "", _numbers(fitted)
    if missing:
        sentence += f" {count(missing, 'condition is', 'conditions are')} not done, and the fit may change with them."
    if missing or passed is None:
        return Judged(*key, "not testable", sentence, numbers, None, plan)
    support = fitted.would_pass[key[0]] if passed else 1 - fitted.would_pass[key[0]]
    sentence += f" The verdict is the same in {support:.1%} of draws of {noise}."
    return Judged(*key, "pass" if passed else "fail", sentence, numbers, support, plan)
