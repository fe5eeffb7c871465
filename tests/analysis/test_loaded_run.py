import codecs
import gzip
import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.made_run import THE_19, make_run, trained_record, write_predictions
from wlsweep.analysis.loaded_run import load_predictions
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import write_json
from wlsweep.run.lease import hold
from wlsweep.spec.condition import parse_name

BASE, OTHER = THE_19[0], THE_19[1]


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, [BASE, OTHER], n=40)


def rewrite(run, change, name=OTHER):
    path = run.prediction(name) / "part-0.parquet"
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def set_column(table, name, values):
    return table.set_column(
        table.schema.get_field_index(name), name, pa.array(values, table.schema.field(name).type)
    ).cast(table.schema)


def test_predictions_are_joined_by_row_id_whatever_their_order_and_files(run):
    before = load_predictions(run).scores[OTHER]
    path = run.prediction(OTHER) / "part-0.parquet"
    table = pq.read_table(path, partitioning=None)
    order = np.random.default_rng(0).permutation(len(table))
    path.unlink()
    pq.write_table(table.take(order[:15]), run.prediction(OTHER) / "a.parquet")
    pq.write_table(table.take(order[15:]), run.prediction(OTHER) / "b.parquet")
    after = load_predictions(run).scores[OTHER]
    assert np.array_equal(before.log_odds, after.log_odds) and np.array_equal(before.parsed, after.parsed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.slice(3), "3 of 40 test rows have no prediction: 'paper-00000', 'paper-00001', 'paper-00002'"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "1 rows are predicted more than once: 'paper-00000'"),
        (
            lambda t: pa.concat_tables([t, set_column(t.slice(0, 1), "row_id", ["stranger"])]),
            "1 rows are no test rows: 'stranger'",
        ),
        (lambda t: set_column(t, "row_hash", t["row_hash"].to_pylist()[::-1]), "rows are of another text"),
        (lambda t: set_column(t, "row_id", t["row_id"].to_pylist()[::-1]), "rows are of another text"),
        (
            lambda t: set_column(t, "label", ["Reject", *t["label"].to_pylist()[1:]]),
            "1 rows have another label than the test set's: 'paper-00000'",
        ),
        (lambda t: set_column(t, "p_accept", [0.123] * len(t)), "p_accept that is not sigmoid"),
        (
            lambda t: set_column(t, "logprob_accept", [float("nan")] * len(t)),
            "no number, or a p_accept that is not sigmoid(logprob_accept - logprob_reject), in 40 rows",
        ),
        (lambda t: t.drop_columns(["parsed"]), "lacks the column parsed"),
    ],
    ids=["missing", "doubled", "foreign", "other text", "reordered", "other label", "wrong p", "nan", "no column"],
)
def test_a_condition_whose_predictions_do_not_fit_has_no_scores_and_says_why(run, change, said):
    rewrite(run, change)
    loaded = load_predictions(run)
    state, why = loaded.states[OTHER]
    assert [c.name for c in loaded.done] == [BASE] and state == "trained" and OTHER in why and said in why


def test_a_half_written_parquet_file_is_named(run):
    path = run.prediction(OTHER) / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    why = load_predictions(run).states[OTHER][1]
    assert "no whole Parquet file" in why and str(path) in why


def test_conditions_without_predictions_keep_their_place_and_say_why(tmp_path):
    run = make_run(tmp_path, THE_19[:4], n=20, failed=[THE_19[1]], leave_out=[THE_19[2], THE_19[3]])
    write_json(run.trained(THE_19[3]), trained_record(parse_name(THE_19[3]), {"step": 1}))
    loaded = load_predictions(run)
    assert [loaded.states[n][0] for n in THE_19[:4]] == ["done", "failed", "missing", "trained"]
    assert "loss is not finite at step 7" in loaded.states[THE_19[1]][1]


@pytest.mark.parametrize("edit", ["label", "doubled", "absent"])
def test_a_damaged_test_set_is_refused(run, edit):
    table = pq.read_table(run.test_parquet)
    if edit == "absent":
        run.test_parquet.unlink()
    elif edit == "label":
        pq.write_table(set_column(table, "label", ["Maybe", *table["label"].to_pylist()[1:]]), run.test_parquet)
    else:
        pq.write_table(pa.concat_tables([table, table.slice(5, 1)]), run.test_parquet)
    with pytest.raises(WlsweepError, match={"label": "Maybe", "doubled": "paper-00005", "absent": "is missing"}[edit]):
        load_predictions(run)


def test_certainty_beyond_float64_stays_finite_and_ordered(run):
    write_predictions(run, OTHER, np.r_[np.full(20, 1e4), np.full(20, -1e4)])
    scores = load_predictions(run).scores[OTHER]
    assert np.isfinite(scores.log_odds).all() and scores.decision.sum() == 20


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_external_predictions_need_only_ids_and_probabilities(run, tmp_path, kind):
    truth = pq.read_table(run.test_parquet)
    p = np.linspace(0.01, 0.99, 40)
    table = pa.table({"row_id": truth["row_id"], "p_accept": p})
    path = tmp_path / f"other.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()) + "\n")
    scores = load_predictions(run, externals=[("tf-idf", path)]).externals["tf-idf"]
    assert np.allclose(scores.log_odds, np.log(p / (1 - p)), atol=1e-12)
    assert np.array_equal(scores.parsed == 1, p > 0.5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"row_id": "paper-00000", "p_accept": 0.5}\n', "39 of 40 test rows have no prediction"),
        ('{"row_id": "paper-00000"', "row 1: no JSON object on this line"),
        ('{"id": 3}\n', "needs row_id"),
        ("", r"is empty \(0 bytes\)"),
        (
            '{"row_id": "a", "p_accept": 0.5}\n{"row_id": "b", "p_accept": "high"}\n',
            "p_accept holds 'high'; expected num",
        ),
        ('[{"row_id": "paper-00000", "p_accept": [0.5]}]', r"p_accept holds \[0.5\]; expected numbers"),
        ("hello", "starts with b'h'; expected predictions"),
    ],
)
def test_external_files_that_do_not_fit_are_named(run, tmp_path, content, said):
    path = tmp_path / "other.jsonl"
    path.write_text(content)
    with pytest.raises(WlsweepError, match=said):
        load_predictions(run, externals=[("other", path)])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"label": 1.5}, "label holds 1.5"),
        ({"parsed": True}, "parsed holds True"),
        ({"parsed": "Maybe"}, "parsed holds 'Maybe'.*expected Accept or Reject, or nothing"),
        ({"p_accept": True}, "p_accept holds True.*; expected numbers"),
        ({"p_accept": 1.5}, "no number, or a p_accept that is not"),
        ({"logprob_accept": 0.7, "logprob_reject": 0.7}, "a log-probability is above 0 in 40 rows"),
        ({"p_other": 50}, "p_other is no probability in 40 rows"),
        ({"p_accept": None}, "no number"),
        ({"p_accept": float("nan")}, "no number"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "parquet"])
def test_external_values_that_cannot_be_meant_are_named(run, tmp_path, more, said, form):
    rows = [{"row_id": f"paper-{i:05d}", "p_accept": 0.5, **more} for i in range(40)]
    path = tmp_path / "other.jsonl"
    if form == "lines":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(WlsweepError, match=rf"other\.jsonl: {said}"):
        load_predictions(run, externals=[("other", path)])


def test_external_predictions_are_read_in_every_form_that_rows_are(run, tmp_path):
    rows = [{"row_id": f"paper-{i:05d}", "p_accept": 0.25, "why": "a \u2028 b", "n": math.nan} for i in range(40)]
    for i, spelling in enumerate(("accept", " ACCEPT", "\\boxed{Accept}", "Reject", "", None)):
        rows[i]["parsed"] = spelling
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    array = json.dumps(rows, ensure_ascii=False).encode()
    forms = {
        "lines.jsonl": lines,
        "bom.jsonl": codecs.BOM_UTF8 + lines,
        "array.json": array,
        "packed.gz": gzip.compress(array),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.PARQUET")
    for name in [*forms, "table.PARQUET"]:
        scores = load_predictions(run, externals=[("other", tmp_path / name)]).externals["other"]
        assert np.allclose(scores.log_odds, -math.log(3)) and scores.parsed[:6].tolist() == [1, 1, 1, 0, -1, -1]
    (tmp_path / "latin1").write_bytes('[{"row_id": "\u00e9"}]'.encode("latin-1"))
    with pytest.raises(WlsweepError, match="latin1: row 1: the JSON ends or breaks here"):
        load_predictions(run, externals=[("other", tmp_path / "latin1")])


def test_a_column_that_the_first_line_lacks_is_read(run, tmp_path):
    rows = [{"row_id": f"paper-{i:05d}", "p_accept": 0.5} | ({"parsed": "Accept"} if i else {}) for i in range(40)]
    path = tmp_path / "other.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_predictions(run, externals=[("other", path)]).externals["other"].parsed.tolist() == [-1] + [1] * 39


def test_a_condition_that_is_being_trained_says_by_whom(run):
    shutil.rmtree(run.prediction(OTHER))
    run.trained(OTHER).unlink()
    with hold(run.lease(OTHER), "the other launch"):
        assert load_predictions(run).states[OTHER] == ("missing", "in the hands of the other launch right now")
    assert load_predictions(run).states[OTHER] == ("missing", "not yet trained")


def test_predictions_of_another_model_than_the_one_trained_count_as_not_made(run):
    rewrite(run, lambda table: set_column(table, "model_fingerprint", ["older"] * 40))
    loaded = load_predictions(run)
    assert [c.name for c in loaded.done] == [BASE] and loaded.states[OTHER][0] == "trained"
    rewrite(run, lambda table: set_column(table, "model_fingerprint", [OTHER[:16]] * 39 + ["older"]))
    assert "not those of the model" in load_predictions(run).states[OTHER][1]
    run.trained(OTHER).unlink()  # predictions alone, without a record to hold against them
    assert [c.name for c in load_predictions(run).done] == [BASE]


def test_an_external_name_cannot_hide_a_condition(run, tmp_path):
    with pytest.raises(WlsweepError, match="the name is taken"):
        load_predictions(run, externals=[(BASE, tmp_path / "x.parquet")])


def test_years_that_are_missing_are_no_year(run):
    table = pq.read_table(run.test_parquet)
    years = pc.if_else(pc.equal(table["year"], 2020), None, table["year"])
    pq.write_table(table.set_column(table.schema.get_field_index("year"), "year", years), run.test_parquet)
    truth = load_predictions(run).truth
    assert 2020 not in truth.years and (truth.year == -1).sum() == 8
