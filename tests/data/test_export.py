import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from tests.damage import in_time, odd_files
from tests.data.sharegpt import corpus, sweep_of, write_lines
from tests.made_run import THE_19, make_run
from wlsweep.data.export import export_jsonl, export_sharegpt
from wlsweep.data.load import load_mix, load_test, load_validation
from wlsweep.data.prepare import prepare_data
from wlsweep.data.rows import read_rows
from wlsweep.errors import WlsweepError


@pytest.fixture
def prepared(tmp_path, run, model):
    source, pool = (write_lines(tmp_path / f"{n}.jsonl", corpus(a, 20, n)) for n, a in (("s", 20), ("p", 1)))
    sweep = sweep_of({"source": str(source), "pool": str(pool), "resampling": "pool", "cutoff": 200}, (2, 4))
    prepare_data(sweep, run, model)
    return sweep


def test_the_exported_sets_hold_the_rows_of_the_mixes_and_of_the_test_set(prepared, run, tmp_path):
    paths = export_sharegpt(run, prepared, tmp_path / "out")
    info = json.loads(paths[-1].read_text())
    assert list(info) == [
        "iclr_weighted_loss_train_1_2", "iclr_weighted_loss_train_1_4", "iclr_weighted_loss_test",
    ]  # fmt: skip
    originals = {r.row_id: r for f in ("s", "p") for r in read_rows(tmp_path / f"{f}.jsonl")}
    for (name, entry), loaded in zip(info.items(), (load_mix(run, 2), load_mix(run, 4), load_test(run)), strict=True):
        path = tmp_path / "out" / entry["file_name"]
        assert path in paths and path.parent.name == name
        rows = json.loads(path.read_text())
        assert Counter(r["_metadata"]["submission_id"] for r in rows) == Counter(loaded.row_ids)
        for row in rows:
            system, human, gpt = row["conversations"]
            original = originals[row["_metadata"]["submission_id"]]
            assert (system["value"], human["value"]) == (original.system, original.instruction + original.paper)
            assert gpt == {"from": original.answerer, "value": f"\\boxed{{{original.label}}}"}
            assert entry["tags"]["assistant_tag"] == original.answerer


@pytest.mark.parametrize("file", ["s.jsonl", "p.jsonl", "data.json", "test.parquet", "manifest_prop1_2.parquet"])
def test_an_odd_file_is_one_error_that_names_it_and_nothing_is_exported(prepared, run, tmp_path, file):
    path = tmp_path / file if file.endswith(".jsonl") else run.data / file
    for way in odd_files(path, path.read_bytes()):
        with in_time(way), pytest.raises(WlsweepError) as refused:
            export_sharegpt(run, prepared, tmp_path / "out")
        assert file.partition(".")[0] in str(refused.value), (way, refused.value)
        assert not list(tmp_path.glob("out/**/*.json")), way


@pytest.mark.parametrize("answerer", ["gpt", "assistant"])
def test_who_answers_is_called_as_in_the_source(tmp_path, run, model, answerer):
    rows = corpus(10, 10)
    for row in rows:
        row["conversations"][-1]["from"] = answerer
    source = write_lines(tmp_path / "s.jsonl", rows)
    sweep = sweep_of({"source": str(source), "resampling": "common_total", "cutoff": 200}, (2,))
    prepare_data(sweep, run, model)
    *paths, info = export_sharegpt(run, sweep, tmp_path / "out")
    assert {r["conversations"][-1]["from"] for p in paths for r in json.loads(p.read_text())} == {answerer}
    assert {entry["tags"]["assistant_tag"] for entry in json.loads(info.read_text()).values()} == {answerer}


def test_a_repeated_row_stands_as_often_as_it_is_used(tmp_path, run, model):
    source = write_lines(tmp_path / "s.jsonl", corpus(10, 10))
    sweep = sweep_of({"source": str(source), "resampling": "oversample", "cutoff": 200}, (8,))
    prepare_data(sweep, run, model)
    path = export_sharegpt(run, sweep, tmp_path / "out")[0]
    rows = Counter(r["_metadata"]["submission_id"] for r in json.loads(path.read_text()))
    assert rows == Counter(load_mix(run, 8).row_ids) and max(rows.values()) == 2


def test_a_source_that_changed_is_not_exported_and_nothing_is_written(prepared, run, tmp_path):
    write_lines(tmp_path / "s.jsonl", corpus(20, 21, "s"))
    with pytest.raises(WlsweepError, match=r"s\.jsonl has changed since the data stage"):
        export_sharegpt(run, prepared, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_test_paper_is_one_line_in_order_whatever_the_order_of_predictions(tmp_path):
    run = make_run(tmp_path, THE_19[:2], n=30)
    path = run.prediction(THE_19[0]) / "part-0.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.take(list(range(29, -1, -1))), path)
    written = export_jsonl(run)
    assert written == [run.exported(n) for n in THE_19[:2]]
    truth = pq.read_table(run.test_parquet).to_pylist()
    texts = dict(zip(table["row_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    lines = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert lines == [
        {"prompt": t["prompt"], "predict": texts[t["row_id"]], "label": f"\\boxed{{{t['label']}}}"} for t in truth
    ]


def test_nothing_predicted_is_an_error(tmp_path):
    with pytest.raises(WlsweepError, match="nothing to export"):
        export_jsonl(make_run(tmp_path, THE_19[:1], n=5, leave_out=THE_19[:1]))


def test_validation_is_exported_as_a_set_of_its_own(tmp_path, run, model):
    source = write_lines(tmp_path / "s.jsonl", corpus(20, 20, "s"))
    sweep = sweep_of({"source": str(source), "resampling": "oversample", "validation_share": 0.4, "cutoff": 200}, (2,))
    prepare_data(sweep, run, model)
    *_, info = export_sharegpt(run, sweep, tmp_path / "out")
    entry = json.loads(info.read_text())["iclr_weighted_loss_validation"]
    rows = json.loads((tmp_path / "out" / entry["file_name"]).read_text())
    assert sorted(r["_metadata"]["submission_id"] for r in rows) == load_validation(run).row_ids
