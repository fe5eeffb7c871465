"""Tokenised rows on disk: made once per (source, tokenizer, cutoff), shared by all runs, conditions and ranks.

A table is a folder `tokens/FINGERPRINT/` of the cache: `tokens.arrow` (uncompressed Arrow, so that every rank maps the
same pages instead of holding its own copy of 190 million tokens), `prompts.parquet` (texts, where they were asked for)
and `table.json`. The folder appears whole under its name; of two processes that make it at once the first one wins, and
both have made the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from wlsweep.data.row_files import RowFiles
from wlsweep.data.rows import Row, read_rows
from wlsweep.data.tokenise import (
    AnswerTokens,
    CutoffError,
    find_answer_tokens,
    load_tokenizer,
    place_system,
    smallest_cutoff,
    tokenise_rows,
)
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import atomic_folder, read_json, write_json
from wlsweep.spec.data_section import SystemTurns
from wlsweep.spec.task import ICLR, Task

FORMAT = 2
"""Raised whenever the same inputs would give another table."""
BATCH = 128
"""Rows tokenised at a time: enough for all cores, about 100 MB of encodings at a cutoff of 4096."""

TOKENS = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("row_hash", pa.string(), nullable=False),
        pa.field("year", pa.int32()),
        pa.field("label", pa.string(), nullable=False),  # one of the task's label texts
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("true_log_odds", pa.float64()),
        pa.field("prompt_ids", pa.list_(pa.field("token", pa.int32(), nullable=False)), nullable=False),
    ]
)
"""`tokens.arrow`, in the order of the source; prompt_ids: system, instruction, paper, assistant header."""
PROMPTS = pa.schema([pa.field("row_id", pa.string(), nullable=False), pa.field("prompt", pa.string(), nullable=False)])
"""`prompts.parquet`: the same rows in the same order."""


@dataclass(frozen=True)
class TokenTable:
    """One tokenised file, mapped into memory: columns of n rows."""

    folder: Path
    row_ids: list[str]
    row_hashes: list[str]
    years: list[int | None]
    accept: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    """Tokens of the prompts, without answers."""
    true_log_odds: list[float | None]
    labels: tuple[str, str]
    """The task's label texts, the positive one first."""
    answer: AnswerTokens
    cleaned: int
    """Rows whose papers spelled control tokens, which were broken up with a space."""
    _prompts: list[NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.row_ids)

    def prompt(self, row: int) -> NDArray[np.int32]:
        """int32 [length], a read-only view of the mapped file."""
        return self._prompts[row]

    def texts(self) -> list[str]:
        """The prompts as text; only of tables that were made with them."""
        column = pq.read_table(self.folder / "prompts.parquet", columns=["prompt"])["prompt"]
        return list(column.to_pylist())


class TableKey(NamedTuple):
    """What decides the bytes of a table."""

    source_sha256: str
    """Of the rows' files, and of what else decides how they are read (`RowFiles.content_key`)."""
    tokenizer_sha256: str
    """Of vocabulary, special tokens and chat template."""
    cutoff: int
    selection: str = ""
    """Names the subset that a trial run tokenises; empty for all rows."""
    texts: bool = False
    """Whether the prompts are kept as text too, as test sets need."""
    system: SystemTurns = "keep"
    """What becomes of the rows' system turns."""
    task: Task = ICLR
    """Label texts and form of the answer."""

    @property
    def fingerprint(self) -> str:
        """Name of the folder; defaults are left out, so that tables from before there was a choice keep theirs."""
        parts: list[Any] = list(self[:-2])
        if self.system != "keep" or self.task.identity:
            parts.append(self.system)
        if self.task.identity:
            parts.append(self.task.identity)
        return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:20]


def ensure_table(
    key: TableKey,
    source: RowFiles | Path,
    model: Path | str,
    cache: Path,
    on_progress: Callable[[str], None],
    only: Collection[str] | None = None,
) -> TokenTable:
    """The tokenised rows of a file: made on first use, found in the cache later.

    Args:
        key: of the table; `source` and `model` must be what it was computed from.
        source: the rows.
        model: folder of the tokenizer.
        cache: the folder that holds `tokens/`.
        on_progress: hears a line every few seconds.
        only: ids of the rows to tokenise, named by `key.selection`; without it all.

    Raises:
        WlsweepError: for bad rows, an unusable tokenizer or a cutoff that is too small (with the one that is needed).
            Then nothing is left behind.
    """
    folder = cache / "tokens" / key.fingerprint
    if not folder.is_dir():
        on_progress(f"tokenising {source}")
        with atomic_folder(folder) as temporary:
            _write(key, source, model, temporary, on_progress, only)
    return open_table(folder)


def open_table(folder: Path) -> TokenTable:
    """Map a finished table.

    Raises:
        WlsweepError: if it is not there or not whole.
    """
    record_path, tokens_path = folder / "table.json", folder / "tokens.arrow"
    if not record_path.is_file():
        raise WlsweepError(f"{folder}: no token table; run the data stage again (wlsweep run SWEEP.toml --stage data)")
    record = read_json(record_path)
    size = tokens_path.stat().st_size if tokens_path.is_file() else -1
    if size != record["bytes"]:
        raise WlsweepError(f"{tokens_path} has {size} bytes, expected {record['bytes']}; delete {folder} and run again")
    table = pa.ipc.open_file(pa.memory_map(str(tokens_path))).read_all()
    positive, negative = record.get("labels", ICLR.labels)  # unnamed in tables from before there was a choice
    labels = (positive, negative)
    prompts: list[NDArray[np.int32]] = []
    for batch in table["prompt_ids"].chunks:
        values = batch.values.to_numpy()
        prompts += [values[start:end] for start, end in pairwise(batch.offsets.tolist())]
    return TokenTable(
        folder=folder,
        row_ids=table["row_id"].to_pylist(),
        row_hashes=table["row_hash"].to_pylist(),
        years=table["year"].to_pylist(),
        accept=np.array([label == labels[0] for label in table["label"].to_pylist()], dtype=bool),
        truncated=np.array(table["truncated"].to_pylist(), dtype=bool),
        lengths=np.array([len(ids) for ids in prompts], dtype=np.int32),
        true_log_odds=table["true_log_odds"].to_pylist(),
        labels=labels,
        answer=TypeAdapter(AnswerTokens).validate_python(record["answer"]),
        cleaned=record["cleaned"],
        _prompts=prompts,
    )


def _write(
    key: TableKey,
    source: RowFiles | Path,
    model: Path | str,
    folder: Path,
    on_progress: Callable[[str], None],
    only: Collection[str] | None,
) -> None:
    tokenizer = load_tokenizer(model)
    answer = find_answer_tokens(tokenizer, key.task)
    chosen = (row for row in read_rows(source, key.task) if only is None or row.row_id in only)
    rows = (place_system(row, key.system) for row in chosen)
    count = tokens = cleaned = 0
    started = told = time.monotonic()
    with (
        pa.ipc.new_file(folder / "tokens.arrow", TOKENS) as out,
        pq.ParquetWriter(folder / "prompts.parquet", PROMPTS, compression="zstd")
        if key.texts
        else nullcontext() as texts,
    ):
        for batch in _batched(rows, BATCH):
            try:
                prompts = tokenise_rows(tokenizer, batch, key.cutoff, answer)
            except CutoffError as e:
                needed = max(smallest_cutoff(tokenizer, part, answer) for part in (batch, *_batched(rows, BATCH)))
                raise WlsweepError(
                    f"{source}: {e} for system prompt, instruction, assistant header, answer and the start of its "
                    f"{key.task.words.item}; set [data] cutoff to at least {needed}"
                ) from None
            columns = zip(*[(r.row_id, r.row_hash, r.year, r.label, r.true_log_odds) for r in batch], strict=True)
            ids, hashes, years, labels, odds = map(list, columns)
            truncated, token_ids = [p.truncated for p in prompts], [p.ids for p in prompts]
            out.write_batch(pa.record_batch([ids, hashes, years, labels, truncated, odds, token_ids], schema=TOKENS))
            if texts is not None:
                texts.write_batch(pa.record_batch([ids, [p.text for p in prompts]], schema=PROMPTS))
            count += len(batch)
            tokens += sum(map(len, token_ids))
            cleaned += sum(p.cleaned for p in prompts)
            if time.monotonic() - told > 2:
                told = time.monotonic()
                rate = count / (told - started)
                on_progress(f"tokenising {source.name}: {count:,} rows, {rate:,.0f} rows/s, {tokens:,} tokens kept")
    record: dict[str, Any] = {
        "format": FORMAT,
        "key": key._asdict() | {"task": key.task.identity},
        "labels": key.task.labels,
        "rows": count,
        "tokens": tokens,
        "cleaned": cleaned,
        "bytes": (folder / "tokens.arrow").stat().st_size,
        "seconds": round(time.monotonic() - started, 3),
        "answer": answer._asdict(),
    }
    write_json(folder / "table.json", record)


def _batched(rows: Iterable[Row], size: int) -> Iterator[Sequence[Row]]:
    """Like itertools.batched, which Python 3.11 has not; goes on where an iterator stands."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch
