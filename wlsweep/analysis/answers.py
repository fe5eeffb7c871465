"""What a reader must know before trusting a number, said by the page and by the terminal alike."""

from __future__ import annotations

from collections.abc import Sequence

from wlsweep.analysis.evaluation_records import ModelResult
from wlsweep.estimate import count
from wlsweep.spec.task import ICLR, Words

_NAMED = 3
"""Conditions that are named one by one where the same holds of several."""


def unfinished(conditions: Sequence[ModelResult]) -> list[str]:
    """A line for each condition that is not done, with its cause; one for all of which the same is to be said."""
    alike: dict[tuple[str, str], list[str]] = {}
    for c in conditions:
        if not c.done:
            alike.setdefault((c.state, c.cause or ""), []).append(c.name)
    lines = []
    for (state, cause), names in alike.items():
        who = names if len(names) <= _NAMED else [f"{len(names)} conditions"]
        lines += [f"{name}: {state} ({cause})" for name in who]
    return lines


def answer_warnings(models: Sequence[ModelResult], words: Words = ICLR.words) -> list[str]:
    """A sentence for each kind of doubt about the generated answers of some models; none where there is none."""
    lines = []
    known = [(r.name, r.metrics) for r in models if r.metrics is not None]
    if unknown := [(name, m) for name, m in known if m.unknown]:
        name, worst = max(unknown, key=lambda pair: pair[1].unknown)
        lines.append(
            f"Answers that could not be read occur in the predictions of {count(len(unknown), 'model')}; most in"
            f" {name} ({worst.unknown:,} of {worst.n:,}). The headline decisions come from the margin and"
            " do not need them."
        )
    if differing := [(name, m) for name, m in known if m.text_differs]:
        name, worst = max(differing, key=lambda pair: pair[1].text_differs)
        lines.append(
            f"In the predictions of {count(len(differing), 'model')} some generated texts contradict the margin; most in"
            f" {name} ({worst.text_differs:,} of {worst.n:,})."
        )
    if ties := sum(m.ties for _, m in known):
        lines.append(f"A margin of exactly 0 counts as {words.labels[1]}; it occurs {ties:,} times.")
    if other := [name for name, m in known if (m.p_other_mean or 0) > 0.05]:
        lines.append("More than 5% of the probability goes to neither label in " + ", ".join(other[:5]) + ".")
    return lines
