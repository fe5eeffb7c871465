"""`metrics.jsonl` of a condition: its lines, and how they are read while a training still writes."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from wlsweep.errors import DamagedError
from wlsweep.files import open_file
from wlsweep.run.layout import atomic_file
from wlsweep.run.record import Part, first_problem, read_bytes

VALIDATION_METRICS = ("loss", "bce", "auc", "accuracy", "accept_rate")
"""What a validation measures."""
VALIDATION = "validation_"
"""What their names begin with in a metric log."""


class MetricLine(Part):
    """One line of `metrics.jsonl`; metrics may be null where a batch held no row of a class."""

    model_config = ConfigDict(extra="allow")

    step: int
    """Optimizer steps done."""
    of: int | None = None
    """Optimizer steps in all."""
    epoch: float | None = None
    loss: float | None = None
    bce: float | None = None
    bce_by_class: float | None = None
    p_accept_on_accept: float | None = None
    p_accept_on_reject: float | None = None
    predicted_accept_rate: float | None = None
    tokens_per_s: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    validation_loss: float | None = None
    """The condition's own weighted loss on the papers of validation, where this step was validated; so for the others."""
    validation_bce: float | None = None
    """Unweighted binary cross-entropy, nats: the same measure for every condition."""
    validation_auc: float | None = None
    validation_accuracy: float | None = None
    validation_accept_rate: float | None = None

    @property
    def validation(self) -> dict[str, float] | None:
        """`loss`, `bce`, `auc`, `accuracy` and `accept_rate` on the papers of validation; None where there was none."""
        named = {name: getattr(self, VALIDATION + name) for name in VALIDATION_METRICS}
        return None if self.validation_bce is None else {k: v for k, v in named.items() if v is not None}


def read_metric_log(path: Path) -> list[MetricLine]:
    """The metric log of a condition; a last line that a killed process left half-written is left out.

    Raises:
        DamagedError: for any other line that is none, naming it.
        UnreadableError: if the system does not let this process read it.
    """
    found: list[MetricLine] = []
    for number, line in enumerate((read_bytes(path) or b"").splitlines(keepends=True), 1):
        try:
            if line.strip():
                found.append(MetricLine.model_validate_json(line))
        except ValidationError as e:
            if not line.endswith(b"\n"):
                break
            raise DamagedError(
                f"{path} is damaged (line {number}: {first_problem(e, line)}); delete the file: it holds the training "
                "curve alone, no result rests on it"
            ) from None
    return found


def last_metric_line(path: Path) -> MetricLine | None:
    """The last whole line of a metric log, read from its end; None where there is none."""
    try:
        with open_file(path) as f:
            f.seek(max(0, path.stat().st_size - 4096))
            tail = f.read()
    except OSError:
        return None
    for line in reversed(tail.splitlines()):
        try:
            return MetricLine.model_validate_json(line)
        except ValidationError:
            continue
    return None


def drop_lines_after(step: int, path: Path) -> None:
    """Drop lines of steps that a resumed training makes again, and a torn last one."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines(keepends=True) if _step_of(line) <= step]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return inf
