"""Success criterion S2, judged from the logistic model: gamma and the mix act, each on its own."""

from __future__ import annotations

from wlsweep.analysis.records import Effects, Judged
from wlsweep.estimate import PLAIN

LARGEST_INTERACTION = 0.05
"""Largest share of the explained deviance that the interaction may carry if the effects are to count as separable."""


def separable(fitted: Effects, missing: int) -> Judged:
    """Pass where both main effects are above 0 with their whole intervals and the interaction explains next to nothing.

    Args:
        fitted: what `effects` returned.
        missing: conditions of the sweep that are not done.
    """
    key, title = "S2", "The effects of gamma and of the proportion are separable"
    if fitted.note:
        return Judged(key, title, "not testable", f"It cannot be fitted: {fitted.note}.", [], None)
    gamma, mix = fitted.term("ln gamma"), fitted.term("logit proportion")
    explained = fitted.explained
    share = explained["interaction"] / explained["all"] if explained["all"] > 0 else 1.0
    passed = (gamma.low or 0) > 0 and (mix.low or 0) > 0 and share <= LARGEST_INTERACTION
    sentence = (
        f"Each unit of ln gamma moves the log-odds of being accepted by {gamma.value:.2f}, each unit of logit "
        f"proportion by {mix.value:.2f}; their interaction carries {share:.1%} of what the model explains "
        f"(at most {LARGEST_INTERACTION:.0%} counts as separable)."
    )
    if missing:
        sentence += f" {missing} conditions are not done; the fit may change with them."
    numbers = [f"{t.name}: {PLAIN.full(t.estimate)}" for t in fitted.terms[1:]]
    numbers += [f"share of deviance explained by {name}: {value:.1%}" for name, value in explained.items()]
    return Judged(key, title, "pass" if passed else "fail", sentence, numbers, None)
