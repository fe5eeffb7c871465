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
from fractions import Fraction
from typing import Any, Literal, cast, get_args

from wlsweep.errors import WlsweepError, refuse_all

Variant = Literal["baseline", "accept", "reject"]
LossKind = Literal["binary", "sequence", "decision_token"]
Balance = Literal["none", "inverse", "effective"]

_NAME = re.compile(
    r"^(?P<variant>baseline|accept|reject)_gamma(?P<gamma>\d+\.\d+)_prop1_(?P<k>\d+)"
    r"(?:_(?P<loss>sequence|decision_token))?"
    r"(?:_focal(?P<focal>\d+\.\d+))?"
    r"(?:_smooth(?P<smoothing>\d+\.\d+))?"
    r"(?:_(?P<balance>inverse|effective))?"
    r"(?P<two_stage>_twostage)?"
    r"(?:_seed(?P<seed>\d+))?$"
)


@dataclass(frozen=True)
class Condition:
    """One fine-tuning. Two conditions are the same experiment exactly when their names are equal."""

    variant: Variant
    gamma: float
    """Weight on the variant's class, > 0; the baseline has 1."""
    k: int
    """The training data holds a share 1/k of accepts."""
    loss: LossKind = "binary"
    focal: float = 0.0
    """Focusing exponent of the focal loss; 0 is none."""
    smoothing: float = 0.0
    """Label smoothing in [0, 0.5); 0 is none."""
    balance: Balance = "none"
    """Class weights from the training counts, multiplied with gamma."""
    two_stage: bool = False
    """Fine-tune with gamma 1 on the same mix first, then with this condition's weights."""
    seed: int = 0
    """Seed of the order of training rows."""
    index: int = 0
    """Place in the search space; no part of the identity."""

    @property
    def name(self) -> str:
        """The identity; the inverse of `parse_name`."""
        parts = [f"{self.variant}_gamma{self.gamma:.1f}_prop1_{self.k}"]
        if self.loss != "binary":
            parts.append(self.loss)
        if self.focal:
            parts.append(f"focal{self.focal:.1f}")
        if self.smoothing:
            parts.append(f"smooth{self.smoothing:.2f}")
        if self.balance != "none":
            parts.append(self.balance)
        if self.two_stage:
            parts.append("twostage")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "_".join(parts)

    @property
    def proportion(self) -> Fraction:
        """Share of accepts in the training data."""
        return Fraction(1, self.k)

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
        return self.name.partition(f"_prop1_{self.k}")[2].lstrip("_")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: index, name and every field."""
        return {
            "index": self.index,
            "name": self.name,
            "variant": self.variant,
            "gamma": self.gamma,
            "proportion": self.proportion_text,
            "loss": self.loss,
            "focal": self.focal,
            "smoothing": self.smoothing,
            "balance": self.balance,
            "two_stage": self.two_stage,
            "seed": self.seed,
        }


def problems_of(c: Condition) -> list[str]:
    """Why this condition cannot be run or named; empty when it can."""
    found = []
    if c.variant not in get_args(Variant):
        found.append(f"variant {c.variant!r}: expected one of {', '.join(get_args(Variant))}")
    if not (math.isfinite(c.gamma) and c.gamma > 0):
        found.append(f"gamma {c.gamma}: expected a number above 0")
    elif round(c.gamma, 1) != c.gamma:
        found.append(f"gamma {c.gamma}: names carry one decimal, so two gammas could share a name; use one decimal")
    if c.variant == "baseline" and c.gamma != 1.0:
        found.append(f"baseline with gamma {c.gamma}: the baseline is gamma 1.0")
    if c.variant != "baseline" and c.gamma == 1.0:
        found.append(f"{c.variant} with gamma 1.0 is the baseline under another name; use variant 'baseline'")
    if c.k < 2:
        found.append(f"proportion 1/{c.k}: expected 1/2 or a smaller share of accepts")
    if c.focal < 0 or round(c.focal, 1) != c.focal:
        found.append(f"focal {c.focal}: expected 0 or a positive number with one decimal")
    if not 0 <= c.smoothing < 0.5 or round(c.smoothing, 2) != c.smoothing:
        found.append(f"smoothing {c.smoothing}: expected 0 <= smoothing < 0.5 with two decimals")
    if c.loss != "binary" and (c.focal or c.smoothing):
        found.append(
            f"loss {c.loss!r} with focal or smoothing: both are defined on p(accept), so on loss 'binary' only"
        )
    if c.focal and c.smoothing:
        found.append("focal and smoothing together: the focal factor needs one true class")
    if c.seed < 0:
        found.append(f"seed {c.seed}: expected 0 or more")
    return found


def parse_name(name: str) -> Condition:
    """The condition that a name stands for.

    Raises:
        WlsweepError: if `name` is not exactly what `Condition.name` writes.
    """
    m = _NAME.match(name)
    if m:
        c = Condition(
            variant=cast(Variant, m["variant"]),
            gamma=float(m["gamma"]),
            k=int(m["k"]),
            loss=cast(LossKind, m["loss"] or "binary"),
            focal=float(m["focal"] or 0),
            smoothing=float(m["smoothing"] or 0),
            balance=cast(Balance, m["balance"] or "none"),
            two_stage=bool(m["two_stage"]),
            seed=int(m["seed"] or 0),
        )
        if c.name == name and not problems_of(c):
            return c
    raise WlsweepError(f"{name!r} is no condition name; expected for example 'accept_gamma2.0_prop1_3'")


_AXES = ("proportion", "variant", "gamma", "loss", "focal", "smoothing", "balance", "two_stage", "seed")
_DEFAULTS: dict[str, Any] = {
    "loss": "binary",
    "focal": 0.0,
    "smoothing": 0.0,
    "balance": "none",
    "two_stage": False,
    "seed": 0,
}


def expand(blocks: Iterable[Mapping[str, Sequence[Any]]]) -> tuple[Condition, ...]:
    """The union, in order, of the products of grid blocks.

    Args:
        blocks: each maps axis names to lists of values; `proportion` holds the k of 1/k. Within a block the axes vary
            in the order proportion, variant, gamma, loss, focal, smoothing, balance, two_stage, seed, the last
            fastest.

    Raises:
        WlsweepError: listing every impossible condition and every name that occurs twice.
    """
    found: dict[str, Condition] = {}
    problems: list[str] = []
    for b, block in enumerate(blocks):
        values = [block.get(axis) or [_DEFAULTS[axis]] for axis in _AXES]
        for point in itertools.product(*values):
            at = dict(zip(_AXES, point, strict=True))
            c = Condition(k=at.pop("proportion"), index=len(found), **at)
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
        if m := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
            lo, hi = int(m[1]), int(m[2] or m[1])
            if lo > hi or hi > last:
                problems.append(f"{part!r}: indices run from 0 to {last}")
            chosen.update(c.name for c in conditions[lo : hi + 1])
        else:
            hits = [c.name for c in conditions if fnmatchcase(c.name, part)]
            if not hits:
                problems.append(f"{part!r} matches no condition name (they look like {conditions[0].name})")
            chosen.update(hits)
    if not chosen and not problems:
        problems.append(f"{selection!r} is empty")
    refuse_all("--only selects nothing that this search space holds:", problems)
    return tuple(c for c in conditions if c.name in chosen)


def first_stage(c: Condition) -> Condition:
    """The condition whose model a two-stage condition starts from: gamma 1 on the same mix, shared by all of them."""
    return Condition("baseline", 1.0, c.k, loss=c.loss, seed=c.seed)


def baseline_of(c: Condition) -> Condition:
    """The condition that `c` is compared with: plain fine-tuning on the balanced mix, same seed."""
    return Condition("baseline", 1.0, 2, seed=c.seed)
