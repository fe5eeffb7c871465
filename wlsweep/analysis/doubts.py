"""What measurements decide, what a tested theory forecasts, and which conditions the open hypotheses hang on.

A verdict is decided where no outcome of what is not measured could change it. A forecast verdict is what the full sweep
would say in at least 97.5% of the draws; it never counts as the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wlsweep.analysis.hypotheses import Hypothesis, Values
from wlsweep.analysis.verdicts import known_margins, verdicts

SURE = 0.975


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
        decided = "pass" if (known == 1).all() else "fail" if (known == 0).all() else None
        codes = verdicts(h, values[h.metric], size)
        passes, fails = float(np.mean(codes == 1)), float(np.mean(codes == 0))
        ahead = "would pass" if passes >= SURE else "would fail" if fails >= SURE else None
        reached = all(n in values[h.metric] for c in h.claims for n in c.needs) and bool(h.claims)
        note = (
            "; that the difference could not be larger is for the page's two one-sided tests"
            if h.rule == "same"
            else ""
        )
        out.append(Prospect(h.key, h.title, decided, None if decided else ahead, passes if reached else None, note))
    return out


def doubts(
    hypotheses: Sequence[Hypothesis], measured: Mapping[str, Values], values: Mapping[str, Values], size: int
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """How much each cell could tell about open hypotheses.

    Returns:
        bits by cell (the summed binary entropy of doubtful claims about it; infinite where the forecast does not
        reach it), and by cell the doubtful claims in words.
    """
    bits: dict[str, float] = {}
    why: dict[str, list[str]] = {}
    for h, prospect in zip(hypotheses, prospects(hypotheses, measured, values, size), strict=True):
        if not prospect.open or h.key == "S1":  # S1 is H1 and H2 over again
            continue
        # shared out over the claims: if each were as sure as this, the hypothesis would be forecast
        unsure = (1 - SURE) / len(h.claims) if h.claims else 0.0
        for claim, margin in zip(h.claims, known_margins(h, values[h.metric]), strict=True):
            p = None if margin is None else float(np.mean(margin > 0))
            if p is not None and (p >= 1 - unsure or p <= unsure):
                continue
            for name in claim.needs:
                reached = name in values[h.metric]
                worth = _entropy(p) if p is not None else 0.0 if reached else np.inf
                bits[name] = bits.get(name, 0.0) + worth
                if worth:
                    chance = "no forecast" if p is None else f"forecast {p:.0%}"
                    why.setdefault(name, []).append(f"{h.key}: {claim.text} ({chance})")
    return bits, why


def _entropy(p: float) -> float:
    return 0.0 if p in (0.0, 1.0) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))
