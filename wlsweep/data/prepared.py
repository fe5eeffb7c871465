"""The sets of a run once they are tokenised, and what the data stage writes of them: `data.json` and two tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from wlsweep.data.mix import MixCount, Stock, shortfalls
from wlsweep.data.token_table import TokenTable
from wlsweep.run.data_record import (
    AnswerRecord,
    ClassCounts,
    DataRecord,
    FileState,
    Lengths,
    MixRecord,
    SourceRecord,
    Truncation,
)
from wlsweep.spec.config import Sweep


class Part(NamedTuple):
    """Some rows of a token table, in its order."""

    table: TokenTable
    rows: NDArray[np.int64]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(row id, row hash) of each."""
        return [(self.table.row_ids[i], self.table.row_hashes[i]) for i in self.rows]

    def ids(self, accept: bool) -> list[str]:
        """Row ids of one class."""
        return [self.table.row_ids[i] for i in self.rows if self.table.accept[i] == accept]

    @property
    def counts(self) -> tuple[int, int]:
        """Rows of the positive and of the other class."""
        accepts = int(self.table.accept[self.rows].sum())
        return accepts, len(self.rows) - accepts


class Parts(NamedTuple):
    """The sets of a run, disjoint."""

    train: Part
    test: Part
    pool: Part | None
    validation: Part | None

    @property
    def stock(self) -> Stock:
        """What mixes are drawn from."""
        return Stock(*self.train.counts, *(self.pool.counts if self.pool else ()))

    @property
    def named(self) -> dict[str, Part]:
        """Those that there are, by role."""
        return {role: part for role, part in self._asdict().items() if part is not None}


def data_record(
    sweep: Sweep,
    read: Sequence[str],
    shapes: dict[str, str],
    states: Mapping[str, FileState],
    identity: dict[str, JsonValue],
    parts: Parts,
    mixes: Mapping[int, tuple[MixCount, Mapping[str, int]]],
) -> DataRecord:
    """What `data.json` holds.

    Args:
        sweep: the search space.
        read: notes on what is not read of the files.
        shapes: how each set is written, by role.
        states: the files that were read, by role.
        identity: what decides rows and tokens.
        parts: the sets.
        mixes: rows of each mix, and how often each that was drawn for it is used, by k.
    """
    accepts = set(parts.train.ids(True)) | set(parts.pool.ids(True) if parts.pool else ())

    def source(role: str, part: Part) -> SourceRecord:
        state, (a, r) = states.get(role, states["train"]), part.counts
        return SourceRecord(path=state.path, sha256=state.sha256, rows=a + r, accepts=a, rejects=r)

    def mix(count: MixCount, uses: Mapping[str, int]) -> MixRecord:
        distinct = sum(row_id in accepts for row_id in uses)
        return MixRecord(
            accepts=count.accepts,
            rejects=count.rejects,
            distinct_accepts=distinct,
            distinct_rejects=len(uses) - distinct,
            duplicates=count.total - len(uses),
            most_uses=max(uses.values()),
            short_by=ClassCounts(accepts=count.short_accepts, rejects=count.short_rejects),
        )

    named = parts.named
    sources = {role: source(role, part) for role, part in named.items()}
    counts = {k: count for k, (count, _) in mixes.items()}
    return DataRecord(
        fingerprint=fingerprint_of(identity),
        identity=identity,
        files=dict(states),
        source=sources["train"],
        test=sources["test"],
        pool=sources.get("pool"),
        validation=sources.get("validation"),
        split_off="test" not in states,
        resampling=sweep.data.resampling,
        cutoff=sweep.data.cutoff,
        system=sweep.data.system,
        seed=sweep.data.seed,
        limit=sweep.data.limit,
        mixes={f"1/{k}": mix(*found) for k, found in mixes.items()},
        shapes=shapes,
        notes=[*read, *sweep.data.notes, *shortfalls(sweep.data.resampling, counts, parts.stock, sweep.task.words)],
        truncated={name: _truncation(part) for name, part in named.items()},
        tokens={name: f"tokens/{part.table.folder.name}" for name, part in named.items()},
        answer=AnswerRecord.model_validate(parts.train.table.answer._asdict(), strict=False),
        control_tokens_broken={name: part.table.cleaned for name, part in named.items()},
        tokens_per_row={name: _lengths(part) for name, part in named.items()},
    )


def fingerprint_of(identity: Mapping[str, JsonValue]) -> str:
    """Hash of what decides rows and tokens."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def _truncation(part: Part) -> Truncation:
    """Share of truncated rows: of all, by class and by year ("unknown" without one)."""
    cut = part.table.truncated[part.rows]
    labels = np.where(part.table.accept[part.rows], *part.table.labels)
    years = np.array([str(part.table.years[i] or "unknown") for i in part.rows])

    def shares(of: NDArray[Any]) -> dict[str, float]:
        return {str(value): float(cut[of == value].mean()) for value in np.unique(of)}

    return Truncation(share=float(cut.mean()), by_class=shares(labels), by_year=shares(years))


def _lengths(part: Part) -> Lengths:
    """Tokens of prompt and answer."""
    n = part.table.lengths[part.rows].astype(np.int64) + part.table.answer.lengths(part.table.accept[part.rows])
    return Lengths(mean=float(n.mean()), max=int(n.max()), total=int(n.sum()))


def part_table(part: Part, schema: pa.Schema) -> pa.Table:
    """The rows of a set, in its order: `VALIDATION`, or `TRUTH`, for which its texts must have been kept."""
    table = part.table
    texts = table.texts() if "prompt" in schema.names else [""] * len(table)
    rows = [
        {
            "row_id": table.row_ids[i],
            "row_hash": table.row_hashes[i],
            "year": table.years[i],
            "label": table.labels[0 if table.accept[i] else 1],
            "truncated": bool(table.truncated[i]),
            "true_log_odds": table.true_log_odds[i],
            "prompt": texts[i],
        }
        for i in part.rows
    ]
    return pa.Table.from_pylist(rows, schema=schema)
