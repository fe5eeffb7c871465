"""Conditions: what distinguishes one fine-tuning from another, and the only code that writes or reads their names.

    >>> [c.name for c in expand([{"proportion": [2], "variant": ["accept"], "gamma": [2.0, 4.0]}])]
    ['accept_gamma2.0_prop1_2', 'accept_gamma4.0_prop1_2']

A condition's *name* is its identity everywhere: directory, trial, Parquet partition, plot. Its *index* is only its
place in one search space, for selecting on the command line.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.spec.axes import AXES, GRID_ORDER, Axes, Axis

_KEYS = ", ".join(a.key for a in GRID_ORDER)
_NAME = re.compile("".join(f"(?:_(?P<{a.attribute}>{a.part.pattern})){'' if a.required else '?'}" for a in AXES))
"""A name with a `_` before it: all axes' parts in order, each a group named after its field; some are in every name."""


@dataclass(frozen=True)
class Condition(Axes):
    """One fine-tuning: a value of every axis. Two are the same experiment exactly when their names are equal."""

    index: int = 0
    """Place in the search space; no part of the identity."""

    @property
    def name(self) -> str:
        """The identity; the inverse of `parse_name`."""
        return "_".join(self._parts(AXES))

    @property
    def proportion_text(self) -> str:
        """`1/k`, as users write it."""
        return f"1/{self.k}"

    @property
    def weights(self) -> tuple[float, float]:
        """(weight of an Accept sample, weight of a Reject sample) from gamma alone."""
        return (self.gamma if self.variant == "accept" else 1.0, self.gamma if self.variant == "reject" else 1.0)

    @property
    def signed_log_gamma(self) -> float:
        """ln gamma, positive for the accept variant and negative for the reject variant (natural log units)."""
        accept, reject = self.weights
        return math.log(accept) - math.log(reject)

    @property
    def group(self) -> str:
        """The name without variant, gamma and proportion: conditions that differ only in those are comparable."""
        return "_".join(self._parts([a for a in AXES if not a.required]))

    @property
    def finetuning(self) -> str:
        """Kind of fine-tuning as names and pages write it: `full`, or `lora16`. What is compared is of one kind."""
        return f"lora{self.lora}" if self.lora else "full"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: index, name and the value of every axis."""
        return {"index": self.index, "name": self.name} | {a.key: a.written(_value(self, a)) for a in AXES}

    def _parts(self, axes: Iterable[Axis]) -> list[str]:
        valued = ((a, _value(self, a)) for a in axes)
        return [a.part.write(value) for a, value in valued if a.in_name(value)]


def condition_from(record: Mapping[str, Any]) -> Condition:
    """The condition that `Condition.as_dict` wrote; an axis that is younger than the record has its default.

    Raises:
        WlsweepError: for a key that is no axis, a missing or impossible value, and a name that says something else.
    """
    what = f"the record of condition {record.get('name')!r}"
    unknown = sorted(set(record) - {"index", "name"} - {a.key for a in AXES})
    if unknown:
        raise WlsweepError(
            f"{what} has unknown keys: {', '.join(unknown)}; axes are {_KEYS}. A newer wlsweep wrote it, or the "
            "file was edited"
        )
    try:
        values = {
            a.attribute: a.record.read(record[a.key]) if a.record else record[a.key] for a in AXES if a.key in record
        }
        found = Condition(**values, index=record.get("index", 0))
        problems = problems_of(found)
    except (TypeError, ValueError) as e:
        raise WlsweepError(f"{what} cannot be read: {e}") from None
    if found.name != record.get("name", found.name):
        problems.append(f"its values make {found.name!r}")
    refuse_all(f"{what} is no condition:", problems)
    return found


def _value(condition: Axes, axis: Axis) -> Any:
    return getattr(condition, axis.attribute)


def problems_of(c: Condition) -> list[str]:
    """Why this condition cannot be run or named; empty when it can."""
    found = [problem for a in AXES if (problem := a.problem(_value(c, a)))]
    if c.variant == "baseline" and c.gamma != 1.0:
        found.append(f"baseline with gamma {c.gamma}: the baseline is gamma 1.0")
    if c.variant != "baseline" and c.gamma == 1.0:
        found.append(f"{c.variant} with gamma 1.0 is the baseline under another name; use variant 'baseline'")
    if c.loss != "binary" and (c.focal or c.smoothing):
        found.append(
            f"loss {c.loss!r} with focal or smoothing: both are defined on p(accept), so on loss 'binary' only"
        )
    if c.focal and c.smoothing:
        found.append("focal and smoothing together: the focal factor needs one true class")
    return found


def parse_name(name: str) -> Condition:
    """The condition that a name stands for.

    Raises:
        WlsweepError: if `name` is not exactly what `Condition.name` writes.
    """
    if m := _NAME.fullmatch(f"_{name}"):
        found = Condition(**{a.attribute: a.part.read(m[a.attribute]) for a in AXES if m[a.attribute] is not None})
        if found.name == name and not problems_of(found):
            return found
    raise WlsweepError(f"{name!r} is no condition name; expected for example 'accept_gamma2.0_prop1_3'")


def expand(blocks: Iterable[Mapping[str, Sequence[Any]]]) -> tuple[Condition, ...]:
    """The union, in order, of the products of grid blocks.

    Args:
        blocks: each maps keys of axes to lists of values; `proportion` holds the k of 1/k. Within a block the axes vary
            in the order of `GRID_ORDER`, the last fastest; an axis without values has its default.

    Raises:
        WlsweepError: listing every unknown key, every impossible condition and every name that occurs twice.
    """
    found: dict[str, Condition] = {}
    problems: list[str] = []
    for b, block in enumerate(blocks):
        unknown = sorted(set(block) - {a.key for a in AXES})
        lacking = [a.key for a in AXES if a.required and not block.get(a.key)]
        problems += [f"grid block {b}: unknown axis {key!r}; axes are {_KEYS}" for key in unknown]
        problems += [f"grid block {b}: {key} has no values" for key in lacking]
        if lacking:
            continue
        for point in itertools.product(*(block.get(a.key) or [a.default] for a in GRID_ORDER)):
            values = {a.attribute: value for a, value in zip(GRID_ORDER, point, strict=True)}
            c = Condition(**values, index=len(found))
            problems += [f"grid block {b}: {p}" for p in problems_of(c)]
            if c.name in found:
                problems.append(f"grid block {b}: {c.name} occurs twice")
            found.setdefault(c.name, c)
    refuse_all("the grid holds conditions that cannot be run:", list(dict.fromkeys(problems)))
    return tuple(found.values())


def select(conditions: Sequence[Condition], selection: str | None) -> tuple[Condition, ...]:
    """The conditions that a selection such as `0`, `0-6,9` or `accept_*,reject_gamma2.0_prop1_3` names, in order.

    Raises:
        WlsweepError: listing every part that selects nothing.
    """
    if selection is None:
        return tuple(conditions)
    chosen: set[str] = set()
    problems: list[str] = []
    last = len(conditions) - 1
    for part in filter(None, (p.strip() for p in selection.split(","))):
        if m := re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part):
            lo, hi = int(m[1]), int(m[2] or m[1])
            if lo > hi or hi > last:
                problems.append(f"{part!r}: indices run from 0 to {last}")
            chosen.update(c.name for c in conditions[lo : hi + 1])
        else:
            hits = [c.name for c in conditions if fnmatchcase(c.name, part)]
            if not hits:
                problems.append(f"{part[:60]!r} matches no condition name (they look like {conditions[0].name})")
            chosen.update(hits)
    if not chosen and not problems:
        problems.append(f"{selection[:60]!r} is empty")
    refuse_all("--only selects nothing that this search space holds:", problems)
    return tuple(c for c in conditions if c.name in chosen)


def first_stage(c: Condition) -> Condition:
    """The condition whose model a two-stage condition starts from: gamma 1 on the same mix, shared by all of them."""
    kept = {a.attribute: _value(c, a) for a in AXES if a.first_stage_keeps}
    return Condition("baseline", 1.0, c.k, **kept)


def baseline_of(c: Condition) -> Condition:
    """The condition that `c` is compared with: plain fine-tuning on the balanced mix, same seed."""
    kept = {a.attribute: _value(c, a) for a in AXES if a.baseline_keeps}
    return Condition("baseline", 1.0, 2, **kept)
