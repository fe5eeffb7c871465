"""`wlsweep run --until-decided`: which conditions are still worth a fine-tuning, and why the others are not.

A condition is worth it while a hypothesis is open and hangs on a comparison with it that the forecast leaves in doubt.
Two kinds are never skipped on the forecast's word: those that theory does not reach, and the check of the theory itself
(where it expects no shift; without such a condition, the one with the largest expected shift).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from wlsweep.analysis.doubts import doubts
from wlsweep.analysis.forecast import RunForecast
from wlsweep.analysis.hypotheses import NO_SHIFT
from wlsweep.analysis.seeds import cell
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
    bits, why = doubts(made.hypotheses, made.draws, made.size)
    shifts = {row.name: row.shift for row in made.rows}
    notes = {row.name: row.note for row in made.rows}
    check = _checks(shifts, made.done)
    wanted: list[tuple[float, str, str]] = []
    skipped: list[tuple[str, str]] = []
    for c in made.conditions:
        if c.name in made.done or (baseline_of(c).name == c.name and c.seed == 0):
            continue
        worth = bits.get(cell(c), 0.0)
        if c.name in check:
            wanted.append((math.inf, c.name, "it checks the theory that the forecast rests on"))
        elif notes.get(c.name):
            wanted.append((math.inf, c.name, f"theory has no forecast for it: {notes[c.name]}"))
        elif worth > 0:
            reasons = why[cell(c)]
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            wanted.append((worth, c.name, f"in doubt: {reasons[0]}{more}"))
        else:
            skipped.append((c.name, _why_not(made, c.name)))
    wanted.sort(key=lambda item: -item[0])  # stable: equal worth stays in the order of the sweep
    return Decision([(name, reason) for _, name, reason in wanted], skipped)


def _checks(shifts: dict[str, float], done: frozenset[str]) -> set[str]:
    """Conditions that put the theory itself to the test; none are wanted once one is done."""
    still = [name for name, shift in shifts.items() if abs(shift) < NO_SHIFT and "baseline" not in name]
    wanted = still or sorted(shifts, key=lambda name: -abs(shifts[name]))[:1]
    return set() if done & set(wanted) else set(wanted[:1])


def _why_not(made: RunForecast, name: str) -> str:
    row = next((r for r in made.rows if r.name == name), None)
    at = None if row is None or row.metrics is None else row.metrics["predicted_accept_rate"]
    if at is None or at["low"] is None or at["high"] is None:
        return "no open hypothesis hangs on it"
    return (
        f"forecast to accept {at['low']:.0%} to {at['high']:.0%} of the papers, and with that every comparison that an"
        " open hypothesis needs of it is settled"
    )
