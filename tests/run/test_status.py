"""A stage is done when its artifact says so, and every command says the same."""

import html
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.damage import as_folder, unreadable
from tests.made_run import FINGERPRINT, THE_19, add_validation, make_run, trained_record
from wlsweep.analysis.evaluate import evaluate, up_to_date
from wlsweep.analysis.forecast import forecast_run
from wlsweep.data.export import export_jsonl
from wlsweep.errors import UnreadableError, WlsweepError
from wlsweep.report.page import write_report
from wlsweep.run.layout import atomic_file, atomic_folder, existing_run, write_json
from wlsweep.run.lease import hold
from wlsweep.run.status import RunStatus, record_failure, refuse_other_configuration, refuse_unreadable
from wlsweep.run.status_table import next_command, status_table
from wlsweep.spec.condition import parse_name

BASE, NAME, THIRD = THE_19[0], THE_19[1], THE_19[4]


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "r", [BASE, NAME, THIRD], n=24, steps=4)


def stages(run, name=NAME):
    (state,) = [s for s in RunStatus(run).all() if s.name == name]
    return state.train, state.predict


def cause(run, name=NAME):
    return next(s.cause for s in RunStatus(run).all() if s.name == name)


def predictions_of(run, name=NAME):
    return run.prediction(name) / "part-0.parquet"


def rewrite(run, change):
    table = pq.read_table(predictions_of(run), partitioning=None)
    pq.write_table(change(table), predictions_of(run))


def column(table, name, values):
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def trained_elsewhere(run):
    write_json(run.trained(NAME), trained_record(parse_name(NAME), {"step": 1}, "another"))


def test_nothing_there_is_missing(tmp_path):
    run = make_run(tmp_path / "r", [BASE, NAME], n=8, leave_out=[NAME])
    assert stages(run) == ("missing", "missing") and cause(run) is None


def test_a_condition_with_every_row_once_is_done_whatever_their_order(run):
    rewrite(run, lambda table: table.take(list(range(23, -1, -1))))
    assert stages(run) == ("done", "done")
    assert RunStatus(run).as_json()["conditions"][1]["index"] == 1


WAYS = {
    # how it was brought about, and what training and prediction of the condition are then
    "training missing": (lambda run: run.trained(NAME).unlink(), "missing", "missing"),
    "training foreign": (trained_elsewhere, "foreign", "missing"),
    "training cut short": (lambda run: cut(run.trained(NAME)), "damaged", "missing"),
    "training empty": (lambda run: run.trained(NAME).write_text(""), "damaged", "missing"),
    "training {}": (lambda run: run.trained(NAME).write_text("{}"), "damaged", "missing"),
    "training garbage": (lambda run: run.trained(NAME).write_bytes(bytes(range(256))), "damaged", "missing"),
    "training unreadable": (lambda run: as_folder(run.trained(NAME)), "unreadable", "missing"),
    "prediction missing": (lambda run: predictions_of(run).unlink(), "done", "missing"),
    "prediction of another model": (
        lambda run: rewrite(run, lambda t: column(t, "model_fingerprint", ["older"] * 24)), "done", "foreign"),
    "prediction of two models": (
        lambda run: rewrite(run, lambda t: column(t, "model_fingerprint", [NAME[:16]] * 23 + ["older"])), "done", "foreign"),
    "prediction of other papers": (
        lambda run: rewrite(run, lambda t: column(t, "row_id", ["x", *t["row_id"].to_pylist()[1:]])), "done", "foreign"),
    "prediction of other texts": (
        lambda run: rewrite(run, lambda t: column(t, "row_hash", t["row_hash"].to_pylist()[::-1])), "done", "foreign"),
    "prediction under other labels": (
        lambda run: rewrite(run, lambda t: column(t, "label", t["label"].to_pylist()[::-1])), "done", "foreign"),
    "prediction cut short": (lambda run: cut(predictions_of(run)), "done", "damaged"),
    "prediction empty": (lambda run: predictions_of(run).write_bytes(b""), "done", "damaged"),
    "prediction of some papers": (lambda run: rewrite(run, lambda t: t.slice(3)), "done", "damaged"),
    "prediction of no paper": (lambda run: rewrite(run, lambda t: t.slice(0, 0)), "done", "damaged"),
    "prediction twice": (lambda run: rewrite(run, lambda t: pa.concat_tables([t, t.slice(0, 1)])), "done", "damaged"),
    "prediction without a column": (lambda run: rewrite(run, lambda t: t.drop_columns(["text"])), "done", "damaged"),
    "prediction without numbers": (
        lambda run: rewrite(run, lambda t: column(t, "logprob_accept", [float("nan")] * 24)), "done", "damaged"),
    "prediction with a wrong probability": (
        lambda run: rewrite(run, lambda t: column(t, "p_accept", [0.123] * 24)), "done", "damaged"),
    "prediction unreadable": (lambda run: as_folder(predictions_of(run)), "done", "unreadable"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_command_takes_the_same_conditions_for_done(run, way):
    act, train, predict = WAYS[way]
    assert stages(run) == ("done", "done")
    act(run)
    assert stages(run) == (train, predict)
    left = {BASE, THIRD}
    status = RunStatus(run)
    assert {c["name"] for c in status.as_json()["conditions"] if c["predict"] == "done"} == left
    evaluation = evaluate(run, draws=20)
    assert {c.name for c in evaluation.conditions if c.done} == left
    (entry,) = [c for c in evaluation.conditions if c.name == NAME]
    assert entry["accuracy"].value is None and entry.cause
    assert {c.name for c in up_to_date(run).conditions if c.done} == left
    assert entry.cause.split(";")[0][:60] in html.unescape(write_report(run, evaluation).page.read_text())
    assert forecast_run(run, draws=20).done == left
    assert {p.parent.name for p in export_jsonl(run)} == left
    # what `run` asks: whether to make it again
    if "unreadable" in (train, predict):
        assert entry.state == "unreadable" and cause(run)
        with pytest.raises(UnreadableError, match=NAME):
            status.predicted(NAME)
        with pytest.raises(WlsweepError, match=rf"cannot be read; they may be whole(.|\n)*{NAME}"):
            refuse_unreadable(run, status.conditions)
    else:
        assert (status.trained(NAME) is not None, status.predicted(NAME)) == (train == "done", False)
        refuse_unreadable(run, status.conditions)
        if "missing" not in way:
            assert NAME in cause(run) or "not those of the model" in cause(run)


def test_one_deleted_and_one_foreign_record_of_a_demo_are_17_of_19_for_all(tmp_path, capsys):
    run = make_run(tmp_path / "r", THE_19, n=24, steps=4)
    run.trained(THE_19[3]).unlink()
    write_json(run.trained(THE_19[7]), trained_record(parse_name(THE_19[7]), {"step": 1}, "another"))
    left = set(THE_19) - {THE_19[3], THE_19[7]}
    assert {s.name for s in RunStatus(run).all() if s.done} == left
    assert {c.name for c in evaluate(run, draws=20).conditions if c.done} == left
    assert {c.name for c in up_to_date(run).conditions if c.done} == left
    assert forecast_run(run, draws=20).done == left and len(export_jsonl(run)) == 17


@pytest.mark.parametrize("way", [cut, as_folder, lambda p: p.write_bytes(b"")], ids=["cut", "folder", "empty"])
@pytest.mark.parametrize("file", ["sweep_json", "data_json", "test_parquet"])
def test_what_all_conditions_rest_on_is_one_error_that_names_it_for_every_command(run, file, way):
    path = getattr(run, file)
    way(path)
    for command in (
        lambda: RunStatus(run).as_json(),
        lambda: evaluate(run, draws=20),
        lambda: up_to_date(run),
        lambda: forecast_run(run, draws=20),
        lambda: export_jsonl(run),
        lambda: RunStatus(run).predicted(NAME),
    ):
        with pytest.raises(WlsweepError) as e:
            command()
        assert str(path) in str(e.value) and any(word in str(e.value) for word in ("delete", "move it away"))
    assert not run.metrics_json.exists() and not run.report.exists()


def test_a_file_without_permission_is_not_missing(run):
    with unreadable(run.trained(NAME), run.prediction(BASE)):
        assert stages(run) == ("unreadable", "missing") and "Permission denied" in cause(run)
        assert stages(run, BASE) == ("done", "unreadable")
    with (
        unreadable(run.trained(NAME), run.prediction(BASE)),
        pytest.raises(WlsweepError, match=r"Permission denied(.|\n)*Permission denied"),
    ):
        refuse_unreadable(run, RunStatus(run).conditions)


def test_a_failure_keeps_its_cause(run):
    run.trained(NAME).unlink()
    record_failure(run, NAME, "train", "out of luck")
    assert stages(run) == ("failed", "missing") and cause(run) == "out of luck"
    run.failed(NAME).write_text("[")
    assert stages(run) == ("failed", "missing") and "not known" in cause(run)


def test_a_failure_names_the_log_that_says_most_of_it(run):
    from wlsweep.run.records import FailedRecord

    def log(stage="train", attempts=1):
        record_failure(run, NAME, stage, "out of luck", attempts)
        return FailedRecord.read(run.failed(NAME)).log

    assert log() == str(run.logs)
    (run.logs / "conditions").mkdir(parents=True)
    (run.logs / "driver.log").write_text("x")
    assert log() == str(run.logs / "driver.log")
    names = [f"{NAME}_train_attempt{a}_rank{r}.log" for a in (1, 2) for r in (0, 1)]
    for name in names:
        (run.logs / "conditions" / name).write_text("x")
    assert log(attempts=2) == str(run.logs / "conditions" / names[2])
    assert log(attempts=1) == str(run.logs / "conditions" / names[0])


def test_a_held_condition_runs_whatever_is_damaged(run):
    run.trained(NAME).write_text("{}")
    with hold(run.lease(NAME), "the other launch"):
        assert stages(run) == ("running", "missing") and cause(run) == "the other launch"


def test_progress_is_read_off_the_metric_log_even_if_its_last_line_is_torn(run):
    run.metric_log(NAME).write_text(json.dumps({"step": 10, "of": 40}) + '\n{"step": 2')
    (state,) = [s for s in RunStatus(run).all() if s.name == NAME]
    assert (state.step, state.of) == (10, 40)


def test_a_thousand_conditions_are_judged_in_seconds(tmp_path):
    names = [f"accept_gamma{2 + i // 10}.{i % 10}_prop1_2" for i in range(250)]
    run = make_run(tmp_path / "r", names, n=2000, steps=1)
    began = time.monotonic()
    status = RunStatus(run)
    assert sum(s.done for s in status.all()) == 250
    first = time.monotonic() - began
    assert first < 10, "a quarter of 1,000 conditions"
    began = time.monotonic()
    assert all(status.predicted(name) for name in names) and all(RunStatus(run).predicted(n) for n in names[:20])
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("only", "advised"),
    [
        ("--only 0", ""),
        ("-c 0", ""),
        ("--only=0", ""),
        ("--only '0,2'", ""),
        ("--only 0-1", " --only 0-1"),
        ("", ""),
        ("--stage data", ""),
        ("--only 0 --stage=train", ""),
        ("--only 0-1 --stage train", " --only 0-1"),
    ],
)
def test_the_advised_command_does_something(run, only, advised):
    run.trained(NAME).unlink()
    record = json.loads(run.sweep_json.read_text())
    write_json(run.sweep_json, record | {"command": f"wlsweep run demo {only}".strip()})
    status = RunStatus(run)
    assert next_command(status.record, status.all()) == "wlsweep run demo" + advised


def test_another_configuration_is_refused_in_the_same_folder(run):
    refuse_other_configuration(run, FINGERPRINT, "r")
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


def test_status_says_what_the_last_validation_of_each_trained_condition_said(run, capsys):
    status_table(RunStatus(run))
    assert "validation" not in capsys.readouterr().out
    written = add_validation(run, [BASE])
    (base, other, *_) = RunStatus(run).all()
    assert base.validation == {k: written[BASE][-1][f"validation_{k}"] for k in base.validation}
    assert set(base.validation) == {"loss", "bce", "auc", "accuracy", "accept_rate"} and other.validation is None
    status_table(RunStatus(run))
    said = capsys.readouterr().out
    assert f"{base.validation['bce']:.3f}" in said and "on the papers of validation" in said
