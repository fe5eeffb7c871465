"""Where the rows of a sweep come from, and how many there are: cheap enough for `wlsweep plan`, imports no engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wlsweep.data.mix import MixCount, Stock, plan_counts, scale_table
from wlsweep.data.row_files import RowFiles, is_file, recorded_files, row_files, sets_in
from wlsweep.data.rows import notes_on, read_rows, shape_text
from wlsweep.data.split import limited_counts, refuse_impossible_share, refuse_shared, test_count, validation_counts
from wlsweep.errors import WlsweepError
from wlsweep.run.data_record import DataRecord
from wlsweep.spec.config import Sweep
from wlsweep.spec.data_section import Columns, Data
from wlsweep.spec.task import ICLR, Task, Words


class Inputs(NamedTuple):
    """The sets of a sweep."""

    train: RowFiles
    test: RowFiles | None
    """None: a share of `train` is split off."""
    pool: RowFiles | None

    @property
    def named(self) -> dict[str, RowFiles]:
        """Those that there are, by role."""
        return {role: files for role, files in self._asdict().items() if files is not None}


class SourceCounts(NamedTuple):
    """Rows by class, after the split and the limit of a trial run."""

    stock: Stock
    test_accepts: int | None
    """None where no file is there to be counted."""
    test_rejects: int | None
    origin: str
    """`files`, `synthetic` or `table`: what was counted."""
    validation_accepts: int = 0
    """Rows that validation gets; none where `data.validation_share` is 0."""
    validation_rejects: int = 0


def find_inputs(data: Data, cache: Path, task: Task = ICLR) -> Inputs:
    """The files that a sweep reads; synthetic papers are made here on first use.

    Raises:
        WlsweepError: if there are none, a folder does not hold exactly one training set, or it holds another test set than
            `data.test`.
    """
    if data.synthetic is not None:
        from wlsweep.data.synthetic import ensure_synthetic

        files = ensure_synthetic(data.synthetic, cache, task)
        return Inputs(row_files(files.train), row_files(files.test), None)
    if data.source is None:
        raise WlsweepError("no rows to train on: give --data FILE_OR_FOLDER, or [data] source in the search space")
    source = Path(data.source)
    test = row_files(Path(data.test), data.columns) if data.test else None
    if is_file(source) or not source.is_dir():
        train = row_files(source, data.columns)
    else:
        train, own_test = sets_in(source, data.columns)
        if own_test is not None and test is not None and own_test.path.resolve() != test.path.resolve():
            raise WlsweepError(
                f"two test sets: {own_test} lies beside the training rows, and [data] test = {data.test!r}; take one away: "
                "remove data.test from the search space, or give the training file itself with --data"
            )
        test = test or own_test
        if not train.path.is_dir():  # what `save_to_disk` wrote says itself what belongs to it
            _refuse_unclear(train.path.parent, [files for files in (train, own_test) if files], test is not None)
    pool = row_files(Path(data.pool), data.columns) if data.resampling == "pool" and data.pool else None
    return Inputs(train, test, pool)


def recorded_sets(record: DataRecord) -> list[RowFiles]:
    """The sets that a data stage read, as its record says."""
    named = record.identity.get("columns")
    columns = None if named is None else Columns.model_validate(named)
    return [recorded_files(state, columns) for state in record.files.values()]


def source_counts(sweep: Sweep) -> SourceCounts:
    """Count rows without tokenising: reads files (one pass each), synthetic papers and tables are counted unread.

    Raises:
        WlsweepError: for bad rows, or where nothing can be counted.
    """
    data = sweep.data
    test: tuple[int, int] | None
    if data.synthetic is not None:
        train, test = _balanced(data.synthetic.train_rows), _balanced(data.synthetic.test_rows)
        return _limited(Stock(*train), test, sweep, "synthetic")
    if data.source is None and data.table is not None:
        best = max(data.table.values(), key=lambda counts: counts[0])
        return _limited(Stock(*best), None, sweep, "table")
    inputs = find_inputs(data, Path())
    keys, counts = {}, {}
    for role, files in inputs.named.items():
        rows = [(row.row_id, row.row_hash, row.label == sweep.task.positive) for row in read_rows(files, sweep.task)]
        keys[role], accepts = [row[:2] for row in rows], sum(row[2] for row in rows)
        counts[role] = accepts, len(rows) - accepts
    refuse_shared({role: (keys[role], files) for role, files in inputs.named.items()}, sweep.task.words)
    train, test = counts["train"], counts.get("test")
    if test is None:
        refuse_impossible_share(data.test_share)
        test = test_count(train[0], data.test_share), test_count(train[1], data.test_share)
        train = train[0] - test[0], train[1] - test[1]
    refuse_one_class("the test set", *test, sweep.task.words)
    return _limited(Stock(*train, *counts.get("pool", (0, 0))), test, sweep, "files")


def planned_mixes(sweep: Sweep, stock: Stock) -> dict[int, MixCount]:
    """Rows of every proportion of the sweep, by k: what the data stage draws.

    Raises:
        WlsweepError: if the policy cannot give them.
    """
    table = scale_table(sweep.data.table, sweep.data.limit, sweep.data.validation_share)
    return plan_counts(sweep.data.resampling, {c.k for c in sweep.conditions}, stock, table, sweep.task.words)


def _limited(stock: Stock, test: tuple[int, int] | None, sweep: Sweep, origin: str) -> SourceCounts:
    """Counts after validation has got its share of the training rows, and then the limit of each set."""
    validation = validation_counts(stock.accepts, stock.rejects, sweep.data.validation_share, sweep.task.words)
    stock = stock._replace(accepts=stock.accepts - validation[0], rejects=stock.rejects - validation[1])
    if (limit := sweep.data.limit) is not None:
        validation = limited_counts(*validation, limit)
        kept = limited_counts(stock.accepts, stock.rejects, limit)
        pool = limited_counts(stock.pool_accepts, stock.pool_rejects, limit)
        stock = Stock(*kept, *pool)
        test = limited_counts(*test, limit) if test else None
    return SourceCounts(stock, test[0] if test else None, test[1] if test else None, origin, *validation)


def _balanced(rows: int) -> tuple[int, int]:
    return (rows + 1) // 2, rows // 2


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


def shapes_and_notes(sweep: Sweep) -> tuple[dict[str, str], list[str]]:
    """How each set is written, by role, such as `OpenAI messages (JSON Lines)`, and what a user should know of how the files
    of a sweep are read, a line each; nothing of synthetic papers."""
    if sweep.data.source is None:
        return {}, []
    named = find_inputs(sweep.data, Path()).named
    notes = dict.fromkeys(line for files in named.values() for line in notes_on(files, sweep.task))
    return {role: shape_text(files) for role, files in named.items()}, list(notes)


_UNCLEAR = re.compile(
    r"(train|training|test|testing|valid|validation|val|dev|eval|evaluation|holdout)([^a-z].*)?\."
    r"(json|jsonl|ndjson|parquet|csv|tsv|arrow)(\.(gz|zst|bz2|xz|zip))?",
    re.IGNORECASE,
)


def _refuse_unclear(folder: Path, read: Sequence[RowFiles], has_test: bool) -> None:
    """Refuse a folder with a file beside those that are read that looks like a set of its own.

    Raises:
        WlsweepError: naming each.
    """
    known = {path for files in read for path in files.files}
    beside = [p.name for p in sorted(folder.iterdir()) if p not in known and _UNCLEAR.fullmatch(p.name)]
    if has_test:  # a validation set beside train and test is no mistake
        beside = [name for name in beside if name.lower().startswith(("train", "test"))]
    if beside:
        raise WlsweepError(
            f"{folder} holds {', '.join(beside)}, which would not be read: {' and '.join(f.path.name for f in read)} "
            "would. The names are train.json, train.jsonl, train.csv or train.parquet (shards: "
            "train-00000-of-00002.parquet), and test.* for the test set; rename it, merge it into one of them, or move it "
            "elsewhere"
        )
