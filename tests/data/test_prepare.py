import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.papers import papers, write_array
from tests.data.fuzzed import file_contents
from tests.data.sharegpt import ROOT, corpus, sharegpt, sweep_of, write_lines
from wlsweep.command_line import main
from wlsweep.data import prepare
from wlsweep.data.load import load_mix, load_test, load_validation
from wlsweep.data.mix import exact_counts
from wlsweep.data.prepare import base_rows
from wlsweep.data.rows import read_rows
from wlsweep.data.sources import planned_mixes, source_counts
from wlsweep.data.tokenise import chat_messages
from wlsweep.errors import WlsweepError
from wlsweep.run.columns import MANIFEST, TRUTH
from wlsweep.run.layout import RunDir, read_json
from wlsweep.run.record import plain
from wlsweep.spec.config import load_sweep

REAL = Path(__file__).parents[3] / "shared" / "data" / "iclr_2017_2018.json"


@pytest.fixture
def files(tmp_path):
    write_lines(tmp_path / "train.jsonl", corpus(40, 40, "t"))
    write_lines(tmp_path / "test.jsonl", corpus(10, 9, "e"))
    return tmp_path


def prepare_data(*args, **options):
    """The record as plain data."""
    return plain(prepare.prepare_data(*args, **options))


def data_of(files, **more):
    return {"source": str(files), "resampling": "oversample", "cutoff": 200, **more}


def snapshot(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_mix_holds_its_counts_with_repetitions_expanded_and_sorted(files, run, model):
    record = prepare_data(sweep_of(data_of(files)), run, model)
    for k in (2, 3, 4, 8):
        mix = load_mix(run, k)
        accepts, rejects = exact_counts(80, k)
        assert (int(mix.accept.sum()), int((~mix.accept).sum())) == (accepts, rejects)
        assert mix.row_ids == sorted(mix.row_ids)
        manifest = pq.read_table(run.manifest(k))
        assert manifest.schema.equals(MANIFEST)
        assert Counter(mix.row_ids) == dict(zip(*(manifest[c].to_pylist() for c in MANIFEST.names), strict=True))
        assert record["mixes"][f"1/{k}"]["duplicates"] == len(mix) - len(set(mix.row_ids)) == max(0, rejects - 40)
    assert not {i[0] for i in mix.row_ids} - {"t"}  # no test row


def test_prompts_of_a_mix_belong_to_their_rows(files, run, model, tokenizer):
    prepare_data(sweep_of(data_of(files)), run, model)
    mix, rows = load_mix(run, 8), {r.row_id: r for r in read_rows(files / "train.jsonl")}
    for i in range(0, len(mix), 7):
        row = rows[mix.row_ids[i]]
        chat = tokenizer.apply_chat_template(
            chat_messages(row), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert mix.prompt(i).tolist() == chat and mix.lengths[i] == len(chat)
        assert (mix.labels[i], mix.years[i], mix.row_hashes[i]) == (row.label, row.year, row.row_hash)


def test_the_test_set_is_the_file_unchanged_and_in_its_order(files, run, model):
    record = prepare_data(sweep_of(data_of(files)), run, model)
    rows, truth, test = list(read_rows(files / "test.jsonl")), pq.read_table(run.test_parquet), load_test(run)
    assert truth.schema.equals(TRUTH)
    assert truth["row_id"].to_pylist() == test.row_ids == [r.row_id for r in rows]
    assert truth["label"].to_pylist() == test.labels == [r.label for r in rows]
    assert all(r.paper in prompt for r, prompt in zip(rows, truth["prompt"].to_pylist(), strict=True))
    assert record["test"]["accepts"] == 10 and record["test"]["rejects"] == 9


def test_a_single_source_is_split_and_the_base_model_sees_no_test_row(files, run, model):
    source = str(files / "train.jsonl")
    sweep = sweep_of(data_of(files, source=source, test_share=0.25))
    record = prepare_data(sweep, run, model)
    assert [record[part]["accepts"] for part in ("source", "test")] == [30, 10]
    test = set(load_test(run).row_ids)
    trained = set().union(*(load_mix(run, k).row_ids for k in (2, 3, 4, 8)))
    base = {r.row_id for r in read_rows(base_rows(sweep, run))}
    assert len(test) == 20 and not test & trained and base == {f"t{i}" for i in range(80)} - test


def test_a_second_call_reads_and_writes_nothing(files, run, model):
    sweep = sweep_of(data_of(files))
    first = prepare_data(sweep, run, model)
    stats = {p: p.stat().st_mtime_ns for p in run.root.rglob("*")}
    source, times = files / "train.jsonl", (files / "train.jsonl").stat()
    source.write_bytes(b"?" * times.st_size)  # would be refused if it were read
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    said = []
    assert prepare_data(sweep, run, model, said.append) == first
    assert {p: p.stat().st_mtime_ns for p in run.root.rglob("*")} == stats and said == []


def test_a_touched_file_with_the_same_content_is_the_same_data(files, run, model):
    first = prepare_data(sweep_of(data_of(files)), run, model)
    os.utime(files / "train.jsonl", ns=(1, 1))
    assert prepare_data(sweep_of(data_of(files)), run, model) == first


def test_the_same_rows_are_drawn_in_every_process_and_order_of_proportions(files, model, tmp_path):
    found = []
    for n, ks in enumerate(((2, 8), (8,), (3, 8))):
        run = RunDir(tmp_path / f"runs{n}" / "one")
        prepare_data(sweep_of(data_of(files), ks), run, model)
        found.append(pq.read_table(run.manifest(8)))
    assert found[0].equals(found[1]) and found[0].equals(found[2])
    script = (
        "from wlsweep.data.mix import *; "
        "print(draw([f'a{i}' for i in range(50)], [f'r{i}' for i in range(50)], MixCount(9, 70, 0, 0), 3))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True, capture_output=True, cwd=ROOT,
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert len(printed) == 1


@pytest.mark.parametrize("shared", ["id", "text"])
def test_a_paper_in_train_and_test_is_refused_and_nothing_is_written(files, run, model, shared):
    rows = corpus(40, 40, "t")
    stolen = rows[7] if shared == "id" else {**rows[7], "_metadata": {"submission_id": "e77"}}
    write_lines(files / "test.jsonl", [*corpus(5, 5, "e"), stolen])
    with pytest.raises(
        WlsweepError, match="id 't7' is in both" if shared == "id" else r"'e77' .* has the text of 't7'"
    ):
        prepare_data(sweep_of(data_of(files)), run, model)
    assert not run.data.exists()


def test_the_same_text_under_two_ids_on_both_sides_of_a_split_is_refused(files, run, model):
    rows = [sharegpt(f"x{i}", "Accept" if i % 2 else "Reject", "the same text") for i in range(40)]
    write_lines(files / "same.jsonl", rows)
    with pytest.raises(WlsweepError, match="duplicate text"):
        prepare_data(sweep_of(data_of(files, source=str(files / "same.jsonl"))), run, model)


def test_a_policy_that_falls_short_is_refused_before_anything_is_written_or_said_in_counts(files, run, model):
    with pytest.raises(WlsweepError, match=r"1/8: 70 rejects wanted, 40 there: short by 30"):
        prepare_data(sweep_of(data_of(files, resampling="error")), run, model)
    assert not run.data.exists()
    said = []
    record = prepare_data(sweep_of(data_of(files)), run, model, said.append)
    assert record["notes"][-1].startswith("1/8: 70 rejects wanted, 40 there; 30 are repetitions")
    assert record["notes"] == said[-3:]
    assert record["mixes"]["1/8"]["short_by"] == {"accepts": 0, "rejects": 30}


def test_common_total_repeats_nothing(files, run, model):
    record = prepare_data(sweep_of(data_of(files, resampling="common_total")), run, model)
    assert {m["duplicates"] for m in record["mixes"].values()} == {0}
    assert {m["accepts"] + m["rejects"] for m in record["mixes"].values()} == {46}  # 40 / 46 rejects: 1/8 to the row


def test_missing_rows_come_from_the_pool(files, run, model):
    pool = write_lines(files / "pool.jsonl", corpus(0, 35, "p"))
    record = prepare_data(sweep_of(data_of(files, resampling="pool", pool=str(pool))), run, model)
    mix = load_mix(run, 8)
    assert sum(i.startswith("p") for i in mix.row_ids) == 30 == record["mixes"]["1/8"]["short_by"]["rejects"]
    assert record["mixes"]["1/8"]["duplicates"] == 0 and len(set(mix.row_ids)) == 80
    write_lines(pool, [*corpus(0, 35, "p"), corpus(1, 0, "e")[0]])
    with pytest.raises(WlsweepError, match="id 'e0' is in both"):
        prepare_data(sweep_of(data_of(files, resampling="pool", pool=str(pool))), run, model)


def test_data_that_changed_under_trained_conditions_are_refused_and_left_as_they_were(files, run, model):
    sweep = sweep_of(data_of(files))
    prepare_data(sweep, run, model)
    write_lines(files / "train.jsonl", corpus(40, 41, "t"))
    assert prepare_data(sweep, run, model)["source"]["rejects"] == 41  # nothing was trained yet
    trained = run.trained("accept_gamma2.0_prop1_2")
    trained.parent.mkdir(parents=True)
    trained.write_text("{}")
    before = snapshot(run.data)
    write_lines(files / "train.jsonl", corpus(40, 42, "t"))
    for other in (sweep, sweep_of(data_of(files, seed=1)), sweep_of(data_of(files, cutoff=190))):
        with pytest.raises(WlsweepError, match=r"changed .*train_sha256.* 1 conditions were trained"):
            prepare_data(other, run, model)
    assert snapshot(run.data) == before


def test_a_sweep_can_be_widened_but_not_where_that_changes_the_other_mixes(files, run, model):
    for resampling, fine in (("oversample", True), ("common_total", False)):
        one = RunDir(run.root.parent / resampling)
        prepare_data(sweep_of(data_of(files, resampling=resampling), (2, 4)), one, model)
        trained = one.trained("accept_gamma2.0_prop1_2")
        trained.parent.mkdir(parents=True)
        trained.write_text("{}")
        wider = sweep_of(data_of(files, resampling=resampling), (2, 4, 8))
        if fine:
            assert set(prepare_data(wider, one, model)["mixes"]) == {"1/2", "1/4", "1/8"}
        else:
            with pytest.raises(WlsweepError, match="mix 1/2, mix 1/4"):
                prepare_data(wider, one, model)


@pytest.mark.parametrize("split", [False, True])
def test_a_trial_run_takes_its_rows_from_the_same_sides_of_the_real_one(files, model, tmp_path, split):
    data = data_of(files, **({"source": str(files / "train.jsonl")} if split else {}))
    real, trial = RunDir(tmp_path / "runs" / "real"), RunDir(tmp_path / "runs" / "trial")
    prepare_data(sweep_of(data), real, model)
    record = prepare_data(sweep_of({**data, "limit": 12}), trial, model)
    assert record["limit"] == 12 and record["source"]["rows"] == 12
    assert record["test"]["rows"] == 12 and abs(record["test"]["accepts"] - 6) <= 1
    assert set(load_test(trial).row_ids) < set(load_test(real).row_ids)
    assert len(load_mix(trial, 8)) == 12 and int(load_mix(trial, 8).accept.sum()) == 2
    assert not set(load_mix(trial, 8).row_ids) & set(load_test(real).row_ids)


def test_a_trial_run_scales_a_literal_table(files, run, model):
    table = {"1/2": [40, 40], "1/8": [10, 70]}
    data = data_of(files, resampling="table", table=table)
    assert prepare_data(sweep_of(data, (2, 8)), run, model)["mixes"]["1/8"]["rejects"] == 70
    trial = RunDir(run.root.parent / "trial")
    mixes = prepare_data(sweep_of({**data, "limit": 16}, (2, 8)), trial, model)["mixes"]
    assert [(mixes[m]["accepts"], mixes[m]["rejects"]) for m in ("1/2", "1/8")] == [(8, 8), (2, 14)]


@pytest.mark.parametrize("limit", [None, 16])
def test_the_plan_counts_what_the_stage_draws(files, run, model, limit):
    for n, data in enumerate((data_of(files), data_of(files, source=str(files / "train.jsonl")))):
        sweep = sweep_of({**data, "limit": limit})
        counts = source_counts(sweep)
        record = prepare_data(sweep, RunDir(run.root.parent / str(n)), model)
        planned = planned_mixes(sweep, counts.stock)
        assert {f"1/{k}": (c.accepts, c.rejects) for k, c in planned.items()} == {
            name: (m["accepts"], m["rejects"]) for name, m in record["mixes"].items()
        }
        assert (counts.test_accepts, counts.test_rejects) == (record["test"]["accepts"], record["test"]["rejects"])


def test_a_table_is_planned_without_a_source_and_a_plan_imports_no_engine():
    script = (
        "import sys; from wlsweep.spec.config import load_sweep; from wlsweep.data.sources import *; "
        "s = load_sweep('search_spaces/iclr19.toml'); c = source_counts(s); print(c.stock, planned_mixes(s, c.stock)[8]); "
        "print([m for m in ('torch', 'transformers', 'ray', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout  # fmt: skip
    assert "Stock(accepts=8553, rejects=8548" in out and "accepts=2135, rejects=14966" in out and "[]" in out


def test_truncation_is_reported_by_class_and_year(files, run, model):
    rows = [
        sharegpt(
            f"r{i}", "Accept" if i < 20 else "Reject", f"{i} " + "long text " * (200 if i % 4 == 0 else 1), 2020 + i % 2
        )
        for i in range(40)
    ]
    write_lines(files / "train.jsonl", rows)
    truncated = prepare_data(sweep_of(data_of(files)), run, model)["truncated"]["train"]
    assert truncated == {
        "share": 0.25,
        "by_class": {"Accept": 0.25, "Reject": 0.25},
        "by_year": {"2020": 0.5, "2021": 0.0},
    }


@pytest.mark.parametrize("bad", [b"", b"[", b'{"conversations": []}\n', b"\xff\xfe", b"PAR1PAR1"])
@pytest.mark.parametrize("role", ["train", "test"])
def test_a_bad_file_leaves_nothing_half_made(files, run, model, role, bad):
    (files / f"{role}.jsonl").write_bytes(bad)
    with pytest.raises(WlsweepError, match=rf"{role}\.jsonl"):
        prepare_data(sweep_of(data_of(files)), run, model)
    assert not run.root.exists()
    assert not list((run.cache / "tokens").glob(".*")) if role == "test" else not list((run.cache / "tokens").iterdir())


@given(content=file_contents(), role=st.sampled_from(["train", "test"]))
@settings(max_examples=60)
def test_no_file_ends_the_stage_in_anything_but_a_whole_record_or_one_error_with_nothing_written(
    tmp_path_factory, model, content, role
):
    folder = tmp_path_factory.mktemp("fuzzed")
    for name, rows in (("train", corpus(6, 6, "t")), ("test", corpus(3, 3, "e"))):
        write_lines(folder / f"{name}.jsonl", rows)
    (folder / f"{role}.jsonl").write_bytes(content)
    run, record = RunDir(folder / "runs" / "one"), None
    with contextlib.suppress(WlsweepError):
        record = prepare_data(sweep_of(data_of(folder)), run, model)
    assert read_json(run.data_json) == record if record else not run.root.exists()
    assert all((table / "table.json").is_file() for table in (run.cache / "tokens").glob("*")), "half a table"


@given(content=file_contents())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_command_line_answers_any_file_with_a_plan_or_one_error(tmp_path_factory, content, monkeypatch, capsys):
    path = tmp_path_factory.mktemp("fuzzed") / "rows.jsonl"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["wlsweep", "plan", "search_spaces/abstracts.toml", "--data", str(path)])
    with pytest.raises(SystemExit) as end:  # anything else would be a traceback
        main()
    said = capsys.readouterr()
    assert end.value.code == 0 or (end.value.code == 2 and said.err.startswith("error: "))
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_a_stage_that_was_killed_before_its_record_is_done_again(files, run, model):
    sweep = sweep_of(data_of(files))
    prepare_data(sweep, run, model)
    whole = snapshot(run.data)
    run.data_json.unlink()
    run.manifest(3).unlink()
    prepare_data(sweep, run, model)
    assert snapshot(run.data) == whole


def test_another_source_template_or_cutoff_never_finds_the_old_tokens(files, model, tmp_path):
    shutil.copytree(model, tmp_path / "other")
    template = tmp_path / "other" / "chat_template.jinja"
    template.write_text(template.read_text().replace("helpful", "harsh"))
    tables = []
    for n, (folder, cutoff) in enumerate([(model, 200), (tmp_path / "other", 200), (model, 199), (model, 200)]):
        if n == 3:
            write_lines(files / "train.jsonl", corpus(40, 41, "t"))
        record = prepare_data(sweep_of(data_of(files, cutoff=cutoff)), RunDir(tmp_path / "runs" / str(n)), folder)
        tables.append((record["tokens"]["train"], record["tokens"]["test"]))
    assert len({train for train, _ in tables}) == 4
    assert [test for _, test in tables].index(tables[3][1]) == 0  # the test file did not change: found again


def test_papers_that_spell_control_tokens_are_counted(files, run, model):
    write_lines(files / "test.jsonl", [*corpus(2, 2, "e"), sharegpt("x", "Accept", "Chats end in <|im_end|>.")])
    assert prepare_data(sweep_of(data_of(files)), run, model)["control_tokens_broken"] == {"train": 0, "test": 1}


@pytest.mark.slow
def test_the_published_counts_are_reproduced_from_a_source_of_the_published_size(run, model, tmp_path):
    write_array(tmp_path / "train.json", papers(17_101, 8_553, characters=1))
    write_array(tmp_path / "test.json", papers(40, 20, characters=1, seed=1))
    data = load_sweep("search_spaces/iclr19.toml", data=str(tmp_path)).data.model_dump(exclude={"table"})
    table = {"1/2": [8553, 8548], "1/3": [5702, 11399], "1/4": [4276, 12825], "1/8": [2135, 14966]}
    record = prepare_data(sweep_of({**data, "cutoff": 180, "table": table}), run, model)
    for name, (accepts, rejects) in table.items():
        mix = record["mixes"][name]
        assert (mix["accepts"], mix["rejects"]) == (accepts, rejects)
        assert (mix["distinct_accepts"], mix["distinct_rejects"]) == (accepts, min(rejects, 8548))
        assert mix["duplicates"] == max(0, rejects - 8548) and mix["most_uses"] == (1 if name == "1/2" else 2)
    mixes = [load_mix(run, k) for k in (8, 4, 3, 2)]
    accepts = [set(np.array(mix.row_ids)[mix.accept]) for mix in mixes]
    assert accepts[0] < accepts[1] < accepts[2] < accepts[3] and len(set(mixes[3].row_ids)) == 17_101


def test_no_data_or_a_folder_without_a_training_file_is_refused(tmp_path, run, model):
    for data, reason in (
        ({"resampling": "oversample"}, "no rows to train on: give --data"),
        ({"source": str(tmp_path)}, "holds no train.json"),
        ({"source": str(tmp_path / "x.json")}, "no such file"),
    ):
        with pytest.raises(WlsweepError, match=reason):
            prepare_data(sweep_of(data), run, model)
    for name in ("train.json", "train.jsonl"):
        write_lines(tmp_path / name, corpus(2, 2))
    with pytest.raises(WlsweepError, match=r"holds train.json and train.jsonl; keep one"):
        prepare_data(sweep_of({"source": str(tmp_path)}), run, model)


def test_what_is_not_there_is_said(files, run, model):
    with pytest.raises(WlsweepError, match="has no data yet; run"):
        load_mix(run, 2)
    prepare_data(sweep_of(data_of(files), (2,)), run, model)
    with pytest.raises(WlsweepError, match="holds no mix 1/3"):
        load_mix(run, 3)
    record = read_json(run.data_json)
    record["mixes"]["1/2"]["accepts"] += 1
    run.data_json.write_text(json.dumps(record))
    with pytest.raises(WlsweepError, match=r"has 40 positive and 40 negative rows, .* says 41 and 40"):
        load_mix(run, 2)


def test_synthetic_papers_are_prepared_with_their_true_log_odds(run, model):
    pytest.importorskip("wlsweep.data.synthetic")
    world = {"base_rows": 4, "train_rows": 40, "test_rows": 20}
    sweep = sweep_of({"synthetic": world, "resampling": "oversample", "cutoff": 400}, (2, 8))
    prepare_data(sweep, run, model)
    assert np.isfinite(pq.read_table(run.test_parquet)["true_log_odds"].to_numpy()).all()
    assert len(load_mix(run, 8)) == 40 and source_counts(sweep).stock[:2] == (20, 20)
    assert base_rows(sweep, run).path.is_file()


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not there")
def test_the_real_submissions_are_split_by_class_and_both_years_are_reported(run, model):
    sweep = sweep_of({"source": str(REAL), "resampling": "oversample", "cutoff": 512})
    record = prepare_data(sweep, run, model)
    assert (record["source"]["accepts"], record["source"]["rejects"]) == (535 - 107, 740 - 148)
    assert (record["test"]["accepts"], record["test"]["rejects"]) == (107, 148)
    assert {m["accepts"] + m["rejects"] for m in record["mixes"].values()} == {1020}
    assert set(record["truncated"]["test"]["by_year"]) == {"2017", "2018"}


def test_another_choice_for_system_turns_makes_other_prompts_and_is_refused_after_training(files, run, model):
    first = prepare_data(sweep_of(data_of(files)), run, model)
    second = prepare_data(sweep_of(data_of(files, system="merge")), run, model)
    assert first["fingerprint"] != second["fingerprint"] and first["system"] == "keep" and second["system"] == "merge"
    assert "system turns" in second["notes"][0]
    prompts = pq.read_table(run.test_parquet)["prompt"].to_pylist()
    assert prompts and all("<|im_start|>user\nYou review.\n\n" in p for p in prompts)
    run.trained("baseline_gamma1.0_prop1_2").parent.mkdir(parents=True)
    run.trained("baseline_gamma1.0_prop1_2").write_text("{}")
    with pytest.raises(WlsweepError, match=r"changed \(system\)"):
        prepare_data(sweep_of(data_of(files)), run, model)


VALIDATED = {
    "test file": {},
    "split": {"source": "train.jsonl"},
    "pool": {"resampling": "pool", "pool": "pool.jsonl"},
    "table": {"resampling": "table", "table": {"1/2": [40, 40], "1/3": [26, 54], "1/4": [20, 60], "1/8": [10, 70]}},
}


@pytest.mark.parametrize("limit", [None, 12])
@pytest.mark.parametrize("kind", VALIDATED)
def test_validation_papers_are_in_no_mix_no_test_set_and_not_under_the_base_and_the_plan_counts_them(
    files, run, model, kind, limit
):
    write_lines(files / "pool.jsonl", corpus(0, 40, "p"))
    more = {k: str(files / v) if str(v).endswith("jsonl") else v for k, v in VALIDATED[kind].items()}
    sweep = sweep_of(data_of(files, **more, validation_share=0.25, limit=limit))
    record = prepare_data(sweep, run, model)
    validation, test = load_validation(run), set(load_test(run).row_ids)
    held_out, mixes = set(validation.row_ids), {k: set(load_mix(run, k).row_ids) for k in (2, 3, 4, 8)}
    rows = limit or (16 if kind == "split" else 20)  # a quarter of 64 or 80
    assert len(validation) == len(held_out) == rows and validation.row_ids == sorted(held_out)
    assert int(validation.accept.sum()) == rows // 2 == record["validation"]["accepts"]
    assert not held_out & test and not any(held_out & mix for mix in mixes.values())
    assert not any(row_id.startswith("p") for row_id in held_out), "papers of a pool are extra training rows"
    assert not held_out & {r.row_id for r in read_rows(base_rows(sweep, run))}
    counts = source_counts(sweep)
    assert (counts.validation_accepts, counts.validation_rejects) == (rows // 2, rows // 2)
    assert counts.stock.total == record["source"]["rows"]
    planned = planned_mixes(sweep, counts.stock)
    assert {f"1/{k}": (c.accepts, c.rejects) for k, c in planned.items()} == {
        name: (m["accepts"], m["rejects"]) for name, m in record["mixes"].items()
    }
    assert prepare_data(sweep, run, model) == record


def test_a_trial_run_validates_on_papers_of_the_real_runs_validation(files, run, model):
    data = data_of(files, validation_share=0.4)
    prepare_data(sweep_of(data), run, model)
    trial = RunDir(run.root.parent / "trial")
    prepare_data(sweep_of({**data, "limit": 8}), trial, model)
    assert set(load_validation(trial).row_ids) < set(load_validation(run).row_ids)
    assert not set(load_mix(trial, 2).row_ids) & set(load_validation(run).row_ids)


def test_without_validation_the_data_are_those_of_before_and_with_it_the_token_table_is(files, run, model):
    record = prepare_data(sweep_of(data_of(files)), run, model)
    assert record["validation"] is None and load_validation(run) is None and not run.validation_parquet.exists()
    assert "validation_share" not in record["identity"]
    other = RunDir(run.root.parent / "validated")
    validated = prepare_data(sweep_of(data_of(files, validation_share=0.5)), other, model)
    assert validated["tokens"] == record["tokens"] | {"validation": record["tokens"]["train"]}
    assert set(load_mix(other, 2).row_ids) | set(load_validation(other).row_ids) == set(load_mix(run, 2).row_ids)


def test_other_validation_papers_under_trained_conditions_are_refused(files, run, model):
    prepare_data(sweep_of(data_of(files)), run, model)
    run.trained("accept_gamma2.0_prop1_2").parent.mkdir(parents=True)
    run.trained("accept_gamma2.0_prop1_2").write_text("{}")
    with pytest.raises(WlsweepError, match=r"changed \(validation_share\)"):
        prepare_data(sweep_of(data_of(files, validation_share=0.5)), run, model)


@pytest.mark.parametrize("damage", ["missing", "cut", "another paper"])
def test_damaged_validation_papers_are_one_error(files, run, model, damage):
    prepare_data(sweep_of(data_of(files, validation_share=0.5)), run, model)
    if damage == "missing":
        run.validation_parquet.unlink()
    elif damage == "cut":
        run.validation_parquet.write_bytes(run.validation_parquet.read_bytes()[:50])
    else:
        pq.write_table(pq.read_table(run.validation_parquet).slice(1), run.validation_parquet)
    with pytest.raises(WlsweepError, match=r"validation\.parquet .*delete .*data\.json and run the sweep again"):
        load_validation(run)


def test_too_few_validation_rows_of_a_class_are_refused_by_plan_and_stage_before_anything_is_written(files, run, model):
    data = data_of(files, validation_share=0.1)
    trial = sweep_of({**data, "limit": 8})
    for refuse in (lambda: source_counts(sweep_of(data)), lambda: prepare_data(trial, run, model)):
        with pytest.raises(WlsweepError, match=r"0\.1 of 40 accepts and 40 rejects leaves 4 and 4 for validation"):
            refuse()
    assert not run.root.exists()
