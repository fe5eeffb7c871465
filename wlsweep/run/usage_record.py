"""`usage/*.json`: the account that one process keeps of what it held (`wlsweep.run.usage_meter`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wlsweep.run.record import Part, Record


class UsageSpan(Part):
    """A stretch of time in which a process held what it holds, doing one thing."""

    what: Literal["start", "work", "wait"]
    """Getting ready (imports, loading an engine), working on conditions or a stage, waiting for the next."""
    stage: str
    """`train` or `predict`; of a launch also `data`, `evaluate`, `report`."""
    conditions: list[str] = Field(default_factory=list)
    """What it worked on; several adapters that are predicted together share the span evenly: each has the same rows."""
    attempt: int = 0
    seconds: float = Field(ge=0)
    outcome: str | None = None
    """`done`, `failed`, `stopped`, ...; None while it lasts, and for ever if the process was killed."""
    energy_joules: float | None = None
    """Of the process's GPUs, by NVML; None where that cannot be told."""
    checkpoint_bytes: int = 0
    """Written into resume checkpoints, by all ranks together."""


class UsageRecord(Record):
    """`usage/*.json`: what one process held and for how long. Only that process writes it, every few seconds, so that
    nothing is counted twice and a killed process loses seconds."""

    REMEDY = "delete it: what that process used is then not counted"

    holder: Literal["launch", "group", "engine"]
    """A launch holds nothing but time; a rank of a worker group and an engine hold GPUs and cores."""
    rank: int = 0
    host: str
    gpus: float = Field(ge=0)
    cpus: float = Field(ge=0)
    began: float
    """Seconds since 1970, by the host's clock."""
    spans: list[UsageSpan]
    largest_bytes: int | None = None
    """Of a launch: the most bytes of data, models, checkpoints and predictions that it saw at one time."""
