"""`data/data.json`: what the finished data stage made, and of what."""

from __future__ import annotations

from pydantic import Field, JsonValue

from wlsweep.run.record import Part, Record
from wlsweep.spec.task import ICLR, Task


class FileState(Part):
    """A data file, or the files of one set, as they were read."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    parts: list[FileState] = Field(default_factory=list)
    """Each file of a set that has several."""


class SourceRecord(Part):
    """A set of rows."""

    path: str
    sha256: str
    rows: int
    accepts: int
    rejects: int


class ClassCounts(Part):
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


class Truncation(Part):
    """Share of rows that were cut."""

    share: float
    by_class: dict[str, float]
    by_year: dict[str, float]


class AnswerRecord(Part):
    """Tokens of the two answers."""

    prefix: list[int]
    accept: int
    reject: int
    suffix: list[int]
    reject_suffix: list[int] | None = None


class Lengths(Part):
    """Tokens of a set's rows, answers included."""

    mean: float
    max: int
    total: int


class DataRecord(Record):
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
    shapes: dict[str, str] = Field(default_factory=dict)
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
