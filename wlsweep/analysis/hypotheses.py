"""The hypotheses and success criteria as code: each a set of claims about rates, which `verdicts` judges.

    >>> [claim.text for claim in hypotheses(conditions, shifts)[0].claims][:1]      # doctest: +SKIP
    ['accept_gamma2.0_prop1_2 above baseline_gamma1.0_prop1_2']

A claim is a number that is above 0 exactly where it holds. A claim of order is about all pairs of a ladder, not neighbours
only, so that a missing condition hides no violation on either side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from wlsweep.analysis.evaluation_records import MetricName
from wlsweep.analysis.seeds import cell
from wlsweep.run.predictions import FloatArray
from wlsweep.spec.condition import Condition
from wlsweep.spec.task import ICLR, Words, capital

Rule = Literal["all", "most", "covers", "same"]
Values = Mapping[str, FloatArray]
"""Cell name -> the metric, any one shape (draws,)."""

SAME_RATE = 0.05
"""Largest difference of predicted accept rates that still counts as "the same" where theory expects no shift."""
NO_SHIFT = 0.05
"""Expected log-odds shifts below it count as none."""


@dataclass(frozen=True)
class Claim:
    """One comparison; holds exactly where `margin` is above 0."""

    text: str
    needs: tuple[str, ...]
    """Cells that it is about."""
    margin: Callable[[Values], FloatArray]


@dataclass(frozen=True)
class Hypothesis:
    """Claims and how they combine.

    "all" must hold, "most" must hold, one of each of two kinds must ("covers"), or all must be shown to be the same ("same":
    two one-sided tests at 5%, so a difference that could be larger than the bound is no pass).
    """

    key: str
    title: str
    metric: MetricName
    claims: tuple[Claim, ...]
    rule: Rule = "all"
    plan: str = ""
    """Which sentence of the experiment's plan it is, where that has a number of its own."""
    absent: str = ""
    """What the sweep does not declare but the hypothesis is about; such a hypothesis can fail but not pass."""
    beside: str = ""
    """What the sweep declares but the hypothesis is not about."""
    further: bool = False
    """A further sentence of the plan, judged once it is measured; no condition is trained for its sake."""


def hypotheses(
    declared: Sequence[Condition], shifts: Mapping[str, float], words: Words = ICLR.words
) -> list[Hypothesis]:
    """All hypotheses and success criteria for the cells of a sweep, within each kind of fine-tuning; S2 is judged by
    `effects`. Other labels than ICLR's have none of H3 and S4, whose bounds were set for ICLR papers.

    Args:
        declared: the conditions of the sweep (seeds of one condition count as one cell, by their mean).
        shifts: expected log-odds shift by cell.
        words: of the task, for titles.
    """
    kinds = kinds_of(declared)
    found = []
    for i, (rank, conditions) in enumerate(kinds.items()):
        for h in _of_one_kind(conditions, shifts, rank, words):
            if words.labels != ICLR.labels:
                if h.key in ("H3", "S4"):
                    continue
                h = replace(h, plan="", further=h.further and h.key != "H3e")
            key, title = name_of(h.key, h.title, conditions[0].finetuning, i, len(kinds))
            found.append(replace(h, key=key, title=title))
    return found


def kinds_of(conditions: Sequence[Condition]) -> dict[int, list[Condition]]:
    """Conditions by kind of fine-tuning: 0 for full, or the rank of adapters; in the order of the sweep."""
    found: dict[int, list[Condition]] = {}
    for c in conditions:
        found.setdefault(c.lora, []).append(c)
    return found


def name_of(key: str, title: str, finetuning: str, place: int, kinds: int) -> tuple[str, str]:
    """Key and title of a verdict; where a sweep has several kinds of fine-tuning both say which, the first one's key not."""
    if kinds == 1:
        return key, title
    return (f"{key} {finetuning}" if place else key), f"{title} ({finetuning})"


def _of_one_kind(
    declared: Sequence[Condition], shifts: Mapping[str, float], rank: int, words: Words
) -> list[Hypothesis]:
    cells = list({cell(c): replace(c, seed=0) for c in declared}.values())
    by_name = {c.name: c for c in cells}
    gammas, mixes = list(_gamma_ladders(cells, by_name)), list(_mix_ladders(cells))
    rising = tuple(claim for ladder in gammas for claim in _ordered(ladder))
    falling = tuple(claim for ladder in mixes for claim in _ordered(ladder))
    precision = tuple(claim for ladder in gammas for claim in _ordered(ladder[::-1]))
    plain = [c for c in cells if replace(c, lora=0).group == ""]
    outermost, lacking = _outermost(plain, by_name, rank)
    # the plan bounds gammas 2 and 4 at 1/8; theory puts accept gamma 8 there back at the baseline's rate
    eighth = [c for c in plain if c.k == 8 and c.gamma <= 4.0]
    bounds = [_bounded(c, "below", 0.5) for c in eighth if c.variant == "accept"]
    bounds += [_bounded(c, "below", 0.2) for c in eighth if c.variant == "reject"]
    beyond = [c.name for c in plain if (c.k == 2 and c.gamma > 8.0) or (c.k == 8 and c.gamma > 4.0)]
    unnamed = [v for v in ("accept", "reject") if not any(c.variant == v for c in eighth)]
    unbounded = [f"{words.variant(v)} conditions at 1/8" for v in unnamed]
    opposed = [
        _above(c, other)
        for c in cells
        if c.variant == "accept" and c.gamma > 1 and (other := replace(c, variant="reject")).name in by_name
    ]
    still = [
        _same(c, base)
        for c in plain
        if c.variant != "baseline"
        and abs(shifts.get(c.name, 1.0)) < NO_SHIFT
        and (base := Condition("baseline", 1.0, 2, lora=rank)).name in by_name
    ]
    spread = [_bounded(c, "below", 0.3, strict=False) for c in plain] + [
        _bounded(c, "above", 0.7, strict=False) for c in plain
    ]
    steps = tuple(_steps(cells, by_name))
    rate: MetricName = "predicted_accept_rate"
    return [
        Hypothesis("H1", f"The predicted {words.rate} follows gamma", rate, rising, plan="criterion 1"),
        Hypothesis(
            "H1r", f"Recall of {words.positives} follows gamma as the rate does", "recall", rising, further=True
        ),
        Hypothesis(
            "H1p",
            f"Precision of {words.positives} moves the other way",
            "precision",
            precision,
            further=True,
        ),
        Hypothesis("H1s", "The step from gamma 4 to 8 is larger than from 2 to 4", rate, steps, further=True),
        Hypothesis("H2", f"The rate falls as the share of {words.negatives} grows", rate, falling),
        Hypothesis(
            "H3",
            "Gamma 8 outermost at 1/2, rates at 1/8 below 50%, 20%",
            rate,
            (*outermost, *bounds),
            absent=", ".join([*lacking, *unbounded]),
            beside=f"gammas above 8 at 1/2 and above 4 at 1/8 ({', '.join(beyond)})" if beyond else "",
        ),
        Hypothesis(
            "H3e",
            "Gamma 8 gives the most extreme rates at 1/2",
            rate,
            tuple(outermost),
            plan="criterion 5",
            absent=", ".join(lacking),
            further=True,
        ),
        Hypothesis("S1", "Monotone in gamma and in proportion throughout", rate, (*rising, *falling)),
        Hypothesis("S3", "The rates cover 30 to 70%", rate, tuple(spread), "covers", plan="criterion 3"),
        Hypothesis(
            "S4",
            "Accuracy above 60% for most",
            "accuracy",
            tuple(_bounded(c, "above", 0.6) for c in cells),
            "most",
            plan="criterion 4",
        ),
        Hypothesis(
            "S5",
            f"{capital(words.positive)} above {words.negative} at equal gamma and proportion",
            rate,
            tuple(opposed),
            beside="gammas below 1, which turn the order round" if any(c.gamma < 1 for c in cells) else "",
        ),
        Hypothesis(
            "C1",
            f"Where no shift is expected, rates stay within {100 * SAME_RATE:.0f} points",
            rate,
            tuple(still),
            "same",
        ),
    ]


def _outermost(
    plain: Sequence[Condition], by_name: Mapping[str, Condition], rank: int
) -> tuple[list[Claim], list[str]]:
    """Gamma 8 against every other balanced condition, and which of the two conditions the sweep does not declare."""
    top, bottom = Condition("accept", 8.0, 2, lora=rank), Condition("reject", 8.0, 2, lora=rank)
    balanced = [c for c in plain if c.k == 2 and c.gamma <= 8.0]
    claims = [_above(top, c) for c in balanced if c.name != top.name and top.name in by_name]
    claims += [_above(c, bottom) for c in balanced if c.name not in (bottom.name, top.name) and bottom.name in by_name]
    return claims, [c.name for c in (top, bottom) if c.name not in by_name]


def _gamma_ladders(cells: Iterable[Condition], by_name: Mapping[str, Condition]) -> Iterable[list[Condition]]:
    """The cells that differ in gamma alone, the plain one of their mix included, by rising expected rate."""
    lines: dict[tuple[str, int, str], list[Condition]] = {}
    for c in cells:
        if c.variant != "baseline":
            lines.setdefault((c.variant, c.k, c.group), []).append(c)
    for line in lines.values():
        base = replace(line[0], variant="baseline", gamma=1.0)
        yield sorted([*line, *([base] if base.name in by_name else [])], key=lambda c: c.signed_log_gamma)


def _mix_ladders(cells: Iterable[Condition]) -> Iterable[list[Condition]]:
    """The cells that differ in the mix alone, by rising expected rate."""
    lines: dict[tuple[str, float, str], list[Condition]] = {}
    for c in cells:
        lines.setdefault((c.variant, c.gamma, c.group), []).append(c)
    for line in lines.values():
        yield sorted(line, key=lambda c: -c.k)


def _ordered(ladder: Sequence[Condition]) -> Iterable[Claim]:
    """Each later one is above each earlier one, neighbours first."""
    pairs = sorted(combinations(range(len(ladder)), 2), key=lambda pair: pair[1] - pair[0])
    yield from (_above(ladder[j], ladder[i]) for i, j in pairs)


def _steps(cells: Sequence[Condition], by_name: Mapping[str, Condition]) -> Iterable[Claim]:
    for c in cells:
        four, eight = replace(c, gamma=4.0), replace(c, gamma=8.0)
        if c.variant == "baseline" or c.gamma != 2.0 or not {four.name, eight.name} <= set(by_name):
            continue
        yield _larger_step(c, four, eight, 1.0 if c.variant == "accept" else -1.0)


def _larger_step(two: Condition, four: Condition, eight: Condition, sign: float) -> Claim:
    return Claim(
        f"the step from {four.name} to {eight.name} is larger than that from {two.name}",
        (two.name, four.name, eight.name),
        lambda v: sign * ((v[eight.name] - v[four.name]) - (v[four.name] - v[two.name])),
    )


def _above(a: Condition, b: Condition) -> Claim:
    return Claim(f"{a.name} above {b.name}", (a.name, b.name), lambda v: v[a.name] - v[b.name])


def _bounded(c: Condition, side: Literal["above", "below"], bound: float, strict: bool = True) -> Claim:
    sign, edge = 1.0 if side == "above" else -1.0, 0.0 if strict else 1e-12
    return Claim(f"{c.name} {side} {bound:.0%}", (c.name,), lambda v: sign * (v[c.name] - bound) + edge)


def _same(a: Condition, b: Condition) -> Claim:
    return Claim(
        f"{a.name} within {100 * SAME_RATE:.0f} points of {b.name}",
        (a.name, b.name),
        lambda v: SAME_RATE - np.abs(v[a.name] - v[b.name]),
    )
