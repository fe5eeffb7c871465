"""Every axis of the grid, once. To add an axis, add one field to `Axes`; nothing else lists them.

A field says everything about its axis: type, default, its part of a condition's name, what values are allowed, what it
means. Grid blocks and their schema, conditions, names and the parser of names, records in JSON, the order of the grid
and `docs/configuration.md` are derived from it. For example, the optimizer would become an axis by

    optimizer: Annotated[
        Literal["adamw", "sgd"],
        Axis(words({"sgd": "sgd"}), "The optimizer.", baseline_keeps=True, first_stage_keeps=True),
    ] = "adamw"

Fields stand in the order of their parts in a name. A field with a default adds its part only where the value differs,
so that an added axis leaves every existing name as it is.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

Variant = Literal["baseline", "accept", "reject"]
LossKind = Literal["binary", "sequence", "decision_token"]
Balance = Literal["none", "inverse", "effective"]


class NamePart(NamedTuple):
    """How a value stands in a condition's name."""

    write: Callable[[Any], str]
    pattern: str
    """Regular expression of what `write` returns, without a group."""
    read: Callable[[str], Any]
    """The value of a text that matches `pattern`; the inverse of `write`."""


def decimals(prefix: str, places: int) -> NamePart:
    """A number with a fixed count of decimals: `decimals("gamma", 1)` writes 2.0 as `gamma2.0`."""
    pattern = rf"{prefix}\d+\.\d+"
    return NamePart(lambda v: f"{prefix}{v:.{places}f}", pattern, lambda text: float(text.removeprefix(prefix)))


def integer(prefix: str) -> NamePart:
    """A whole number: `integer("seed")` writes 1 as `seed1`."""
    return NamePart(lambda v: f"{prefix}{v}", rf"{prefix}\d+", lambda text: int(text.removeprefix(prefix)))


def words(texts: Mapping[Any, str]) -> NamePart:
    """One word for each value that is not the default: `words({True: "twostage"})`."""
    values = {text: value for value, text in texts.items()}
    return NamePart(lambda v: texts.get(v, str(v)), "|".join(map(re.escape, values)), values.__getitem__)


class Record(NamedTuple):
    """How a value is written in TOML and JSON, where that is not the value itself."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    """The inverse; raises ValueError, saying what was expected, for anything that `write` does not return."""


@dataclass(frozen=True)
class Axis:
    """One axis, as `Axes` declares it."""

    part: NamePart
    meaning: str
    """One sentence for the reference of the configuration."""
    check: Callable[[Any], str | None] = lambda value: None
    """Why a value cannot be used, or None."""
    key: str = ""
    """Its key in `[[grid]]` and in records; the field's name where none is given."""
    record: Record | None = None
    order: int = 1
    """Place in the grid's order: an axis with a smaller number varies more slowly; equal ones as they are declared."""
    baseline_keeps: bool = False
    """Whether a condition is compared with the baseline of its own value (else with that of the default value)."""
    first_stage_keeps: bool = False
    """Whether the first stage of a two-stage condition has the condition's own value (else the default)."""
    # Taken from the field:
    attribute: str = ""
    """Its field of a condition."""
    type: Any = None
    """Type of a value."""
    default: Any = None
    """None where a grid block must give values."""

    @property
    def required(self) -> bool:
        """Whether every grid block gives values, so that every name has this axis' part."""
        return self.default is None

    def in_name(self, value: Any) -> bool:
        """Whether a name has a part for this value."""
        return self.required or bool(value != self.default)

    def written(self, value: Any) -> Any:
        """The value as TOML and JSON have it."""
        return self.record.write(value) if self.record else value

    def problem(self, value: Any) -> str | None:
        """Why a value cannot be used or named, or None."""
        choices = get_args(self.type)
        if choices and value not in choices:
            return f"{self.key} {value!r}: expected one of {', '.join(map(str, choices))}"
        if why := self.check(value):
            return why
        if self.in_name(value) and not self._reads_back(value):
            text = self.part.write(value)
            return (
                f"{self.key} {value}: a name would say {text!r}, so two values could share a name; use fewer decimals"
            )
        return None

    def _reads_back(self, value: Any) -> bool:
        text = self.part.write(value)
        return re.fullmatch(self.part.pattern, text) is not None and bool(self.part.read(text) == value)


def _read_share(value: object) -> int:
    """`"1/3"` -> 3."""
    if isinstance(value, str) and re.fullmatch(r"1/[1-9]\d{0,9}", value):
        return int(value[2:])
    raise ValueError(f'{value!r}: write a proportion as a share of accepts, such as "1/3"')


def _read_finetuning(value: object) -> int:
    """`"full"` -> 0, `"lora16"` -> 16."""
    if value == "full":
        return 0
    if value == "lora":
        raise ValueError(
            "'lora' takes its rank from [train.lora], which is not there; add it, or write the rank: 'lora16'"
        )
    if isinstance(value, str) and re.fullmatch(r"lora[1-9]\d*", value):
        return int(value.removeprefix("lora"))
    raise ValueError(f"{value!r}: expected 'full', 'lora', or 'lora' and a rank, such as 'lora16'")


LARGEST_GAMMA = 1_000_000
"""The largest weight; names of conditions are names of folders."""
LARGEST_K = 10_000
"""The smallest share of accepts is 1 / this."""
LARGEST_SEED = 2**32 - 1
"""What NumPy and PyTorch both take."""


def _check_share(k: int) -> str | None:
    if k < 2:
        return f"proportion 1/{k}: expected 1/2 or a smaller share of accepts"
    return None if k <= LARGEST_K else f"proportion 1/{str(k)[:20]}: expected 1/{LARGEST_K} or more"


def _check_gamma(gamma: float) -> str | None:
    if not (math.isfinite(gamma) and gamma > 0):
        return f"gamma {gamma}: expected a number above 0"
    if gamma > LARGEST_GAMMA:
        return (
            f"gamma {gamma:g}: expected at most {LARGEST_GAMMA:,}; a weight beyond it leaves nothing of the other class"
        )
    if round(gamma, 1) != gamma:
        return f"gamma {gamma}: names carry one decimal, so two gammas could share a name; use one decimal"
    return None


def _check_smoothing(smoothing: float) -> str | None:
    if not 0 <= smoothing < 0.5 or round(smoothing, 2) != smoothing:
        return f"smoothing {smoothing}: expected 0 <= smoothing < 0.5 with two decimals"
    return None


def _check_focal(focal: float) -> str | None:
    if not 0 <= focal <= 100 or round(focal, 1) != focal:
        return f"focal {str(focal)[:20]}: expected a number from 0 to 100 with one decimal"
    return None


def _check_seed(seed: int) -> str | None:
    return None if 0 <= seed <= LARGEST_SEED else f"seed {str(seed)[:20]}: expected a number from 0 to {LARGEST_SEED}"


def _check_rank(rank: int) -> str | None:
    return None if 0 <= rank <= 100_000 else f"lora {str(rank)[:20]}: expected 0 (full fine-tuning) or a rank"


@dataclass(frozen=True)
class Axes:
    """One value of every axis. `Condition` adds what is computed from them."""

    variant: Annotated[
        Variant,
        Axis(
            words({v: v for v in get_args(Variant)}),
            "Whose loss gamma multiplies: that of `accept` or of `reject` papers, or nobody's (`baseline`).",
        ),
    ]
    gamma: Annotated[
        float,
        Axis(
            decimals("gamma", 1), "Weight on the variant's class, > 0, one decimal; the baseline has 1.", _check_gamma
        ),
    ]
    k: Annotated[
        int,
        Axis(
            integer("prop1_"),
            'Share of accepts in the training data, written `"1/k"`.',
            _check_share,
            key="proportion",
            record=Record(lambda k: f"1/{k}", _read_share),
            order=0,
        ),
    ]
    loss: Annotated[
        LossKind,
        Axis(
            words({"sequence": "sequence", "decision_token": "decision_token"}),
            "What the weighted loss is: `binary` cross-entropy of the two labels at the decision position, token "
            "cross-entropy of the whole answer (`sequence`), or with the weight on the `decision_token` only; see "
            "`wlsweep.train.loss`.",
            first_stage_keeps=True,
        ),
    ] = "binary"
    focal: Annotated[
        float, Axis(decimals("focal", 1), "Focusing exponent of the focal loss; 0 is none.", _check_focal)
    ] = 0.0
    smoothing: Annotated[
        float, Axis(decimals("smooth", 2), "Label smoothing in [0, 0.5); 0 is none.", _check_smoothing)
    ] = 0.0
    balance: Annotated[
        Balance,
        Axis(
            words({"inverse": "inverse", "effective": "effective"}),
            "Class weights from the training counts, multiplied with gamma: `inverse` frequency or `effective` number "
            "of samples.",
        ),
    ] = "none"
    two_stage: Annotated[
        bool,
        Axis(
            words({True: "twostage"}),
            "Fine-tune with gamma 1 on the same mix first, then with the condition's weights; all conditions that "
            "start from the same first stage share it.",
        ),
    ] = False
    lora: Annotated[
        int,
        Axis(
            integer("lora"),
            "Kind of fine-tuning: `full`, or low-rank adapters on a frozen base: `lora`, with the rank of `[train.lora]`, "
            "or `lora64`, with a rank of its own.",
            _check_rank,
            key="finetuning",
            record=Record(lambda rank: f"lora{rank}" if rank else "full", _read_finetuning),
            baseline_keeps=True,
            first_stage_keeps=True,
        ),
    ] = 0
    seed: Annotated[
        int,
        Axis(
            integer("seed"),
            "Seed of the order of training rows.",
            _check_seed,
            baseline_keeps=True,
            first_stage_keeps=True,
        ),
    ] = 0


def _declared() -> tuple[Axis, ...]:
    hints = get_type_hints(Axes, include_extras=True)
    found = []
    for f in dataclasses.fields(Axes):
        values, axis = get_args(hints[f.name])
        default = None if f.default is dataclasses.MISSING else f.default
        found.append(dataclasses.replace(axis, attribute=f.name, key=axis.key or f.name, type=values, default=default))
    return tuple(found)


AXES: tuple[Axis, ...] = _declared()
"""Every axis, in the order of names."""
GRID_ORDER: tuple[Axis, ...] = tuple(sorted(AXES, key=lambda a: a.order))
"""Every axis in the order of the grid: the last varies fastest."""
