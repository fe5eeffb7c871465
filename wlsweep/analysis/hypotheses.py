"""The hypotheses and success criteria as code: each a set of claims about rates, judged pass, fail or not testable.

    >>> h = hypotheses(conditions)[0]                        # doctest: +SKIP
    >>> judge(h, {"accept_gamma2.0_prop1_2": 0.6, ...})      # doctest: +SKIP
    'pass'

A claim is a number that is above 0 exactly where it holds. The same claims are judged on measured rates (the verdict),
on bootstrap draws (how firm it is) and on forecast draws (whether it is settled before training). Verdicts are by the
measured values; "not testable" is said only where missing conditions could still change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from wlsweep.analysis.predictions import FloatArray
from wlsweep.analysis.records import Judged, Verdict
from wlsweep.analysis.seeds import cell
from wlsweep.spec.condition import Condition

Metric = Literal["predicted_accept_rate", "accuracy"]
Rule = Literal["all", "most", "covers"]
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
    """Claims and how they combine: all must hold, most must hold, or ("covers") one of each of two kinds must."""

    key: str
    title: str
    metric: Metric
    claims: tuple[Claim, ...]
    rule: Rule = "all"
    absent: str = ""
    """What the sweep does not declare but the hypothesis is about; such a hypothesis can fail but not pass."""
    beside: str = ""
    """What the sweep declares but the hypothesis is not about."""


def hypotheses(declared: Sequence[Condition], shifts: Mapping[str, float]) -> list[Hypothesis]:
    """All hypotheses and success criteria for the cells of a sweep, in the order of the plan.

    Args:
        declared: the conditions of the sweep (seeds of one condition count as one cell, by their mean).
        shifts: expected log-odds shift by cell.
    """
    cells = list({cell(c): replace(c, seed=0) for c in declared}.values())
    by_name = {c.name: c for c in cells}
    gamma_steps = list(_gamma_steps(cells, by_name))
    mix_steps = list(_mix_steps(cells))
    plain = [c for c in cells if c.group == ""]
    top, bottom = Condition("accept", 8.0, 2), Condition("reject", 8.0, 2)
    balanced = [c for c in plain if c.k == 2 and c.gamma <= 8.0]
    extremes = [_above(top, c) for c in balanced if c.name != top.name and top.name in by_name]
    extremes += [
        _above(c, bottom) for c in balanced if c.name not in (bottom.name, top.name) and bottom.name in by_name
    ]
    # the plan bounds gammas 2 and 4 at 1/8; theory puts accept gamma 8 there back at the baseline's rate
    eighth = [c for c in plain if c.k == 8 and c.gamma <= 4.0]
    extremes += [_below(c, 0.5) for c in eighth if c.variant == "accept"]
    extremes += [_below(c, 0.2) for c in eighth if c.variant == "reject"]
    beyond = [c.name for c in plain if (c.k == 2 and c.gamma > 8.0) or (c.k == 8 and c.gamma > 4.0)]
    lacking = [c.name for c in (top, bottom) if c.name not in by_name]
    lacking += [f"{v} conditions at 1/8" for v in ("accept", "reject") if not any(c.variant == v for c in eighth)]
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
        and (base := Condition("baseline", 1.0, 2)).name in by_name
    ]
    spread = [_below(c, 0.3, strict=False) for c in plain] + [_over(c, 0.7, strict=False) for c in plain]
    rate: Metric = "predicted_accept_rate"
    return [
        Hypothesis("H1", "The predicted accept rate follows gamma", rate, tuple(gamma_steps)),
        Hypothesis("H2", "The rate falls as the reject share grows", rate, tuple(mix_steps)),
        Hypothesis(
            "H3",
            "The extremes lie where they should",
            rate,
            tuple(extremes),
            absent=", ".join(lacking),
            beside=f"gammas above 8 at 1/2 and above 4 at 1/8 ({', '.join(beyond)})" if beyond else "",
        ),
        Hypothesis("S1", "Monotone in gamma and in proportion throughout", rate, (*gamma_steps, *mix_steps)),
        Hypothesis("S3", "The rates cover 30 to 70%", rate, tuple(spread), "covers"),
        Hypothesis("S4", "Accuracy above 60% for most", "accuracy", tuple(_over(c, 0.6) for c in cells), "most"),
        Hypothesis(
            "S5",
            "Accept above reject at equal gamma and proportion",
            rate,
            tuple(opposed),
            beside="gammas below 1, which turn the order round" if any(c.gamma < 1 for c in cells) else "",
        ),
        Hypothesis("C1", "Where theory expects no shift, nothing moves", rate, tuple(still)),
    ]


def _gamma_steps(cells: Iterable[Condition], by_name: Mapping[str, Condition]) -> Iterable[Claim]:
    lines: dict[tuple[str, int, str], list[Condition]] = {}
    for c in cells:
        if c.variant != "baseline":
            lines.setdefault((c.variant, c.k, c.group), []).append(c)
    for (variant, _, _), line in lines.items():
        base = replace(line[0], variant="baseline", gamma=1.0)
        ladder = sorted([*line, *([base] if base.name in by_name else [])], key=lambda c: c.gamma)
        for lower, upper in pairwise(ladder):
            yield _above(upper, lower) if variant == "accept" else _above(lower, upper)


def _mix_steps(cells: Iterable[Condition]) -> Iterable[Claim]:
    lines: dict[tuple[str, float, str], list[Condition]] = {}
    for c in cells:
        lines.setdefault((c.variant, c.gamma, c.group), []).append(c)
    for line in lines.values():
        ladder = sorted(line, key=lambda c: c.k)
        yield from (_above(more, fewer) for more, fewer in pairwise(ladder))


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
        f"{a.name} within {SAME_RATE:.0%} of {b.name}",
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


def judge(h: Hypothesis, measured: Mapping[str, float], draws: Values) -> Judged:
    """The verdict on measured values, one sentence, the numbers, and how many bootstrap draws agree.

    Args:
        h: the hypothesis.
        measured: its metric by cell; cells that are not done are absent.
        draws: the same in every bootstrap draw.
    """
    point = {name: np.array([value]) for name, value in measured.items()}
    code = int(verdicts(h, point, 1)[0])
    margins = known_margins(h, point)
    held = [c for c, m in zip(h.claims, margins, strict=True) if m is not None and m[0] > 0]
    broken = [c for c, m in zip(h.claims, margins, strict=True) if m is not None and not m[0] > 0]
    unknown = [c for c, m in zip(h.claims, margins, strict=True) if m is None]
    size = max((len(x) for x in draws.values()), default=0)
    support = None
    if size and code != _OPEN:
        support = float(np.mean(verdicts(h, draws, size) == code))
    return Judged(
        h.key,
        h.title,
        _SAID[code],
        _sentence(h, code, held, broken, unknown, measured, support, _beyond_chance(broken, draws)),
        [_number(c, measured) for c in (*broken, *held)] + [f"not testable yet: {c.text}" for c in unknown],
        support,
    )


def _beyond_chance(broken: Sequence[Claim], draws: Values) -> int | None:
    """How many of the claims that do not hold are wrong in at least 97.5% of the draws too, a tie counting as neither;
    None without draws."""
    known = [c.margin(draws) for c in broken if all(n in draws for n in c.needs)]
    return sum(float(np.mean(margin >= 0)) <= 0.025 for margin in known) if len(known) == len(broken) else None


def _number(c: Claim, measured: Mapping[str, float]) -> str:
    holds = c.margin({n: np.array([measured[n]]) for n in c.needs})[0] > 0
    return f"{'holds' if holds else 'FAILS'}: {c.text} ({' against '.join(f'{measured[n]:.1%}' for n in c.needs)})"


def _sentence(
    h: Hypothesis,
    code: int,
    held: Sequence[Claim],
    broken: Sequence[Claim],
    unknown: Sequence[Claim],
    measured: Mapping[str, float],
    support: float | None,
    beyond: int | None,
) -> str:
    if not h.claims:
        return "The sweep declares no conditions that this is about."
    firm = "" if support is None else f" The verdict is the same in {support:.1%} of bootstrap resamples."
    if h.rule == "covers":
        on = [measured[n] for n in {n for c in h.claims for n in c.needs} if n in measured]
        span = f"Measured rates run from {min(on):.1%} to {max(on):.1%}." if on else "No rate is measured yet."
        return span + (" Conditions that are not done could still widen them." if code == _OPEN else "") + firm
    tested = len(held) + len(broken)
    done = f"{len(held)} of {tested} testable comparison{'s hold' if tested != 1 else ' holds'}"
    if h.rule == "most":
        done = f"{len(held)} of {len(held) + len(broken)} measured conditions are above the bound"
    parts = [done + "."] if held or broken else []
    if broken and h.rule == "all":
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        parts.append(f"It fails at: {_number(broken[0], measured).removeprefix('FAILS: ')}{more}.")
        if beyond is not None:
            parts.append(f"{beyond} of the {len(broken)} failed by more than the draw of papers explains.")
    if unknown:
        parts.append(f"{len(unknown)} cannot be tested: a condition that they need is not done, or not selected.")
    if h.absent and code != _NO:
        parts.append(f"The sweep does not declare {h.absent}.")
    if h.beside:
        parts.append(f"It is not about {h.beside}.")
    return " ".join(parts) + firm
