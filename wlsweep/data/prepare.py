"""The data stage: from the files of a sweep to manifests, the truth of the test set, and token tables to train on.

`data.json` is written last and makes the stage finished; `wlsweep.data.load` reads what is written here. A run never
mixes two versions of the data: what decides the rows is recorded, and a change is refused once a condition has been
trained on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from wlsweep.data.mix import draw
from wlsweep.data.prepared import Part, Parts, data_record, fingerprint_of, part_table
from wlsweep.data.row_files import RowFiles, row_files, state_of
from wlsweep.data.rows import read_rows, to_sharegpt
from wlsweep.data.sources import Inputs, find_inputs, planned_mixes, refuse_one_class, shapes_and_notes
from wlsweep.data.split import limit_rows, refuse_shared, split_off_test, split_off_validation
from wlsweep.data.token_table import FORMAT, TableKey, TokenTable, ensure_table
from wlsweep.data.tokenise import tokenizer_hash
from wlsweep.errors import WlsweepError
from wlsweep.run.columns import MANIFEST, TRUTH, VALIDATION
from wlsweep.run.data_record import DataRecord, FileState
from wlsweep.run.layout import RunDir, atomic_file
from wlsweep.run.records import TrainedRecord
from wlsweep.spec.config import Sweep
from wlsweep.spec.task import Task


def prepare_data(
    sweep: Sweep,
    run: RunDir,
    model_path: Path | str,
    on_progress: Callable[[str], None] = lambda _: None,
) -> DataRecord:
    """Make the data of a run, or find it made: reads the source once, then not at all while nothing changes.

    Args:
        sweep: the search space. In a trial run (`data.limit`) test rows are a subset of the real test set, training rows of
            the real training set.
        run: where manifests, truth and record go; token tables go to its cache.
        model_path: folder of the base model, for its tokenizer.
        on_progress: hears one line at a time, shortfalls of the policy among them.

    Returns:
        What `data.json` holds.

    Raises:
        WlsweepError: for bad rows, papers in both train and test, a source that is too small for the policy, a cutoff
            that is too small, or other data than this run's conditions were trained on. The run's data are then as
            they were.
    """
    inputs = find_inputs(sweep.data, run.cache, sweep.task)
    earlier = DataRecord.find(run.data_json)
    known = earlier.files if earlier else {}
    states = {role: state_of(files, known.get(role)) for role, files in inputs.named.items()}
    identity = _identity(sweep, states, tokenizer_hash(model_path))
    ks = sorted({c.k for c in sweep.conditions})
    if earlier is not None and earlier.identity == identity and _whole(run, earlier, ks):
        return earlier
    if earlier is not None:  # before anything is tokenised, and again when the mixes are known
        names = dict.fromkeys([*identity, *earlier.identity])
        _refuse_other_data(run, [n for n in names if earlier.identity.get(n) != identity.get(n)])
    else:
        _refuse_other_data(run, _trained_on_others(run, identity))
    parts = _tokenised(sweep, inputs, identity, model_path, run.cache, on_progress)
    words, seed = sweep.task.words, sweep.data.seed
    # What has no file of its own was split off the training rows.
    refuse_shared({role: (p.keys, inputs.named.get(role, inputs.train)) for role, p in parts.named.items()}, words)
    refuse_one_class("the test set", *parts.test.counts, words)
    pool = (parts.pool.ids(True), parts.pool.ids(False)) if parts.pool else ()
    mixes = {
        k: (count, draw(parts.train.ids(True), parts.train.ids(False), count, seed, *pool))
        for k, count in planned_mixes(sweep, parts.stock).items()
    }
    shapes, read = shapes_and_notes(sweep)
    record = data_record(sweep, read, shapes, states, identity, parts, mixes)
    if earlier is not None:
        both = sorted(set(earlier.mixes) & set(record.mixes))
        _refuse_other_data(run, [f"mix {n}" for n in both if earlier.mixes[n] != record.mixes[n]])
    for line in (*(f"{role} rows: {shape}" for role, shape in shapes.items()), *record.notes):
        on_progress(line)
    run.data_json.unlink(missing_ok=True)  # from here until it is written again the stage is not finished
    for k, (_, uses) in mixes.items():
        with atomic_file(run.manifest(k)) as temporary:
            pq.write_table(pa.table([list(uses), list(uses.values())], schema=MANIFEST), temporary)
    with atomic_file(run.test_parquet) as temporary:
        pq.write_table(part_table(parts.test, TRUTH), temporary, compression="zstd")
    run.validation_parquet.unlink(missing_ok=True)
    if parts.validation is not None:
        with atomic_file(run.validation_parquet) as temporary:
            pq.write_table(part_table(parts.validation, VALIDATION).sort_by("row_id"), temporary)
    record.write(run.data_json)
    return record


def base_rows(sweep: Sweep, run: RunDir) -> RowFiles:
    """Rows that a tiny base model may be made from: never a test or a validation row.

    Where the test set or validation is split off the source, the remaining rows are written to the cache as ShareGPT, once.
    """
    if sweep.data.synthetic is not None:
        from wlsweep.data.synthetic import ensure_synthetic

        return row_files(ensure_synthetic(sweep.data.synthetic, run.cache, sweep.task).base)
    inputs, task, share = find_inputs(sweep.data, run.cache, sweep.task), sweep.task, sweep.data.validation_share
    if inputs.test is not None and not share:
        return inputs.train
    split = inputs.test is None
    source = inputs.train.content_key(state_of(inputs.train).sha256)
    parts = [source, sweep.data.test_share if split else None, sweep.data.seed, *(task.identity or ())]
    key = json.dumps([*parts, {"validation": share}] if share else parts)
    path = run.cache / "split" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.jsonl"
    if not path.is_file():
        held_out = set().union(*_held_out_ids(inputs.train, sweep, split))
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
            rows = (r for r in read_rows(inputs.train, task) if r.row_id not in held_out)
            out.writelines(json.dumps(to_sharegpt(r, task)) + "\n" for r in rows)
    return row_files(path)


def _identity(sweep: Sweep, states: Mapping[str, FileState], tokenizer: str) -> dict[str, JsonValue]:
    """What decides the rows of every mix and their tokens; the proportions of the grid are no part of it."""
    data = sweep.data
    return {
        "format": FORMAT,
        **{f"{role}_sha256": state.sha256 for role, state in states.items()},
        "tokenizer_sha256": tokenizer,
        "cutoff": data.cutoff,
        "resampling": data.resampling,
        "table": {name: list(counts) for name, counts in data.table.items()} if data.table else None,
        "seed": data.seed,
        "test_share": None if "test" in states else data.test_share,
        "limit": data.limit,
        # unnamed in data from before there was a choice:
        **({} if data.system == "keep" else {"system": data.system}),
        **({"task": list(sweep.task.identity)} if sweep.task.identity else {}),
        **({} if data.columns is None else {"columns": data.columns.model_dump(exclude_none=True)}),
        **({"validation_share": data.validation_share} if data.validation_share else {}),
    }


def _whole(run: RunDir, record: DataRecord, ks: Sequence[int]) -> bool:
    tables = {run.cache / folder / "table.json" for folder in record.tokens.values()}
    files = [*tables, run.test_parquet, *(run.manifest(k) for k in ks)]
    files += [] if record.validation is None else [run.validation_parquet]
    # The total of common_total depends on the set of proportions, so another grid is drawn again and compared.
    return set(record.mixes) == {f"1/{k}" for k in ks} and all(f.is_file() for f in files)


def _held_out(
    ids: Sequence[str], accept: NDArray[np.bool_], sweep: Sweep, split: bool
) -> tuple[NDArray[np.bool_], ...]:
    """Which rows of the training file are test rows (none unless `split`), and which are for validation; bool [n] each."""
    data, words, none = sweep.data, sweep.task.words, np.zeros(len(ids), dtype=bool)
    test = split_off_test(ids, accept, data.test_share, data.seed, words) if split else none
    rest, validation = np.flatnonzero(~test), none.copy()
    of_rest = [ids[i] for i in rest]
    validation[rest] = split_off_validation(of_rest, accept[rest], data.validation_share, data.seed, words)
    return test, validation


def _held_out_ids(source: RowFiles, sweep: Sweep, split: bool) -> tuple[set[str], ...]:
    """The ids of `_held_out`, from the files themselves."""
    ids, accept = _index(source, sweep.task)
    return tuple({ids[i] for i in np.flatnonzero(m)} for m in _held_out(ids, accept, sweep, split))


def _index(source: RowFiles, task: Task) -> tuple[list[str], NDArray[np.bool_]]:
    """The ids of a set, and whether each has the positive label."""
    index = [(row.row_id, row.label == task.positive) for row in read_rows(source, task)]
    return [row_id for row_id, _ in index], np.array([accept for _, accept in index], dtype=bool)


def _tokenised(
    sweep: Sweep,
    inputs: Inputs,
    identity: Mapping[str, JsonValue],
    model: Path | str,
    cache: Path,
    on_progress: Callable[[str], None],
) -> Parts:
    data, limit = sweep.data, sweep.data.limit
    split = inputs.test is None
    selection = "" if limit is None else f"limit={limit} seed={data.seed}" + (f" share={data.test_share}" * split)
    if limit is not None and data.validation_share:
        selection += f" validation={data.validation_share}"

    def table(role: str, source: RowFiles, texts: bool, only: set[str] | None) -> TokenTable:
        content, tokenizer = source.content_key(str(identity[f"{role}_sha256"])), str(identity["tokenizer_sha256"])
        key = TableKey(content, tokenizer, data.cutoff, selection, texts, data.system, sweep.task)
        return ensure_table(key, source, model, cache, on_progress, only)

    def chosen(source: RowFiles, held_out: Sequence[set[str]] = ()) -> set[str] | None:
        """Ids of a trial run: of each side of the split where there is one, so that all are those of the real run."""
        if limit is None:
            return None
        ids, accept = _index(source, sweep.task)
        # 0: in no held-out set, 1: in the first, ...
        side_of = np.array([next((n for n, held in enumerate(held_out, 1) if i in held), 0) for i in ids])
        found: set[str] = set()
        for side in (np.flatnonzero(side_of == n) for n in range(len(held_out) + 1)):
            kept = limit_rows([ids[i] for i in side], accept[side], limit, data.seed)
            found |= {ids[i] for i in side[kept]}
        return found

    pool = None
    if inputs.pool is not None:
        of_pool = table("pool", inputs.pool, False, chosen(inputs.pool))
        pool = Part(of_pool, np.arange(len(of_pool)))
    held_out = _held_out_ids(inputs.train, sweep, split) if limit is not None else ()
    train = table("train", inputs.train, split, chosen(inputs.train, held_out))
    if limit is not None:
        is_test, is_validation = (np.array([row_id in ids for row_id in train.row_ids]) for ids in held_out)
    else:
        is_test, is_validation = _held_out(train.row_ids, train.accept, sweep, split)
    validation = Part(train, np.flatnonzero(is_validation)) if data.validation_share else None
    test = Part(train, np.flatnonzero(is_test))
    if inputs.test is not None:
        of_test = table("test", inputs.test, True, chosen(inputs.test))
        test = Part(of_test, np.arange(len(of_test)))
    return Parts(Part(train, np.flatnonzero(~is_test & ~is_validation)), test, pool, validation)


def _refuse_other_data(run: RunDir, changed: Sequence[str]) -> None:
    """Refuse to replace the data that conditions of this run were trained on."""
    trained = sorted(f.parent.name for f in run.root.glob(str(run.trained("*").relative_to(run.root))))
    if changed and trained:
        raise WlsweepError(
            f"the data of {run.root} changed ({', '.join(changed)}) after {len(trained)} conditions were trained on "
            f"them ({trained[0]}, ...); start a new run with --out, or put the old data back"
        )


def _trained_on_others(run: RunDir, identity: Mapping[str, JsonValue]) -> list[str]:
    """What to say where `data.json` is lost and a condition was trained on data other than these."""
    for path in sorted(run.root.glob(str(run.trained("*").relative_to(run.root)))):
        with suppress(WlsweepError):  # a record that cannot be read is the business of `wlsweep.run.status`
            found = TrainedRecord.find(path)
            if found is not None and found.data_fingerprint not in (None, fingerprint_of(identity)):
                return [f"fingerprint {found.data_fingerprint}, now {fingerprint_of(identity)}"]
    return []
