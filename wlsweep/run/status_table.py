"""What `wlsweep status` prints: a line a condition, the sums, what was used, and the command that goes on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from wlsweep.errors import WlsweepError
from wlsweep.run.causes import one_line
from wlsweep.run.records import SweepRecord
from wlsweep.run.status import ConditionStatus, RunStatus
from wlsweep.run.usage import usage_of
from wlsweep.spec.condition import condition_from, select


def next_command(record: SweepRecord, states: Sequence[ConditionStatus]) -> str:
    """The command that does what is not done: the last one, without what kept it from more.

    That is `--stage`, and `--only` where all that it selects is done.
    """
    kept, left_out = _without(shlex.split(record.command), {"--stage"})
    others, only = _without(kept, {"--only", "-c"})
    if only is not None:
        try:
            chosen = {c.name for c in select([condition_from(c.model_dump()) for c in record.conditions], only)}
        except WlsweepError:
            return record.command
        if all(s.done for s in states if s.name in chosen):
            return shlex.join(others)
    return record.command if left_out is None else shlex.join(kept)


def _without(words: Sequence[str], options: set[str]) -> tuple[list[str], str | None]:
    """A command line without an option and its value, and the value."""
    kept: list[str] = []
    value: str | None = None
    rest = iter(words)
    for word in rest:
        name, equals, given = word.partition("=")
        if word in options:
            value = next(rest, None)
        elif equals and name in options:
            value = given
        else:
            kept.append(word)
    return kept, value


def status_table(state: RunStatus, states: Sequence[ConditionStatus] | None = None) -> None:
    """Print where a run stands, as it is now or, with `states`, as it was found."""
    states = state.all() if states is None else states
    table = Table(box=None, pad_edge=False)
    words = state.record.task.words
    validated = any(s.validation for s in states)
    shown = (("bce", "cross-entropy"), ("auc", "AUC"), ("accept_rate", words.rate)) if validated else ()
    for column in ("#", "condition", "train", "predict", "step", *(title for _, title in shown), "cause"):
        table.add_column(column)
    for s in states:
        step = f"{s.step}/{s.of}" if s.step else ""
        judged = (f"{s.validation[key]:.3f}" if s.validation else "" for key, _ in shown)
        table.add_row(str(s.index), s.name, s.train, s.predict, step, *judged, one_line(s.cause) if s.cause else "")
    console = Console(markup=False)
    console.print(table)
    if validated:
        where = f"on the {words.items} of validation"
        console.print(f"cross-entropy (unweighted), AUC and {words.rate}: {where}", highlight=False, soft_wrap=True)
    done = sum(s.done for s in states)
    failed = sum("failed" in (s.train, s.predict) for s in states)
    running = sum("running" in (s.train, s.predict) for s in states)
    unreadable = sum("unreadable" in (s.train, s.predict) for s in states)
    usage = usage_of(state.run)
    counts = [f"{done} of {len(states)} done", f"{running} running", f"{failed} failed"]
    console.print(", ".join([*counts, *([f"{unreadable} unreadable"] if unreadable else [])]), highlight=False)
    if usage.recorded:
        console.print(usage.sentence(), highlight=False, soft_wrap=True)
    if unreadable:
        console.print("make what cannot be read readable first (see the causes)", highlight=False)
    elif done < len(states) and not running:
        console.print(f"go on with: {next_command(state.record, states)}", highlight=False, soft_wrap=True)
