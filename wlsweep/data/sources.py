"""Where the rows of a sweep come from, and how many there are: cheap enough for `wlsweep plan`, imports no engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from wlsweep.data.mix import MixCount, Stock, plan_counts, scale_table
from wlsweep.data.rows import read_rows
from wlsweep.data.split import limited_counts, test_count
from wlsweep.errors import WlsweepError
from wlsweep.run.columns import ACCEPT
from wlsweep.run.records import FileState
from wlsweep.spec.config import Data, Sweep

_ENDINGS = ("json", "jsonl", "parquet")


class Inputs(NamedTuple):
    """Files of a sweep."""

    train: Path
    test: Path | None
    """None: a share of `train` is split off."""
    pool: Path | None


class SourceCounts(NamedTuple):
    """Rows by class, after the split and the limit of a trial run."""

    stock: Stock
    test_accepts: int | None
    """None where no file is there to be counted."""
    test_rejects: int | None
    origin: str
    """`files`, `synthetic` or `table`: what was counted."""


def find_inputs(data: Data, cache: Path) -> Inputs:
    """The files that a sweep reads; synthetic papers are made here on first use.

    Raises:
        WlsweepError: if there are none, or a folder does not hold exactly one `train.*`.
    """
    if data.synthetic is not None:
        from wlsweep.data.synthetic import ensure_synthetic

        files = ensure_synthetic(data.synthetic, cache)
        return Inputs(files.train, files.test, None)
    if data.source is None:
        raise WlsweepError("no rows to train on: give --data FILE_OR_FOLDER, or [data] source in the search space")
    source, test = Path(data.source), Path(data.test) if data.test else None
    if source.is_dir():
        found = _named(source, "train")
        if found is None:
            raise WlsweepError(f"{source} holds no train.json, train.jsonl or train.parquet")
        source, test = found, test or _named(source, "test")
    pool = Path(data.pool) if data.resampling == "pool" and data.pool else None
    for path in (source, test, pool):
        if path is not None and not path.is_file():
            raise WlsweepError(f"{path}: no such file; check --data and [data]")
    return Inputs(source, test, pool)


def state_of(path: Path, earlier: FileState | None = None) -> FileState:
    """Size, time and sha256 of a file; not read again if size and time are as they were."""
    stat = path.stat()
    if earlier and (stat.st_size, stat.st_mtime_ns) == (earlier.size, earlier.mtime_ns):
        return earlier.model_copy(update={"path": str(path.resolve())})
    with path.open("rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    return FileState(path=str(path.resolve()), size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256)


def source_counts(sweep: Sweep, limit: int | None = None) -> SourceCounts:
    """Count rows without tokenising: reads files (one pass each), synthetic papers and tables are counted unread.

    Raises:
        WlsweepError: for bad rows, or where nothing can be counted.
    """
    data = sweep.data
    test: tuple[int, int] | None
    if data.synthetic is not None:
        train, test = _balanced(data.synthetic.train_rows), _balanced(data.synthetic.test_rows)
        return _limited(Stock(*train), test, limit, "synthetic")
    if data.source is None and data.table is not None:
        best = max(data.table.values(), key=lambda counts: counts[0])
        return _limited(Stock(*best), None, limit, "table")
    inputs = find_inputs(data, Path())
    train = _count(inputs.train)
    if inputs.test is not None:
        test = _count(inputs.test)
    else:
        test = test_count(train[0], data.test_share), test_count(train[1], data.test_share)
        train = train[0] - test[0], train[1] - test[1]
    pool = _count(inputs.pool) if inputs.pool else (0, 0)
    return _limited(Stock(*train, *pool), test, limit, "files")


def planned_mixes(sweep: Sweep, counts: SourceCounts, limit: int | None = None) -> dict[int, MixCount]:
    """Rows of every proportion of the sweep, by k: what the data stage will draw.

    Raises:
        WlsweepError: if the policy cannot give them.
    """
    table = sweep.data.table
    if table is not None and limit is not None:
        table = scale_table(table, limit)
    return plan_counts(sweep.data.resampling, {c.k for c in sweep.conditions}, counts.stock, table)


def _limited(stock: Stock, test: tuple[int, int] | None, limit: int | None, origin: str) -> SourceCounts:
    if limit is not None:
        kept = limited_counts(stock.accepts, stock.rejects, limit)
        pool = limited_counts(stock.pool_accepts, stock.pool_rejects, limit)
        stock = Stock(*kept, *pool)
        test = limited_counts(*test, limit) if test else None
    return SourceCounts(stock, test[0] if test else None, test[1] if test else None, origin)


def _balanced(rows: int) -> tuple[int, int]:
    return (rows + 1) // 2, rows // 2


def _count(path: Path) -> tuple[int, int]:
    return _count_labels(row.label for row in read_rows(path))


def _count_labels(labels: Iterable[str]) -> tuple[int, int]:
    accepts = total = 0
    for label in labels:
        accepts += label == ACCEPT
        total += 1
    return accepts, total - accepts


def _named(folder: Path, name: str) -> Path | None:
    found = [folder / f"{name}.{ending}" for ending in _ENDINGS if (folder / f"{name}.{ending}").is_file()]
    if len(found) > 1:
        raise WlsweepError(f"{folder} holds {' and '.join(f.name for f in found)}; keep one of them")
    return found[0] if found else None
