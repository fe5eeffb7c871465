"""Every JSON file of a run directory as a typed record: who writes or reads one goes through here, so that a misspelt key
is an error of the type checker, and a file of another form is one clear error instead of a KeyError far away.

    record = TrainedRecord.read(run.trained(name))
    FailedRecord(condition=name, ...).write(run.failed(name))

Keys that a record does not know are ignored, so that a file of a newer version can be read; a key that is missing or of
another type is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel, TypeAdapter, ValidationError

from wlsweep.errors import DamagedError, UnreadableError, os_error_text
from wlsweep.files import open_file, read_file
from wlsweep.run.layout import write_json
from wlsweep.spec.task import ICLR, Task

if TYPE_CHECKING:
    from wlsweep.spec.condition import Condition
    from wlsweep.spec.config import Sweep


class _Part(BaseModel):
    """A part of a record: frozen, types taken strictly, no NaN."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class _Record(_Part):
    """A file of the run directory."""

    REMEDY: ClassVar[str] = "delete it and run the sweep again"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file.

        Raises:
            DamagedError: if it is missing or not whole, naming file, field and remedy.
            UnreadableError: if the system does not let this process read it.
        """
        found = cls.find(path)
        if found is None:
            raise DamagedError(f"{path} is missing; {cls.REMEDY}")
        return found

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """The same, or None where there is no such file."""
        data = read_bytes(path)
        if data is None:
            return None
        try:
            return cls.model_validate_json(data)
        except ValidationError as e:
            raise DamagedError(f"{path} is damaged ({_first_problem(e, data)}); {cls.REMEDY}") from None

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


def read_bytes(path: Path) -> bytes | None:
    """The bytes of a file, None where there is none.

    Raises:
        UnreadableError: if the system does not let this process read it.
    """
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UnreadableError(os_error_text(e, path)) from None


def _first_problem(e: ValidationError, data: bytes) -> str:
    """The first thing that is wrong, in one line."""
    if not data.strip(b"\0 \t\r\n"):
        return "it is empty"
    first = e.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"no whole JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    at = ".".join(str(part) for part in first["loc"])
    return f"{at or 'the whole'}: {first['msg'][:1].lower()}{first['msg'][1:]}"


class ConditionEntry(_Part):
    """A condition as `Condition.as_dict` writes it; its name says all, so the other fields are for people."""

    model_config = ConfigDict(extra="allow")

    index: int
    """Place in the search space."""
    name: str


class GitState(_Part):
    """The code that ran."""

    sha: str | None
    dirty_diff: str | None = None
    """Changes of the package against that revision."""


class Machine(_Part):
    """The machine that the launch ran on."""

    host: str
    system: str
    cpus: int | None
    memory_bytes: int


class Provenance(_Part):
    """What ran, where and when."""

    started_at: str
    git: GitState
    versions: dict[str, str]
    machine: Machine
    user: str


class Launch(Provenance):
    """One launch of a run."""

    command: str


class SweepRecord(_Record):
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
            raise DamagedError(f"sweep.json is damaged (task.{_first_problem(e, b'x')}); {self.REMEDY}") from None

    @property
    def effective_beta(self) -> float:
        """Beta of the effective number of samples that the sweep was trained with."""
        loss = self.sweep.get("loss")
        beta = loss.get("effective_beta") if isinstance(loss, dict) else None
        return float(beta) if isinstance(beta, int | float) and 0 < beta < 1 else 0.999

    def resolved(self, path: Path) -> Sweep:
        """The configuration; `path` is the file that this record was read from, for the error."""
        from wlsweep.spec.config import Sweep

        try:
            return Sweep.model_validate(self.sweep)
        except ValidationError as e:
            raise DamagedError(f"{path} is damaged (sweep.{_first_problem(e, b'x')}); {self.REMEDY}") from None


class FileState(_Part):
    """A data file, or the files of one set, as they were read."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    parts: list[FileState] = []
    """Each file of a set that has several."""


class SourceRecord(_Part):
    """A set of rows."""

    path: str
    sha256: str
    rows: int
    accepts: int
    rejects: int


class ClassCounts(_Part):
    """Rows by class."""

    accepts: int
    rejects: int


class MixRecord(ClassCounts):
    """The training rows of one proportion, repetitions counted."""

    distinct_accepts: int
    distinct_rejects: int
    duplicates: int
    most_uses: int
    short_by: ClassCounts


class Truncation(_Part):
    """Share of rows that were cut."""

    share: float
    by_class: dict[str, float]
    by_year: dict[str, float]


class AnswerRecord(_Part):
    """Tokens of the two answers."""

    prefix: list[int]
    accept: int
    reject: int
    suffix: list[int]
    reject_suffix: list[int] | None = None


class Lengths(_Part):
    """Tokens of a set's rows, answers included."""

    mean: float
    max: int
    total: int


class DataRecord(_Record):
    """`data/data.json`: what the finished data stage made."""

    REMEDY = "delete it and run the sweep again: the data stage is made again, what is trained is kept"

    fingerprint: str
    """Hash of `identity`."""
    identity: dict[str, JsonValue]
    """What decides rows and tokens."""
    files: dict[str, FileState]
    source: SourceRecord
    test: SourceRecord
    pool: SourceRecord | None = None
    validation: SourceRecord | None = None
    """Training rows that are held out, where `data.validation_share` is above 0; `source` is without them."""
    split_off: bool
    """Whether the test set is a share of the source."""
    resampling: str
    cutoff: int
    system: str = "keep"
    """What was done with system turns."""
    seed: int
    limit: int | None
    mixes: dict[str, MixRecord]
    """By proportion, `1/3`."""
    shapes: dict[str, str] = {}
    """How each set was written, such as `OpenAI messages (JSON Lines)`; empty in runs of before 0.2.0."""
    notes: list[str]
    """What is not read, and where the policy fell short."""
    truncated: dict[str, Truncation]
    tokens: dict[str, str]
    """Folder of each token table, in the cache."""
    answer: AnswerRecord
    control_tokens_broken: dict[str, int]
    tokens_per_row: dict[str, Lengths]

    @property
    def task(self) -> Task:
        """The task whose labels the rows have; its words are those of `sweep.json`."""
        match self.identity.get("task"):
            case [str(positive), str(negative), str(answer)]:
                return Task(positive=positive, negative=negative, answer=answer)
            case _:
                return ICLR


class ClassWeights(_Part):
    """Weight of a sample's loss, by its label."""

    accept: float
    reject: float


VALIDATION_METRICS = ("loss", "bce", "auc", "accuracy", "accept_rate")
"""What a validation measures."""
VALIDATION = "validation_"
"""What their names begin with in a metric log."""


class MetricLine(_Part):
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


class TrainingSeconds(_Part):
    """Seconds of one training."""

    start: float
    steps: float
    """Validation included."""
    validation: float = 0.0


class TrainedOn(_Part):
    """Where a condition was trained."""

    host: str
    device: str
    workers: int


class ProbeRow(_Part):
    """The trained model's own label log-probabilities on one row of its mix."""

    row: int
    logprob_accept: float
    logprob_reject: float


class ModelRecord(_Part):
    """The saved model."""

    fingerprint: str
    """Hash of the weight files; predictions carry it."""
    bytes: int


class TrainedRecord(_Record):
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


class ConditionConfig(_Record):
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


class FailedRecord(_Record):
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


class LeaseRecord(_Record):
    """`lease.json`: who works on something right now."""

    REMEDY = "if no launch runs, delete it"

    owner: str
    machine: str
    """Host and process-number space."""
    pid: int
    started: str | None
    """Start time of the process in clock ticks."""
    nonce: str = ""


class SecondsRecord(_Record):
    """`logs/seconds.json`: seconds of each stage of the last launch that did anything."""

    model_config = ConfigDict(extra="allow")

    all: float


class UsageSpan(_Part):
    """A stretch of time in which a process held what it holds, doing one thing."""

    what: Literal["start", "work", "wait"]
    """Getting ready (imports, loading an engine), working on conditions or a stage, waiting for the next."""
    stage: str
    """`train` or `predict`; of a launch also `data`, `evaluate`, `report`."""
    conditions: list[str] = []
    """What it worked on; several adapters that are predicted together share the span evenly: each has the same rows."""
    attempt: int = 0
    seconds: float = Field(ge=0)
    outcome: str | None = None
    """`done`, `failed`, `stopped`, ...; None while it lasts, and for ever if the process was killed."""
    energy_joules: float | None = None
    """Of the process's GPUs, by NVML; None where that cannot be told."""
    checkpoint_bytes: int = 0
    """Written into resume checkpoints, by all ranks together."""


class UsageRecord(_Record):
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


class PlanRecord(_Record):
    """`plan.json`: what `wlsweep plan` said of the whole search space when the run began."""

    REMEDY = "delete it: what was used is then compared with no plan"

    made_at: str
    plan: dict[str, JsonValue]
    """What `wlsweep plan --json` prints."""


class SkippedRecord(RootModel[dict[str, str]]):
    """`skipped.json`: conditions that `--until-decided` left out, and why."""

    model_config = ConfigDict(frozen=True, strict=True)

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_json(path, self.root)

    @classmethod
    def find(cls, path: Path) -> dict[str, str]:
        """Reason by condition; empty where there is no such file."""
        data = read_bytes(path)
        if data is None:
            return {}
        try:
            return cls.model_validate_json(data).root
        except ValidationError as e:
            raise DamagedError(
                f"{path} is damaged ({_first_problem(e, data)}); delete it, it only says why conditions were left out"
            ) from None


_METRIC_LINE = TypeAdapter(MetricLine)


def read_metric_log(path: Path) -> list[MetricLine]:
    """The metric log of a condition; a last line that a killed process left half-written is left out.

    Raises:
        DamagedError: for any other line that is none, naming it.
        UnreadableError: if the system does not let this process read it.
    """
    data = read_bytes(path) or b""
    found: list[MetricLine] = []
    for number, line, ended in _lines(data):
        try:
            found.append(_METRIC_LINE.validate_json(line))
        except ValidationError as e:
            if not ended:
                break
            raise DamagedError(
                f"{path} is damaged (line {number}: {_first_problem(e, line)}); delete the file: it holds the training "
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
            return _METRIC_LINE.validate_json(line)
        except ValidationError:
            continue
    return None


def _lines(data: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """(number from 1, line, whether a line break ends it) of every line that is not blank."""
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if line.strip():
            yield number, line, line.endswith(b"\n")


def plain(record: BaseModel | None) -> dict[str, Any]:
    """A record as plain data; empty for None."""
    return {} if record is None else json.loads(record.model_dump_json())
