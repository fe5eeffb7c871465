"""What all sections of a search space have in common: frozen, unknown keys refused, types taken strictly."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wlsweep.spec.axes import LARGEST_SEED

Share = Annotated[float, Field(ge=0, le=1)]
MOST = 1_000_000_000
"""Nothing that is counted here comes near it; beyond it a number is a slip, and fails later in a library's own words."""
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Section(BaseModel):
    """A section of a search space, or the whole."""

    # strict: `true` is no number here, and neither is "12"
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )


def wrong_fields(e: ValidationError, whole: str) -> str:
    """Every wrong field on a line of its own; `whole` is what a fault of no single field is said of."""
    lines = []
    for error in e.errors():
        at = ".".join(str(part) for part in error["loc"]) or whole
        message = error["msg"].removeprefix("Value error, ")
        lines.append(f"  - {at}: {'unknown key' if error['type'] == 'extra_forbidden' else message}")
    return "\n".join(lines)
