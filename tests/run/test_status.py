"""A stage is done when its artifact says so, and only then."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wlsweep.errors import WlsweepError
from wlsweep.run.columns import PREDICTION, TRUTH
from wlsweep.run.layout import RunDir, atomic_file, atomic_folder, existing_run, write_json
from wlsweep.run.status import RunStatus, refuse_other_configuration
from wlsweep.spec.condition import Condition

NAME = "accept_gamma2.0_prop1_2"


def truth(ids):
    fill = {"row_hash": "h", "year": 2020, "label": "Accept", "truncated": False, "true_log_odds": 0.0, "prompt": "p"}
    return pa.Table.from_pylist([{"row_id": i, **fill} for i in ids], schema=TRUTH)


def predictions(ids, fingerprint="model-1"):
    fill = {
        "row_hash": "h", "year": 2020, "label": "Accept", "text": "", "parsed": None, "logprob_accept": -1.0,
        "logprob_reject": -1.0, "p_accept": 0.5, "p_other": 0.0, "prompt_tokens": 3, "truncated": False,
        "model_fingerprint": fingerprint,
    }  # fmt: skip
    return pa.Table.from_pylist([{"row_id": i, **fill} for i in ids], schema=PREDICTION)


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "r")
    conditions = [Condition("accept", 2.0, 2, index=5).as_dict()]
    write_json(run.sweep_json, {"sweep": {"name": "r"}, "fingerprint": "f", "conditions": conditions, "command": "c"})
    run.data.mkdir()
    pq.write_table(truth(["a", "b"]), run.test_parquet)
    write_json(run.data_json, {})
    return run


def trained(run, fingerprint="f"):
    write_json(run.trained(NAME), {"sweep_fingerprint": fingerprint, "model": {"fingerprint": "model-1"}})


def predicted(run, ids, fingerprint="model-1", file="part-0.parquet"):
    run.prediction(NAME).mkdir(parents=True, exist_ok=True)
    pq.write_table(predictions(ids, fingerprint), run.prediction(NAME) / file)


def stages(run):
    (state,) = RunStatus(run).all()
    return state.train, state.predict


def test_nothing_there_is_missing(run):
    assert stages(run) == ("missing", "missing")


def test_a_condition_with_every_row_once_is_done_whatever_their_order(run):
    trained(run)
    predicted(run, ["b", "a"])
    assert stages(run) == ("done", "done")
    assert RunStatus(run).as_json()["conditions"][0]["index"] == 5


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "b"], ["a", "c"], []])
def test_missing_duplicate_and_foreign_rows_are_not_done(run, ids):
    trained(run)
    predicted(run, ids)
    assert stages(run) == ("done", "missing")


def test_predictions_of_another_model_are_not_done(run):
    trained(run)
    predicted(run, ["a", "b"], fingerprint="an older model")
    assert stages(run) == ("done", "missing")


def test_a_torn_parquet_file_is_not_done(run):
    trained(run)
    predicted(run, ["a", "b"])
    file = run.prediction(NAME) / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    assert stages(run) == ("done", "missing")


def test_training_under_another_configuration_is_not_done(run):
    trained(run, fingerprint="other")
    assert stages(run) == ("missing", "missing")


def test_a_failure_keeps_its_cause(run):
    write_json(run.failed(NAME), {"stage": "train", "cause": "out of luck"})
    (state,) = RunStatus(run).all()
    assert (state.train, state.cause) == ("failed", "out of luck")


def test_progress_is_read_off_the_metric_log_even_if_its_last_line_is_torn(run):
    run.condition(NAME).mkdir(parents=True)
    run.metric_log(NAME).write_text(json.dumps({"step": 10, "of": 40}) + '\n{"step": 2')
    (state,) = RunStatus(run).all()
    assert (state.step, state.of) == (10, 40)


def test_another_configuration_is_refused_in_the_same_folder(run):
    refuse_other_configuration(run, "f", "r")
    with pytest.raises(WlsweepError, match="another configuration"):
        refuse_other_configuration(run, "g", "r")


def test_a_folder_without_a_run_is_a_clear_error(tmp_path):
    with pytest.raises(WlsweepError, match="holds no run"):
        existing_run(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")

    def half():
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_another_process_finished_first_stays(tmp_path):
    target = tmp_path / "d"
    with atomic_folder(target) as temporary:
        (temporary / "mine").touch()
        target.mkdir()
        (target / "theirs").touch()
    assert [p.name for p in target.iterdir()] == ["theirs"] and list(tmp_path.iterdir()) == [target]


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
