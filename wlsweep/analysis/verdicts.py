"""Hypotheses judged: pass, fail or not testable.

    >>> judge(hypotheses(conditions, shifts)[0], {"accept_gamma2.0_prop1_2": 0.6, ...}, draws).verdict      # doctest: +SKIP
    'pass'

The same claims are judged on measured rates (the verdict), on draws (how firm it is) and on forecast draws (what the full
sweep would say). Verdicts are by the measured values; "not testable" is said only where missing conditions could still
change the answer. A verdict is decided before the sweep is done where no outcome of what is not measured could change it. A
forecast verdict is what the full sweep would say in at least 97.5% of the draws; it never counts as the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wlsweep.analysis.evaluation_records import Judged, Verdict
from wlsweep.analysis.hypotheses import SAME_RATE, Claim, Hypothesis, Values
from wlsweep.estimate import PERCENT, POINTS, Estimate, count
from wlsweep.run.predictions import FloatArray

SURE = 0.975
"""Least share of draws in which a forecast verdict is the same."""
_NO, _YES, _OPEN = 0, 1, 2
_SAID: dict[int, Verdict] = {_NO: "fail", _YES: "pass", _OPEN: "not testable"}


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
            parts.append(
                f"Each taken alone, {beyond} of the {len(broken)} failed by more than the draw of {noise} explains."
            )
        ends = [c for c in broken if len(c.needs) > 1 and {measured[n] for n in c.needs} in ({0.0}, {1.0})]
        if ends and h.rule == "all":
            parts.append(f"In {len(ends)} of them all are at 0% or all at 100%, where no difference could show.")
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


class Prospect(NamedTuple):
    """What is known of one hypothesis before the sweep is done."""

    key: str
    title: str
    decided: str | None
    """"pass" or "fail" where measurements alone decide it, whatever the rest will show."""
    forecast: str | None
    """"would pass" or "would fail" where a tested theory says so in nearly all draws."""
    p_pass: float | None
    """Share of draws in which it passes; None where measurements and forecasts do not reach all that it needs."""
    note: str = ""
    """What a pass of measured values does not say yet."""

    @property
    def open(self) -> bool:
        """Whether a further condition could still tell something."""
        return self.decided is None and self.forecast is None

    def sentence(self) -> str:
        """For the terminal and the page."""
        if self.decided:
            return f"decided by measurements: {self.decided}" + (self.note if self.decided == "pass" else "")
        if self.forecast and self.p_pass is not None:
            share = self.p_pass if self.forecast == "would pass" else 1 - self.p_pass
            return f"forecast: {self.forecast} (in {share:.1%} of draws)"
        if self.forecast:
            return f"forecast: {self.forecast}"
        return "open" if self.p_pass is None else f"open: passes in {self.p_pass:.1%} of draws"


def prospects(
    hypotheses: Sequence[Hypothesis], measured: Mapping[str, Values], values: Mapping[str, Values], size: int
) -> list[Prospect]:
    """Judge every hypothesis on measurements, then on measurements and forecasts.

    Args:
        hypotheses: all of a sweep.
        measured: by metric, by cell that is done, shape (size,).
        values: the same with forecast draws of other cells.
        size: draws.
    """
    out = []
    for h in hypotheses:
        known = verdicts(h, measured[h.metric], size)
        decided = "pass" if (known == _YES).all() else "fail" if (known == _NO).all() else None
        codes = verdicts(h, values[h.metric], size)
        passes, fails = float(np.mean(codes == _YES)), float(np.mean(codes == _NO))
        ahead = "would pass" if passes >= SURE else "would fail" if fails >= SURE else None
        reached = all(n in values[h.metric] for c in h.claims for n in c.needs) and bool(h.claims)
        note = (
            "; that the difference could not be larger is for the page's two one-sided tests"
            if h.rule == "same"
            else ""
        )
        out.append(Prospect(h.key, h.title, decided, None if decided else ahead, passes if reached else None, note))
    return out
