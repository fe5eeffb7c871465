"""What a run really used, summed over the accounts that its processes kept (`usage_meter.py`), beside what `plan` had said.

    print(usage_of(RunDir(Path("runs/demo"))).sentence())

Every attempt counts: finished, failed, stopped, killed, taken over. Time in which a group or an engine got ready or waited
belongs to no condition and stands by itself. Not counted: Ray's start of a process before the project's own code runs
(seconds), the driver's and the trackers' own CPU time, and what a SLURM job holds beyond groups and engines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from wlsweep.errors import WlsweepError
from wlsweep.estimate import clock, hours_text, size_text
from wlsweep.files import JsonObject
from wlsweep.run.layout import RunDir
from wlsweep.run.records import PlanRecord, SweepRecord, UsageRecord, UsageSpan
from wlsweep.run.usage_meter import GOES_ON

KWH = 3.6e6
"""Joules of a kilowatt-hour."""


@dataclass(frozen=True)
class Held:
    """What some spans held."""

    seconds: float = 0.0
    """Wall time: of a group, that of its first rank."""
    gpu_hours: float = 0.0
    core_hours: float = 0.0
    """CPU cores that were held, busy or not."""
    energy_kwh: float = 0.0
    """Of the GPUs for which NVML told it."""
    measured_gpu_hours: float = 0.0
    """GPU-hours for which NVML told the energy."""

    def __add__(self, other: Held) -> Held:
        mine, theirs = asdict(self), asdict(other)
        return Held(**{key: mine[key] + theirs[key] for key in mine})

    def __truediv__(self, by: int) -> Held:
        return Held(**{key: value / by for key, value in asdict(self).items()})


@dataclass
class ConditionUsage:
    """What one condition used."""

    name: str
    attempts: int = 0
    """Trainings that began, also those that failed, were stopped or killed."""
    training: Held = Held()
    unfinished: Held = Held()
    """The part of `training` in attempts that left no model: failed, stopped, killed, or still running. A later attempt may
    have gone on from their checkpoint."""
    prediction: Held = Held()
    checkpoint_bytes: int = 0
    """Written into resume checkpoints in all."""
    model_bytes: int = 0
    """Of the model that is kept now."""
    planned_gpu_hours: float | None = None
    """Of training, as the plan had it."""
    dollars: float | None = None
    """Training and prediction at `budget.price_per_gpu_hour`; None without GPUs or a price."""

    @property
    def total(self) -> Held:
        """Training and prediction."""
        return self.training + self.prediction


class Planned(NamedTuple):
    """What the plan had said when the run began; None where it said nothing, as of the hours of a CPU."""

    made_at: str
    gpu_hours: float | None
    """Training of all conditions of the search space."""
    dollars: float | None
    """At the price that the plan assumed."""
    models_bytes: float | None
    peak_bytes: float | None
    """At most, with one condition in training at a time."""


@dataclass(frozen=True)
class Usage:
    """What a run used, by condition and in all."""

    conditions: tuple[ConditionUsage, ...]
    starting: Held
    """Groups and engines that got ready."""
    waiting: Held
    """Groups and engines that held GPUs or cores and had nothing to do."""
    wall_seconds: float
    """In which at least one launch ran."""
    stages: Mapping[str, float]
    """Seconds of each stage, over all launches."""
    storage: Mapping[str, int]
    """Bytes on disk now: `models`, `checkpoints`, `predictions`, `data`."""
    largest_bytes: int | None
    """The most of all that on disk at one time, as far as launches saw it (a look every ten seconds or more)."""
    price: float | None
    """Dollars a GPU-hour."""
    plan: Planned | None
    unreadable: tuple[str, ...] = ()
    """Accounts that cannot be read: what they counted is missing here."""
    unrecorded: tuple[str, ...] = ()
    """Trained conditions without an account of their training, as versions before 0.2.0 left them."""
    total: Held = field(init=False)
    """Everything: conditions, start and idle time."""

    def __post_init__(self) -> None:
        every = sum((c.total for c in self.conditions), self.starting + self.waiting)
        object.__setattr__(self, "total", every)

    @property
    def recorded(self) -> bool:
        """Whether there is any account at all."""
        return self.total.seconds > 0 or self.wall_seconds > 0

    @property
    def dollars(self) -> float | None:
        """Of all GPU-hours; None without GPUs or a price."""
        return None if self.price is None or not self.total.gpu_hours else self.price * self.total.gpu_hours

    @property
    def checkpoint_bytes(self) -> int:
        """Written into resume checkpoints in all."""
        return sum(c.checkpoint_bytes for c in self.conditions)

    @property
    def on_gpus(self) -> bool:
        """Whether hours are those of GPUs; else of CPU cores."""
        return self.total.gpu_hours > 0

    def hours(self, held: Held) -> float:
        """GPU-hours, or core-hours where there is no GPU."""
        return held.gpu_hours if self.on_gpus else held.core_hours

    @property
    def unit(self) -> str:
        """What `hours` counts."""
        return "GPU-hours" if self.on_gpus else "CPU core-hours"

    def energy(self, held: Held) -> str:
        """`1.2 kWh`, with the share of GPU-hours that it was measured for where that is not all; `not measured`."""
        if not held.measured_gpu_hours:
            return "not measured"
        share = held.measured_gpu_hours / held.gpu_hours
        of = f" (measured for {share:.0%} of the GPU-hours)" if share < 0.995 else ""
        return f"{held.energy_kwh:.3g} kWh{of}"

    def sentence(self) -> str:
        """In one line, beside the plan of then."""
        if not self.recorded:
            return "used: not recorded (no launch since version 0.2.0)"
        idle = hours_text(self.hours(self.starting + self.waiting))
        parts = [f"{hours_text(self.hours(self.total))} {self.unit}" + self._plan_part("gpu_hours", "for training")]
        parts[0] += f", {idle} of them getting ready or idle"
        if lost := sum(self.hours(c.unfinished) for c in self.conditions):
            parts.append(f"{hours_text(lost)} of them in attempts that still run or left no model")
        if (dollars := self.dollars) is not None:
            parts.append(f"${dollars:,.2f}" + self._plan_part("dollars"))
        if self.on_gpus:
            parts.append(f"energy {self.energy(self.total)}")
        parts.append(f"wall time {clock(self.wall_seconds)}")
        parts.append(f"models {size_text(self.storage['models'])}" + self._plan_part("models_bytes"))
        return "used: " + ", ".join(parts)

    def _plan_part(self, key: str, of: str = "") -> str:
        said = getattr(self.plan, key) if self.plan else None
        if said is None:
            return ""
        shown = {"dollars": f"${said:,.0f}", "gpu_hours": hours_text(said)}.get(key) or size_text(said)
        return f" (plan: {shown}{f' {of}' if of else ''})"

    def as_json(self) -> JsonObject:
        """The whole as plain data."""
        own = {key: value for key, value in asdict(self).items() if key != "plan"}
        return own | {
            "plan": self.plan._asdict() if self.plan else None,
            "dollars": self.dollars,
            "checkpoint_bytes": self.checkpoint_bytes,
            "unit": self.unit,
        }


def usage_of(run: RunDir) -> Usage:
    """What a run used until now; an account that cannot be read is named and left out.

    Raises:
        WlsweepError: if `sweep.json` cannot be read.
    """
    record = SweepRecord.read(run.sweep_json)
    price = _number(record.sweep.get("budget"), "price_per_gpu_hour")
    accounts, unreadable = read_accounts(run)
    planned, by_condition = _plan(run)
    names = [c.name for c in record.conditions]
    found: dict[str, ConditionUsage] = {n: ConditionUsage(n, planned_gpu_hours=by_condition.get(n)) for n in names}
    idle = {"start": Held(), "wait": Held()}
    for account, span in ((a, s) for a in accounts if a.holder != "launch" for s in a.spans):
        held = held_by(account, span)
        if span.what != "work":
            idle[span.what] += held
            continue
        for name in span.conditions:
            at = found.setdefault(name, ConditionUsage(name))  # a first stage that the grid does not list
            _add(at, account, span, held / len(span.conditions))
    for name, at in found.items():
        at.model_bytes = _bytes(run.model(name))
        if price is not None and at.total.gpu_hours:
            at.dollars = price * at.total.gpu_hours
    launches = [a for a in accounts if a.holder == "launch"]
    return Usage(
        conditions=tuple(found.values()),
        starting=idle["start"],
        waiting=idle["wait"],
        wall_seconds=_union((a.began, a.began + sum(s.seconds for s in a.spans)) for a in launches),
        stages=_by_stage(launches),
        storage=storage(run),
        largest_bytes=max((a.largest_bytes for a in launches if a.largest_bytes), default=None),
        price=price,
        plan=planned,
        unreadable=tuple(unreadable),
        unrecorded=tuple(n for n, at in found.items() if not at.attempts and run.trained(n).is_file()),
    )


def read_accounts(run: RunDir) -> tuple[list[UsageRecord], list[str]]:
    """Every account of a run, and the paths of those that cannot be read."""
    accounts, unreadable = [], []
    try:
        paths = sorted(run.usage.glob("*.json"))
    except OSError:
        return [], [str(run.usage)]
    for path in paths:
        try:
            accounts.append(UsageRecord.read(path))
        except WlsweepError:
            unreadable.append(str(path))
    return accounts, unreadable


def held_by(account: UsageRecord, span: UsageSpan) -> Held:
    """What a process held in one span."""
    hours = span.seconds / 3600
    measured = span.energy_joules is not None
    return Held(
        span.seconds if account.rank == 0 else 0.0,
        hours * account.gpus,
        hours * account.cpus,
        (span.energy_joules or 0.0) / KWH,
        hours * account.gpus if measured else 0.0,
    )


def _add(at: ConditionUsage, account: UsageRecord, span: UsageSpan, held: Held) -> None:
    if span.stage == "predict":
        at.prediction += held
        return
    at.attempts += account.rank == 0
    at.training += held
    if span.outcome not in ("done", GOES_ON):
        at.unfinished += held
    at.checkpoint_bytes += span.checkpoint_bytes


def _union(times: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals: launches at the same time count once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(times):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _by_stage(launches: Iterable[UsageRecord]) -> dict[str, float]:
    found: dict[str, float] = {}
    for span in (s for a in launches for s in a.spans if s.what == "work"):
        found[span.stage] = found.get(span.stage, 0.0) + span.seconds
    return found


def _plan(run: RunDir) -> tuple[Planned | None, dict[str, float]]:
    """The plan of then, and its GPU-hours by condition."""
    try:
        record = PlanRecord.find(run.plan_json)
    except WlsweepError:
        record = None
    if record is None:
        return None, {}
    plan = record.plan
    each = plan.get("gpu_hours_by_condition")
    hours = {n: float(h) for n, h in each.items() if isinstance(h, int | float)} if isinstance(each, dict) else {}
    dollars, stored = _number(plan, "cost_dollars"), plan.get("storage_bytes")
    sizes = (_number(stored, key) for key in ("models_kept", "peak"))
    return Planned(record.made_at, _number(plan, "gpu_hours"), dollars, *sizes), hours


def _number(part: object, key: str) -> float | None:
    value = part.get(key) if isinstance(part, dict) else None
    return float(value) if isinstance(value, int | float) else None


def storage(run: RunDir) -> dict[str, int]:
    """Bytes on disk now, by what they are. Token tables in the cache, which runs share, and logs are left out."""
    folders = list(run.condition("x").parent.glob("*"))
    return {
        "models": sum(_bytes(f / "model") for f in folders),
        "checkpoints": sum(_bytes(f / "checkpoints") for f in folders),
        "predictions": _bytes(run.predictions),
        "data": _bytes(run.data),
    }


def _bytes(folder: Path | str) -> int:
    """Of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                is_folder = entry.is_dir(follow_symlinks=False)
                total += _bytes(entry.path) if is_folder else entry.stat(follow_symlinks=False).st_size
    return total
