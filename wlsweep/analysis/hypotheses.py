"""The hypotheses and success criteria as code: each a set of claims about rates, judged pass, fail or not testable.

    >>> h = hypotheses(conditions)[0]                        # doctest: +SKIP
    >>> judge(h, {"accept_gamma2.0_prop1_2": 0.6, ...})      # doctest: +SKIP
    'pass'

A claim is a number that is above 0 exactly where it holds. The same claims are judged on measured rates (the verdict),
on draws (how firm it is) and on forecast draws (what the full sweep would say). A claim of order is about all pairs of a
ladder, not neighbours only, so that a missing condition hides no violation on either side of it. Verdicts are by the
measured values; "not testable" is said only where missing conditions could still change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from wlsweep.analysis.evaluation_records import Judged, MetricName, Verdict
from wlsweep.analysis.loaded_run import FloatArray
from wlsweep.analysis.seeds import cell
from wlsweep.estimate import PERCENT, POINTS, Estimate, count
from wlsweep.spec.condition import Condition
from wlsweep.spec.task import ICLR, Words, capital

Rule = Literal["all", "most", "covers", "same"]
Values = Mapping[str, FloatArray]
"""Cell name -> the metric, any one shape (draws,)."""

_NO, _YES, _OPEN = 0, 1, 2
_SAID: dict[int, Verdict] = {_NO: "fail", _YES: "pass", _OPEN: "not testable"}
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
    bounds = [_below(c, 0.5) for c in eighth if c.variant == "accept"]
    bounds += [_below(c, 0.2) for c in eighth if c.variant == "reject"]
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
    spread = [_below(c, 0.3, strict=False) for c in plain] + [_over(c, 0.7, strict=False) for c in plain]
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
            tuple(_over(c, 0.6) for c in cells),
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


def _below(c: Condition, bound: float, strict: bool = True) -> Claim:
    edge = 0.0 if strict else 1e-12
    return Claim(f"{c.name} below {bound:.0%}", (c.name,), lambda v: bound - v[c.name] + edge)


def _over(c: Condition, bound: float, strict: bool = True) -> Claim:
    edge = 0.0 if strict else 1e-12
    return Claim(f"{c.name} above {bound:.0%}", (c.name,), lambda v: v[c.name] - bound + edge)


def _same(a: Condition, b: Condition) -> Claim:
    return Claim(
        f"{a.name} within {100 * SAME_RATE:.0f} points of {b.name}",
        (a.name, b.name),
        lambda v: SAME_RATE - np.abs(v[a.name] - v[b.name]),
    )


def known_margins(h: Hypothesis, values: Values) -> list[FloatArray | None]:
    """The margin of every claim, None where a cell that it needs has no value."""
    return [c.margin(values) if all(n in values for n in c.needs) else None for c in h.claims]


def verdicts(h: Hypothesis, values: Values, size: int) -> npt.NDArray[np.int64]:
    """The verdict in every draw, shape (size,): 0 fail, 1 pass, 2 not testable.

    An unknown claim counts against neither answer: a hypothesis is decided as soon as no outcome of what is missing
    could change it.
    """
    margins = known_margins(h, values)
    if not margins:
        return np.full(size, _OPEN)
    yes = np.zeros(size, dtype=np.int64)
    no = np.zeros(size, dtype=np.int64)
    if h.rule == "covers":
        half = len(margins) // 2
        low = _any(margins[:half], size)
        high = _any(margins[half:], size)
        complete = all(m is not None for m in margins)
        return np.where(low & high, _YES, _NO if complete else _OPEN)
    for m in margins:
        if m is not None:
            yes += m > 0
            no += ~(m > 0)
    if h.rule == "most":
        return np.where(2 * yes > len(margins), _YES, np.where(2 * no >= len(margins), _NO, _OPEN))
    complete = not h.absent and all(m is not None for m in margins)
    return np.where(no > 0, _NO, _YES if complete else _OPEN)


def _any(margins: Sequence[FloatArray | None], size: int) -> npt.NDArray[np.bool_]:
    out = np.zeros(size, dtype=bool)
    for m in margins:
        if m is not None:
            out |= m > 0
    return out


def judge(h: Hypothesis, measured: Mapping[str, float], draws: Values, noise: str = "papers") -> Judged:
    """The verdict on measured values, one sentence, the numbers, and how many draws agree.

    Args:
        h: the hypothesis.
        measured: its metric by cell; cells that are not done are absent.
        draws: the same in every draw of what could have come out differently; a draw in which a cell has no such number
            (NaN) is left out.
        noise: what the draws vary, such as "papers and trainings".
    """
    point = {name: np.array([value]) for name, value in measured.items()}
    code = int(verdicts(h, point, 1)[0])
    margins = known_margins(h, point)
    judged = [(c, None if m is None else bool(m[0] > 0)) for c, m in zip(h.claims, margins, strict=True)]
    draws = _with_numbers(h, {name: at for name, at in draws.items() if name in measured})
    size = max((len(x) for x in draws.values()), default=0)
    support = float(np.mean(verdicts(h, draws, size) == code)) if size and code != _OPEN else None
    firm = "" if support is None else f" The verdict is the same in {support:.1%} of draws of {noise}."
    if h.rule == "same" and size and code == _YES and not _shown_to_be_the_same(h, draws):
        code, support = _OPEN, None
        firm = f" That they are the same is not shown: counting {noise}, the difference could be larger (5% level)."
    sentence = _sentence(h, code, judged, measured, _beyond_chance(judged, draws), noise)
    return Judged(h.key, h.title, _SAID[code], sentence + firm, _numbers(h, judged, measured, draws), support, h.plan)


def _with_numbers(h: Hypothesis, draws: Values) -> Values:
    """The draws in which every cell that the hypothesis is about has a number; none where there is no such draw."""
    needed = [at for name, at in draws.items() if any(name in c.needs for c in h.claims)]
    known = np.isfinite(needed).all(axis=0) if needed else np.array([True])
    if known.all():
        return draws
    return {name: at[known] for name, at in draws.items()} if known.any() else {}


def _shown_to_be_the_same(h: Hypothesis, draws: Values) -> bool:
    """Two one-sided tests at 5% (Schuirmann 1987): the 90% interval of each difference lies inside the bound."""
    for claim in h.claims:
        low, high = np.quantile(_difference(claim, draws), [0.05, 0.95])
        if not -SAME_RATE < low <= high < SAME_RATE:
            return False
    return True


def _difference(claim: Claim, draws: Values) -> FloatArray:
    a, b = claim.needs
    return draws[a] - draws[b]


def _beyond_chance(judged: Sequence[tuple[Claim, bool | None]], draws: Values) -> int | None:
    """How many of the claims that do not hold are wrong in at least 97.5% of the draws too, a tie counting as neither;
    None without draws."""
    broken = [c for c, holds in judged if holds is False]
    known = [c.margin(draws) for c in broken if all(n in draws for n in c.needs)]
    return sum(float(np.mean(margin >= 0)) <= 0.025 for margin in known) if len(known) == len(broken) else None


def _rates(c: Claim, measured: Mapping[str, float]) -> str:
    return " against ".join(PERCENT.value(measured[n]) for n in c.needs)


def _numbers(
    h: Hypothesis, judged: Sequence[tuple[Claim, bool | None]], measured: Mapping[str, float], draws: Values
) -> list[str]:
    """The claims with their numbers, those that do not hold first; only what bears on the verdict."""
    if h.rule == "covers":  # that a rate is not at both ends is no failure: only those that reach an end are named
        return [f"{c.text} ({_rates(c, measured)})" for c, holds in judged if holds]
    words = {True: "holds", False: "fails" if h.rule != "most" else "not", None: "not testable yet"}
    order = {False: 0, True: 1, None: 2}
    lines = []
    for c, holds in sorted(judged, key=lambda item: order[item[1]]):
        line = f"{words[holds]}: {c.text}" + ("" if holds is None else f" ({_rates(c, measured)})")
        if h.rule == "same" and holds is not None and all(n in draws for n in c.needs):
            low, high = np.quantile(_difference(c, draws), [0.05, 0.95])
            value = measured[c.needs[0]] - measured[c.needs[1]]
            line += f"; difference {POINTS.full(Estimate(value, float(low), float(high)))} points, 90% interval"
        lines.append(line)
    return lines


def _sentence(
    h: Hypothesis,
    code: int,
    judged: Sequence[tuple[Claim, bool | None]],
    measured: Mapping[str, float],
    beyond: int | None,
    noise: str,
) -> str:
    if not h.claims:
        return "The sweep declares no conditions that this is about."
    broken = [c for c, holds in judged if holds is False]
    unknown = sum(holds is None for _, holds in judged)
    tested = len(judged) - unknown
    held = tested - len(broken)
    if h.rule == "covers":
        on = [measured[n] for n in {n for c in h.claims for n in c.needs} if n in measured]
        span = (
            f"Measured rates run from {PERCENT.value(min(on))} to {PERCENT.value(max(on))}."
            if on
            else "No rate is measured yet."
        )
        return span + (" Conditions that are not done could still widen them." if code == _OPEN else "")
    done = f"{held} of {tested} testable comparison{'s hold' if tested != 1 else ' holds'}"
    if h.rule == "most":
        done = f"{held} of {tested} measured conditions are above the bound"
    if h.rule == "same":
        done = f"Measured rates are within {100 * SAME_RATE:.0f} points in {held} of {count(tested, 'comparison')}"
    parts = [done + "."] if tested else []
    if broken and h.rule in ("all", "same"):
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        parts.append(f"It fails at: {broken[0].text} ({_rates(broken[0], measured)}){more}.")
        if beyond is not None and h.rule == "all":
            parts.append(f"{beyond} of the {len(broken)} failed by more than the draw of {noise} explains.")
    if unknown:
        parts.append(
            f"{unknown} cannot be tested: a condition that they need, or a seed of it, is not done, not selected, or has no"
            " such number (precision where the positive class is never predicted)."
        )
    if h.absent and code != _NO:
        parts.append(f"The sweep does not declare {h.absent}.")
    if h.beside:
        parts.append(f"It is not about {h.beside}.")
    return " ".join(parts)
