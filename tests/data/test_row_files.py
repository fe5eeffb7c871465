"""Which files are the rows of a set: shards, and what `datasets.save_to_disk` wrote."""

import json
import os

import pytest

from tests.data.sharegpt import corpus, sweep_of, write_lines
from tests.data.written import lines, save_splits_to_disk, save_to_disk, shards
from wlsweep.data.prepare import prepare_data
from wlsweep.data.row_files import row_files, state_of
from wlsweep.data.rows import read_rows
from wlsweep.data.sources import find_inputs, source_counts
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir

ROWS = corpus(7, 6)


def inputs(source, **more):
    return find_inputs(sweep_of({"source": str(source), "resampling": "oversample", **more}).data, None)


def refusal_of(source, **more):
    with pytest.raises(WlsweepError) as e:
        source_counts(sweep_of({"source": str(source), "resampling": "oversample", **more}))
    return str(e.value)


def ids(files):
    return [row.row_id for row in read_rows(files)]


ALL = [row["_metadata"]["submission_id"] for row in ROWS]
ENDINGS = ["parquet", "jsonl", "jsonl.gz", "jsonl.zst", "arrow"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_shards_are_read_in_their_order_as_one_set(tmp_path, ending):
    shards(tmp_path, "train", [ROWS[:5], ROWS[5:6], ROWS[6:]], ending)
    train = inputs(tmp_path).train
    assert ids(train) == ALL and str(train) == f"{tmp_path}/train-*-of-00003.{ending}"
    assert ids(inputs(f"{tmp_path}/train-*.{ending}").train) == ALL


def test_shards_of_train_and_test_may_lie_in_a_folder_data_as_on_the_hub(tmp_path):
    shards(tmp_path / "data", "train", [ROWS[:4], ROWS[4:]])
    shards(tmp_path / "data", "test", [corpus(3, 2, "t")])
    (tmp_path / "README.md").write_text("")
    assert source_counts(sweep_of({"source": str(tmp_path), "resampling": "oversample"}))[1:3] == (3, 2)


def test_a_missing_shard_is_named(tmp_path):
    shards(tmp_path, "train", [ROWS[:4], ROWS[4:8], ROWS[8:]])
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    for source in (tmp_path, tmp_path / "train-*.parquet"):
        assert "lacks 1 of 3 shards; fetch them" in refusal_of(source)
        assert "\n  - train-00001-of-00003.parquet" in refusal_of(source)


def test_a_missing_shard_of_the_test_set_is_named(tmp_path):
    write_lines(tmp_path / "train.jsonl", ROWS)
    shards(tmp_path, "test", [corpus(2, 2, "t"), corpus(2, 2, "u")])
    (tmp_path / "test-00000-of-00002.parquet").unlink()
    assert "\n  - test-00000-of-00002.parquet" in refusal_of(tmp_path)


def test_one_shard_of_several_is_refused_with_the_way_to_give_them_all(tmp_path):
    shards(tmp_path, "train", [ROWS[:4], ROWS[4:]])
    assert f"give them all as {tmp_path}/train-*-of-00002.parquet" in refusal_of(
        tmp_path / "train-00000-of-00002.parquet"
    )


def test_a_file_beside_shards_of_the_same_set_is_refused(tmp_path):
    shards(tmp_path, "train", [ROWS[:4], ROWS[4:]])
    write_lines(tmp_path / "train.jsonl", ROWS)
    assert "holds train.jsonl and train-*-of-00002.parquet; keep one of them" in refusal_of(tmp_path)


def test_two_versions_of_shards_and_files_that_are_no_shards_are_refused(tmp_path):
    shards(tmp_path, "train", [ROWS[:4], ROWS[4:]])
    shards(tmp_path, "train", [ROWS])
    assert "keep one of them" in refusal_of(tmp_path)
    assert "no shards of one set" in refusal_of(tmp_path / "train-*.parquet")
    assert "no such files" in refusal_of(tmp_path / "test-*.parquet")


def test_bad_rows_and_duplicates_are_named_with_their_shard(tmp_path):
    shards(tmp_path, "train", [ROWS[:4], [ROWS[1], {**ROWS[5], "conversations": []}]], "jsonl")
    said = refusal_of(tmp_path)
    assert "train-00001-of-00002.jsonl, row 1: duplicate id 'r1': train-00000-of-00002.jsonl, row 2 has it too" in said
    assert "train-00001-of-00002.jsonl, row 2: no assistant turn" in said


def test_a_paper_in_shards_of_both_sets_is_refused(tmp_path):
    shards(tmp_path, "train", [ROWS[:4], ROWS[4:]])
    shards(tmp_path, "test", [corpus(2, 2, "t"), [ROWS[0]]])
    assert "id 'r0' is in both" in refusal_of(tmp_path)


def test_a_folder_that_save_to_disk_wrote_is_one_set_or_its_splits(tmp_path):
    one = inputs(save_to_disk(tmp_path / "one", ROWS, 3))
    assert ids(one.train) == ALL and one.test is None
    two = inputs(
        save_splits_to_disk(tmp_path / "two", train=ROWS, test=corpus(2, 2, "t"), validation=corpus(1, 1, "v"))
    )
    assert ids(two.train) == ALL and ids(two.test) == ["t0", "t1", "t2", "t3"]
    assert ids(inputs(tmp_path / "two" / "train", test=str(tmp_path / "one")).test) == ALL


def test_a_saved_folder_that_is_not_whole_or_has_no_fitting_splits_is_refused(tmp_path):
    lacking = save_to_disk(tmp_path / "lacking", ROWS)
    (lacking / "data-00001-of-00002.arrow").unlink()
    assert "\n  - data-00001-of-00002.arrow" in refusal_of(lacking)
    assert "with the splits a, b; one must be called train" in refusal_of(
        save_splits_to_disk(tmp_path / "ab", a=ROWS, b=ROWS)
    )
    other = save_splits_to_disk(tmp_path / "tv", train=ROWS, validation=ROWS)
    assert "the split validation, which would not be read, and no test split" in refusal_of(other)
    assert "flatten_indices()" in refusal_of(
        save_to_disk(tmp_path / "i", ROWS, _indices_data_files=[{"filename": "x"}])
    )
    (lacking / "state.json").write_text("{")
    assert "state.json cannot be read" in refusal_of(lacking)
    (lacking / "state.json").write_text("{}")
    assert "names no data files" in refusal_of(lacking)


def test_the_state_of_shards_changes_with_any_of_them_and_reads_only_what_changed(tmp_path):
    shards(tmp_path, "train", [ROWS[:4], ROWS[4:]], "jsonl")
    files = inputs(tmp_path).train
    first = state_of(files)
    path, times = files.files[0], files.files[0].stat()
    path.write_bytes(b"?" * times.st_size)  # not read again: size and time are as they were
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    files.files[1].write_bytes(lines(ROWS[4:8]))
    second = state_of(files, first)
    assert second.parts[0] == first.parts[0] and second.parts[1] != first.parts[1] and second.sha256 != first.sha256


def test_the_state_of_a_single_file_is_that_of_the_file(tmp_path):
    import hashlib

    path = write_lines(tmp_path / "a.jsonl", ROWS)
    state = state_of(row_files(path))
    assert state.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and state.parts == []


def test_a_run_on_shards_has_the_tokens_of_a_run_on_one_file_and_records_what_was_read(tmp_path, model):
    tables = {}
    for name, source in {
        "file": write_lines(tmp_path / "a.jsonl", ROWS),
        "shards": shards(tmp_path / "s", "train", [ROWS[:5], ROWS[5:]]),
        "saved": save_to_disk(tmp_path / "d", ROWS),
    }.items():
        run = RunDir(tmp_path / "runs" / name)
        sweep = sweep_of({"source": str(source), "resampling": "oversample", "cutoff": 200}, (2, 4))
        record = prepare_data(sweep, run, model)
        tables[name] = (run.cache / record.tokens["train"] / "tokens.arrow").read_bytes(), run.test_parquet.read_bytes()
        assert prepare_data(sweep, run, model) == record
        shapes = {"file": "(JSON Lines)", "shards": "(Parquet, 2 files)", "saved": "(Arrow, 2 files)"}
        assert json.loads(run.data_json.read_text())["shapes"] == {"train": f"ShareGPT {shapes[name]}"}
    assert len(set(tables.values())) == 1
