"""Which hypotheses a forecast settles, and which conditions the unsettled ones hang on.

A hypothesis is settled where its verdict is the same in at least 97.5% of the forecast's draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wlsweep.analysis.hypotheses import Hypothesis, Values, known_margins, verdicts

SURE = 0.975


class Prospect(NamedTuple):
    """What the forecast says of one hypothesis."""

    key: str
    title: str
    settled: str | None
    """"pass" or "fail" where it is settled."""
    p_pass: float | None
    """Share of draws in which it passes; None where the forecast does not reach all that it needs."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return self._asdict()


def prospects(hypotheses: Sequence[Hypothesis], values: Mapping[str, Values], size: int) -> list[Prospect]:
    """Judge every hypothesis on forecast draws.

    Args:
        hypotheses: all of a sweep.
        values: by metric, by cell, forecast draws of shape (size,).
        size: draws.
    """
    out = []
    for h in hypotheses:
        codes = verdicts(h, values[h.metric], size)
        passes, fails = float(np.mean(codes == 1)), float(np.mean(codes == 0))
        settled = "pass" if passes >= SURE else "fail" if fails >= SURE else None
        reached = all(n in values[h.metric] for c in h.claims for n in c.needs) and bool(h.claims)
        out.append(Prospect(h.key, h.title, settled, passes if reached else None))
    return out


def doubts(
    hypotheses: Sequence[Hypothesis], values: Mapping[str, Values], size: int
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """How much each cell could tell about unsettled hypotheses.

    Returns:
        bits by cell (the summed binary entropy of doubtful claims about it; infinite where the forecast does not
        reach it), and by cell the doubtful claims in words.
    """
    bits: dict[str, float] = {}
    why: dict[str, list[str]] = {}
    for h, prospect in zip(hypotheses, prospects(hypotheses, values, size), strict=True):
        if prospect.settled or h.key == "S1":  # S1 is H1 and H2 over again
            continue
        # shared out over the claims: if each were as sure as this, the hypothesis would be settled
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
