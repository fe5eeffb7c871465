"""`wlsweep run --until-decided`: which conditions are still worth a fine-tuning, and why the others are not.

First come the conditions that test the theory: both ends of each mix, where it predicts the largest shifts. Then those
that theory does not cover, and those that an open hypothesis hangs on and whose outcome the forecast leaves in doubt. Where
theory is refuted there is no forecast, and everything is worth it that a hypothesis without a verdict needs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wlsweep.analysis.forecast import RunForecast
from wlsweep.analysis.seeds import cell
from wlsweep.analysis.verdicts import SURE, known_margins
from wlsweep.spec.condition import baseline_of


class Decision(NamedTuple):
    """What to run next and what not to."""

    wanted: list[tuple[str, str]]
    """(condition, why), most informative first."""
    skipped: list[tuple[str, str]]
    """(condition, why not), in the order of the sweep."""

    @property
    def names(self) -> list[str]:
        """Conditions to run, most informative first."""
        return [name for name, _ in self.wanted]


def undecided(made: RunForecast) -> Decision:
    """Split the unfinished conditions of a sweep by whether their outcome still matters.

    Call it again after each finished condition: what was measured replaces its forecast, and doubts shrink.

    Args:
        made: a forecast of the run as it stands.
    """
    bits, why = doubts(made)
    shifts = {row.name: row.shift for row in made.rows}
    uncovered = {row.name: row.note for row in made.rows if not row.covered}
    asked = any(p.open for p in made.prospects)
    tests = made.theory.missing if asked and not made.theory.refuted else ()
    wanted: list[tuple[tuple[int, float], str, str]] = []
    skipped: list[tuple[str, str]] = []
    for c in made.conditions:
        if c.name in made.done or (baseline_of(c).name == c.name and c.seed == 0):
            continue
        worth = bits.get(cell(c), 0.0)
        if c.name in tests:
            wanted.append(((0, -abs(shifts[c.name])), c.name, "it tests the theory that forecasts rest on"))
        elif c.name in uncovered:
            wanted.append(((1, 0.0), c.name, f"theory does not cover it: {uncovered[c.name]}"))
        elif worth > 0:
            reasons = why[cell(c)]
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            wanted.append(((2, -worth), c.name, f"in doubt: {reasons[0]}{more}"))
        else:
            skipped.append((c.name, _why_not(made, c.name)))
    wanted.sort(key=lambda item: item[0])  # stable: equal worth stays in the order of the sweep
    return Decision([(name, reason) for _, name, reason in wanted], skipped)


def doubts(made: RunForecast) -> tuple[dict[str, float], dict[str, list[str]]]:
    """How much each cell could tell about open hypotheses.

    Returns:
        bits by cell (the summed binary entropy of doubtful claims about it; infinite where the forecast does not
        reach it), and by cell the doubtful claims in words.
    """
    bits: dict[str, float] = {}
    why: dict[str, list[str]] = {}
    for h, prospect in zip(made.hypotheses, made.prospects, strict=True):
        if not prospect.open or h.key == "S1":  # S1 is H1 and H2 over again
            continue
        values = made.draws[h.metric]
        # shared out over the claims: if each were as sure as this, the hypothesis would be forecast
        unsure = (1 - SURE) / len(h.claims) if h.claims else 0.0
        for claim, margin in zip(h.claims, known_margins(h, values), strict=True):
            p = None if margin is None else float(np.mean(margin > 0))
            if p is not None and (p >= 1 - unsure or p <= unsure):
                continue
            for name in claim.needs:
                reached = name in values
                worth = _entropy(p) if p is not None else 0.0 if reached else np.inf
                bits[name] = bits.get(name, 0.0) + worth
                if worth:
                    chance = "no forecast" if p is None else f"forecast {p:.0%}"
                    why.setdefault(name, []).append(f"{h.key}: {claim.text} ({chance})")
    return bits, why


def _entropy(p: float) -> float:
    return 0.0 if p in (0.0, 1.0) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def _why_not(made: RunForecast, name: str) -> str:
    row = next((r for r in made.rows if r.name == name), None)
    at = None if row is None or row.metrics is None else row.metrics["predicted_accept_rate"].interval
    if at is None:
        return "no open hypothesis hangs on it"
    return (
        f"its forecast {made.words.rate} is {at[0]:.0%} to {at[1]:.0%}, and with that every comparison that an"
        " open hypothesis needs of it is sure"
    )
