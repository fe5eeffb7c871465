"""The typed records of a sweep, its conditions and what they used: who writes or reads one of these files goes through
here, so that a misspelt key is an error of the type checker.

    record = TrainedRecord.read(run.trained(name))
    FailedRecord(condition=name, ...).write(run.failed(name))

Beside it: `data_record` (what the data stage made), `metric_log` (the training curve).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from wlsweep.errors import DamagedError
from wlsweep.run.metric_log import MetricLine
from wlsweep.run.record import Part, Record, first_problem
from wlsweep.spec.task import Task

if TYPE_CHECKING:
    from wlsweep.spec.condition import Condition
    from wlsweep.spec.config import Sweep


class ConditionEntry(Part):
    """A condition as `Condition.as_dict` writes it; its name says all, so the other fields are for people."""

    model_config = ConfigDict(extra="allow")

    index: int
    """Place in the search space."""
    name: str


class GitState(Part):
    """The code that ran."""

    sha: str | None
    dirty_diff: str | None = None
    """Changes of the package against that revision."""


class Machine(Part):
    """The machine that the launch ran on."""

    host: str
    system: str
    cpus: int | None
    memory_bytes: int


class Provenance(Part):
    """What ran, where and when."""

    started_at: str
    git: GitState
    versions: dict[str, str]
    machine: Machine
    user: str


class Launch(Provenance):
    """One launch of a run."""

    command: str


class SweepRecord(Record):
    """`sweep.json`: the resolved configuration, and every launch."""

    REMEDY = "delete it and run the same search space again: what is done is kept"

    sweep: dict[str, JsonValue]
    """What `wlsweep.spec.config.Sweep` dumps."""
    fingerprint: str
    conditions: tuple[ConditionEntry, ...] = Field(min_length=1)
    base: str
    """Folder or name of the base model."""
    command: str
    """Of the last launch."""
    provenance: Launch
    """Of the last launch."""
    launches: tuple[Launch, ...] = ()

    def section(self, key: str) -> dict[str, JsonValue]:
        """A section of the configuration, such as `train`, as it was written; empty where there is none. For what must be
        readable of other versions' runs too; `resolved` has the whole, checked."""
        part = self.sweep.get(key)
        return part if isinstance(part, dict) else {}

    @property
    def commands(self) -> list[str]:
        """Of every launch, in order."""
        return [launch.command for launch in self.launches] or [self.command]

    @property
    def name(self) -> str:
        """Of the search space."""
        return str(self.sweep.get("name", "unnamed"))

    @property
    def task(self) -> Task:
        """What the sweep classifies.

        Raises:
            DamagedError: if the record holds no such task.
        """
        try:
            return Task.model_validate(self.sweep.get("task") or {})
        except ValidationError as e:
            raise DamagedError(f"sweep.json is damaged (task.{first_problem(e, b'x')}); {self.REMEDY}") from None

    @property
    def effective_beta(self) -> float:
        """Beta of the effective number of samples that the sweep was trained with."""
        beta = self.section("loss").get("effective_beta")
        return float(beta) if isinstance(beta, int | float) and 0 < beta < 1 else 0.999

    def resolved(self, path: Path) -> Sweep:
        """The configuration; `path` is the file that this record was read from, for the error."""
        from wlsweep.spec.config import Sweep

        try:
            return Sweep.model_validate(self.sweep)
        except ValidationError as e:
            raise DamagedError(f"{path} is damaged (sweep.{first_problem(e, b'x')}); {self.REMEDY}") from None


class ClassWeights(Part):
    """Weight of a sample's loss, by its label."""

    accept: float
    reject: float


class TrainingSeconds(Part):
    """Seconds of one training."""

    start: float
    steps: float
    """Validation included."""
    validation: float = 0.0


class TrainedOn(Part):
    """Where a condition was trained."""

    host: str
    device: str
    workers: int


class ProbeRow(Part):
    """The trained model's own label log-probabilities on one row of its mix."""

    row: int
    logprob_accept: float
    logprob_reject: float


class ModelRecord(Part):
    """The saved model."""

    fingerprint: str
    """Hash of the weight files; predictions carry it."""
    bytes: int


class TrainedRecord(Record):
    """`conditions/NAME/trained.json`, written last: the condition is trained."""

    REMEDY = "the next wlsweep run trains the condition again"

    condition: ConditionEntry
    sweep_fingerprint: str
    base: str
    steps: int
    samples: int
    tokens: int
    seconds: TrainingSeconds
    attempts: int
    proof: dict[str, float]
    """Measured ratio of weighted to unweighted loss, by class."""
    final: MetricLine
    unweighted_loss: float
    trained_on: TrainedOn
    probe: list[ProbeRow]
    model: ModelRecord
    finished_at: str
    data_fingerprint: str | None = None
    """Of the data that it was trained on (`DataRecord.fingerprint`)."""


class ConditionConfig(Record):
    """`conditions/NAME/config.json`: all that decides one training, resolved; written when it begins."""

    condition: ConditionEntry
    weights: ClassWeights
    """From gamma alone; `balance` multiplies them by what the mix's counts say."""
    sweep: str
    sweep_fingerprint: str
    starts_from: str
    """Folder or name of the model that the training starts from."""
    data: dict[str, JsonValue]
    model: dict[str, JsonValue]
    loss: dict[str, JsonValue]
    train: dict[str, JsonValue]
    predict: dict[str, JsonValue]


def condition_config(sweep: Sweep, condition: Condition, base: str) -> ConditionConfig:
    """The resolved configuration of one condition that starts from the model `base`."""
    accept, reject = condition.weights
    return ConditionConfig(
        condition=ConditionEntry(**condition.as_dict()),
        weights=ClassWeights(accept=accept, reject=reject),
        sweep=sweep.name,
        sweep_fingerprint=sweep.fingerprint(),
        starts_from=base,
        **{
            part: getattr(sweep, part).model_dump(mode="json") for part in ("data", "model", "loss", "train", "predict")
        },
    )


class FailedRecord(Record):
    """`conditions/NAME/failed.json`: the cause of a failure, until it is tried again."""

    REMEDY = "delete it; the next wlsweep run tries the condition again"

    condition: str
    stage: str
    """`train` or `predict`."""
    cause: str
    """In one line."""
    details: str | None = None
    """All that is known, where that is more."""
    attempts: int
    log: str
    failed_at: str


class LeaseRecord(Record):
    """`lease.json`: who works on something right now."""

    REMEDY = "if no launch runs, delete it"

    owner: str
    machine: str
    """Host and process-number space."""
    pid: int
    started: str | None
    """Start time of the process in clock ticks."""
    nonce: str = ""


class SecondsRecord(Record):
    """`logs/seconds.json`: seconds of each stage of the last launch that did anything."""

    model_config = ConfigDict(extra="allow")

    all: float


class PlanRecord(Record):
    """`plan.json`: what `wlsweep plan` said of the whole search space when the run began."""

    REMEDY = "delete it: what was used is then compared with no plan"

    made_at: str
    plan: dict[str, JsonValue]
    """What `wlsweep plan --json` prints."""


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


class SkippedRecord(Record):
    """`skipped.json`: conditions that `--until-decided` left out, each with the reason why."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    REMEDY = "delete it, it only says why conditions were left out"
