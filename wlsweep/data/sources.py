"""Where the rows of a sweep come from, and how many there are: cheap enough for `wlsweep plan`, imports no engine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wlsweep.data.mix import MixCount, Stock, plan_counts, scale_table
from wlsweep.data.read_files import shortened
from wlsweep.data.rows import notes_on, read_rows
from wlsweep.data.split import check_disjoint, limited_counts, refuse_impossible_share, test_count
from wlsweep.errors import WlsweepError
from wlsweep.run.records import FileState
from wlsweep.spec.config import Data, Sweep
from wlsweep.spec.task import ICLR, Task, Words

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


def find_inputs(data: Data, cache: Path, task: Task = ICLR) -> Inputs:
    """The files that a sweep reads; synthetic papers are made here on first use.

    Raises:
        WlsweepError: if there are none, a folder does not hold exactly one `train.*`, or it holds another test set than
            `data.test`.
    """
    if data.synthetic is not None:
        from wlsweep.data.synthetic import ensure_synthetic

        files = ensure_synthetic(data.synthetic, cache, task)
        return Inputs(files.train, files.test, None)
    if data.source is None:
        raise WlsweepError("no rows to train on: give --data FILE_OR_FOLDER, or [data] source in the search space")
    source, test = Path(data.source), Path(data.test) if data.test else None
    if _is_folder(source):
        found = _named(source, "train")
        if found is None:
            raise WlsweepError(f"{source} holds no train.json, train.jsonl or train.parquet")
        own_test = _named(source, "test")
        _refuse_unclear(source, [p for p in (found, own_test) if p], bool(test or own_test))
        if own_test is not None and test is not None and own_test.resolve() != test.resolve():
            raise WlsweepError(
                f"two test sets: {own_test} lies beside the training rows, and [data] test = {str(test)!r}; take one away: "
                "remove data.test from the search space, or give the training file itself with --data"
            )
        source, test = found, test or own_test
    pool = Path(data.pool) if data.resampling == "pool" and data.pool else None
    for path in (source, test, pool):
        if path is not None and not _is_file(path):
            raise WlsweepError(f"{shortened(path)}: no such file; check --data and [data]")
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
    keys = {role: _keys(path, sweep.task) for role, path in inputs._asdict().items() if path is not None}
    _refuse_shared(inputs, keys, sweep.task.words)
    train = _counts(keys["train"])
    if inputs.test is not None:
        test = _counts(keys["test"])
    else:
        refuse_impossible_share(data.test_share)
        test = test_count(train[0], data.test_share), test_count(train[1], data.test_share)
        train = train[0] - test[0], train[1] - test[1]
    refuse_one_class("the test set", *test, sweep.task.words)
    pool = _counts(keys["pool"]) if "pool" in keys else (0, 0)
    return _limited(Stock(*train, *pool), test, limit, "files")


def planned_mixes(sweep: Sweep, counts: SourceCounts, limit: int | None = None) -> dict[int, MixCount]:
    """Rows of every proportion of the sweep, by k: what the data stage will draw.

    Raises:
        WlsweepError: if the policy cannot give them.
    """
    table = sweep.data.table
    if table is not None and limit is not None:
        table = scale_table(table, limit)
    return plan_counts(sweep.data.resampling, {c.k for c in sweep.conditions}, counts.stock, table, sweep.task.words)


def _limited(stock: Stock, test: tuple[int, int] | None, limit: int | None, origin: str) -> SourceCounts:
    if limit is not None:
        kept = limited_counts(stock.accepts, stock.rejects, limit)
        pool = limited_counts(stock.pool_accepts, stock.pool_rejects, limit)
        stock = Stock(*kept, *pool)
        test = limited_counts(*test, limit) if test else None
    return SourceCounts(stock, test[0] if test else None, test[1] if test else None, origin)


def _balanced(rows: int) -> tuple[int, int]:
    return (rows + 1) // 2, rows // 2


Keys = list[tuple[str, str, bool]]
"""(row id, row hash, whether it has the positive label) of every row."""


def _keys(path: Path, task: Task) -> Keys:
    return [(row.row_id, row.row_hash, row.label == task.positive) for row in read_rows(path, task)]


def _counts(keys: Keys) -> tuple[int, int]:
    accepts = sum(accept for *_, accept in keys)
    return accepts, len(keys) - accepts


def _refuse_shared(inputs: Inputs, keys: Mapping[str, Keys], words: Words) -> None:
    """Refuse items in two of the sets, as the data stage does."""
    for first, second in (("train", "test"), ("pool", "test"), ("pool", "train")):
        if first in keys and second in keys:
            paths = inputs._asdict()
            check_disjoint(
                [key[:2] for key in keys[first]],
                [key[:2] for key in keys[second]],
                f"{first} ({paths[first]})",
                f"{second} ({paths[second]})",
                words,
            )


def refuse_one_class(name: str, accepts: int, rejects: int, words: Words = ICLR.words) -> None:
    """Refuse a set that has rows of one class only: nothing can be measured on it.

    Raises:
        WlsweepError: saying which class it lacks.
    """
    if not accepts or not rejects:
        lacks = words.negatives if accepts else words.positives
        raise WlsweepError(
            f"{name} holds {accepts + rejects:,} rows and no {lacks}; it needs both classes (check the labels, or give "
            "another file)"
        )


def data_notes(sweep: Sweep, cache: Path) -> list[str]:
    """What a user should know of how the files of a sweep are read, a line each; nothing of synthetic papers."""
    if sweep.data.synthetic is not None or sweep.data.source is None:
        return []
    return list(
        dict.fromkeys(line for path in find_inputs(sweep.data, cache) if path for line in notes_on(path, sweep.task))
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as e:  # a name that is too long, a folder that may not be entered, a zero byte
        raise WlsweepError(
            f"{shortened(path)} cannot be read: {getattr(e, 'strerror', None) or e}; check --data"
        ) from None


def _is_folder(path: Path) -> bool:
    return not _is_file(path) and path.is_dir()


_UNCLEAR = re.compile(
    r"(train|training|test|testing|valid|validation|val|dev|eval|evaluation|holdout)([^a-z].*)?\."
    r"(json|jsonl|ndjson|parquet|csv|tsv|arrow)(\.(gz|zst|bz2|xz|zip))?",
    re.IGNORECASE,
)


def _refuse_unclear(folder: Path, read: Sequence[Path], has_test: bool) -> None:
    """Refuse a folder with a file beside those that are read that looks like a set of its own.

    Raises:
        WlsweepError: naming each.
    """
    beside = [p.name for p in sorted(folder.iterdir()) if p not in read and _UNCLEAR.fullmatch(p.name)]
    if has_test:  # a validation set beside train and test is no mistake
        beside = [name for name in beside if name.lower().startswith(("train", "test"))]
    if beside:
        raise WlsweepError(
            f"{folder} holds {', '.join(beside)}, which would not be read: {' and '.join(p.name for p in read)} would. "
            "The names are train.json, train.jsonl or train.parquet, and test.* for the test set; rename it, merge it "
            "into one of them, or move it elsewhere"
        )


def _named(folder: Path, name: str) -> Path | None:
    found = [folder / f"{name}.{ending}" for ending in _ENDINGS if (folder / f"{name}.{ending}").is_file()]
    if len(found) > 1:
        raise WlsweepError(f"{folder} holds {' and '.join(f.name for f in found)}; keep one of them")
    return found[0] if found else None
