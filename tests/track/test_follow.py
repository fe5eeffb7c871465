"""What trackers get of a run: every logged step once, what it ended with, and the report; whatever happens between."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.made_run import THE_19, add_validation, make_run
from tests.track.reading import tensorboard_scalars, wandb_records
from wlsweep.analysis.evaluate import evaluate
from wlsweep.errors import WlsweepError
from wlsweep.report.page import write_report
from wlsweep.run.layout import write_json
from wlsweep.spec.config import load_sweep
from wlsweep.track import clients
from wlsweep.track.follow import Follower
from wlsweep.track.process import track_now, tracking

A, B, BAD = THE_19[0], THE_19[1], THE_19[2]
STEPS = 24


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Two trained conditions and one that failed. The working folder, into which MLflow writes, is a temporary one."""
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "run", [A, B, BAD], n=40, failed=[BAD], steps=STEPS)


def finish(run):
    write_report(run, evaluate(run, draws=50))


def scalars(run, name):
    return tensorboard_scalars(run.root / "tensorboard" / name)


def cut_log(run, name, lines):
    """Leave the first lines of a metric log, as if it were still being written; returns the rest."""
    log = run.metric_log(name)
    text = log.read_text().splitlines(keepends=True)
    log.write_text("".join(text[:lines]) + text[lines][:20])
    run.trained(name).rename(run.trained(name).with_suffix(".later"))
    return "".join(text)


def test_every_step_is_sent_once_while_a_condition_trains_and_its_end_follows(run):
    pytest.importorskip("tensorboardX", reason="make test installs the trackers")
    whole = cut_log(run, A, 10)
    follower = Follower(run, ["tensorboard"])
    assert follower.send() == {} and follower.send() == {}
    assert follower.looked_at == 2, "the one that trains and the one that failed: what is trained was sent"
    found, texts = scalars(run, A)
    assert [step for step, _ in found["train/loss"]] == [10 * (i + 1) for i in range(10)]
    assert texts[0][0].startswith("configuration") and '"gamma": 1.0' in texts[0][1]

    run.metric_log(A).write_text(whole)
    run.trained(A).with_suffix(".later").rename(run.trained(A))
    follower.send()
    found, _ = scalars(run, A)
    lines = [json.loads(line) for line in whole.splitlines()]
    assert found["train/loss"] == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert found["training/tokens"] == [(240, 120_000)] and "eval/accuracy" not in found

    finish(run)
    follower.send(last=True)
    found, _ = scalars(run, A)
    assert len(found["train/loss"]) == STEPS and len(found["eval/accuracy"]) == 1
    entry = next(e for e in json.loads(run.metrics_json.read_text()) if e["name"] == A)
    assert found["eval/accuracy"][0] == (240, pytest.approx(entry["accuracy"]))
    _, texts = scalars(run, "made")
    assert str(run.report.resolve()) in texts[-1][1]


def test_validation_has_names_of_its_own(run):
    pytest.importorskip("tensorboardX", reason="make test installs the trackers")
    (written,) = add_validation(run, [A]).values()
    Follower(run, ["tensorboard"]).send(last=True)
    found, _ = scalars(run, A)
    for key in ("loss", "bce", "auc", "accuracy", "accept_rate"):
        expected = [(line["step"], pytest.approx(line[f"validation_{key}"])) for line in written]
        assert found[f"validation/{key}"] == expected
    assert len(found["train/loss"]) == STEPS and not [tag for tag in found if tag.startswith("train/validation")]


def test_a_resumed_condition_goes_on_in_its_run_and_nothing_is_sent_twice(run):
    pytest.importorskip("tensorboardX", reason="make test installs the trackers")
    whole = cut_log(run, A, 10)
    Follower(run, ["tensorboard"]).send(last=True)
    first = json.loads((run.tracking / "tensorboard.json").read_text())[A]
    assert (first["step"], first["state"]) == (100, "running")
    run.metric_log(A).write_text("".join(whole.splitlines(keepends=True)[:7]))  # back to a checkpoint, and on
    Follower(run, ["tensorboard"]).send(last=True)
    run.metric_log(A).write_text(whole)
    Follower(run, ["tensorboard"]).send(last=True)
    found, texts = scalars(run, A)
    assert [step for step, _ in found["train/loss"]] == [10 * (i + 1) for i in range(STEPS)]
    assert sum(tag.startswith("configuration") for tag, _ in texts) == 1


def test_a_failed_condition_says_why_and_goes_on_when_it_is_tried_again(run):
    pytest.importorskip("tensorboardX", reason="make test installs the trackers")
    follower = Follower(run, ["tensorboard"])
    follower.send()
    _, texts = scalars(run, BAD)
    assert ("cause/text_summary", "train: RuntimeError: loss is not finite at step 7") in texts
    run.failed(BAD).unlink()
    run.metric_log(BAD).write_text(run.metric_log(A).read_text())
    follower.send()
    assert len(scalars(run, BAD)[0]["train/loss"]) == STEPS


def test_a_tracker_that_fails_holds_neither_the_others_nor_the_launch_and_gets_the_rest_later(run, monkeypatch):
    pytest.importorskip("tensorboardX", reason="make test installs the trackers")
    pytest.importorskip("mlflow", reason="make test installs the trackers")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finish(run)
    record = json.loads(run.sweep_json.read_text())
    sweep = load_sweep("demo", settings=['track=["mlflow", "tensorboard"]'])
    write_json(run.sweep_json, record | {"fingerprint": sweep.fingerprint()})
    said = []
    with tracking(sweep, run, said.append):
        pass
    (line,) = said
    assert "mlflow did not get everything" in line and f"wlsweep track {run.root} --track mlflow" in line
    assert len(scalars(run, B)[0]["train/loss"]) == STEPS
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{run.root}/mlflow.db")
    assert track_now(run, ["mlflow"]) == {}
    assert json.loads((run.tracking / "mlflow.json").read_text())[B]["step"] == 240


def test_a_run_of_another_configuration_is_not_sent(run):
    pytest.importorskip("tensorboardX", reason="make test installs the trackers")
    with tracking(load_sweep("demo", settings=['track=["tensorboard"]']), run, print):
        pass
    assert not (run.root / "tensorboard").exists()


def test_a_tracker_without_its_client_is_refused_before_anything_is_spent(run, monkeypatch):
    monkeypatch.setattr(clients, "find_spec", lambda name: None)
    sweep = load_sweep("demo", settings=['track=["wandb"]'])
    with pytest.raises(WlsweepError, match="wandb: pip install wandb"), tracking(sweep, run, print):
        raise AssertionError("the block began")
    with pytest.raises(WlsweepError, match="'wandb', 'mlflow' or 'tensorboard'"):
        load_sweep("demo", settings=['track=["comet"]'])
    with pytest.raises(WlsweepError, match="'comet' is no tracker"):
        clients.trackers_named(["comet"])


def test_a_tracker_that_is_named_twice_is_sent_everything_once():
    assert load_sweep("demo", settings=['track=["mlflow", "wandb", "mlflow"]']).track == ("mlflow", "wandb")
    assert clients.trackers_named(["wandb", "wandb"]) == ["wandb"]


def test_trackers_do_not_change_the_fingerprint():
    assert load_sweep("demo", settings=['track=["mlflow"]']).fingerprint() == load_sweep("demo").fingerprint()


def test_wandb_offline_files_hold_a_run_a_condition_in_the_group_of_the_sweep(run, monkeypatch):
    pytest.importorskip("wandb", reason="make test installs the trackers")
    monkeypatch.setenv("WANDB_MODE", "offline")
    whole = cut_log(run, A, 10)
    assert Follower(run, ["wandb"]).send(last=True) == {}
    run.metric_log(A).write_text(whole)
    run.trained(A).with_suffix(".later").rename(run.trained(A))
    finish(run)
    assert Follower(run, ["wandb"]).send(last=True) == {}

    names, history, summary, files = {}, {}, {}, set()
    for path in sorted((run.tracking / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                key = record.run.run_id
                names.setdefault(record.run.display_name, set()).add((key, record.run.run_group, record.run.job_type))
            elif kind == "history":
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                history.setdefault(key, []).append((record.history.step.num, row))
            elif kind == "summary":
                update = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
                summary.setdefault(key, {}).update(update)
            elif kind == "artifact":
                files |= {entry.path for entry in record.artifact.manifest.contents}
    assert {name: len(runs) for name, runs in names.items()} == {A: 1, B: 1, BAD: 1, "made": 1}
    ((run_id, group, kind),) = names[A]
    assert (group, kind) == ("made", "condition")
    steps = [step for step, row in history[run_id] if "train/loss" in row]
    assert steps == [10 * (i + 1) for i in range(STEPS)]
    assert 0 < summary[run_id]["eval/accuracy"] < 1
    ((failed, _, _),) = names[BAD]
    assert "loss is not finite" in summary[failed]["cause"]
    assert {"index.html", "all_metrics.json"} <= files


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """A real server with a database and a store of artifacts."""
    pytest.importorskip("mlflow", reason="make test installs the trackers")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    store = [f"--backend-store-uri=sqlite:///{folder}/m.db", f"--artifacts-destination={folder}/artifacts"]
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", *store]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(server.pid, 9)
        server.wait()


@pytest.mark.slow
def test_a_real_mlflow_server_has_a_run_a_condition_below_the_sweeps_and_the_report(run, mlflow_server, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    whole = cut_log(run, A, 10)
    assert Follower(run, ["mlflow"]).send(last=True) == {}
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("made").experiment_id

    def runs():
        found = {r.info.run_name: r for r in client.search_runs([experiment])}
        assert len(found) == len(client.search_runs([experiment]))
        return found

    assert runs()[A].info.status == "KILLED" and runs()[BAD].info.status == "FAILED"
    (run.tracking / "mlflow.json").unlink()  # a lost record: the runs are found again by their tags
    run.metric_log(A).write_text(whole)
    run.trained(A).with_suffix(".later").rename(run.trained(A))
    finish(run)
    command = [sys.executable, "-m", "wlsweep", "track", str(run.root), "--track", "mlflow"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "mlflow: sent", done.stderr

    found = runs()
    assert set(found) == {A, B, BAD, "made"}
    assert found[A].info.status == "FINISHED" and found[A].data.params["condition.gamma"] == "1.0"
    assert found[A].data.tags["mlflow.parentRunId"] == found["made"].info.run_id
    assert found[A].data.metrics["eval/accuracy"] == json.loads(run.metrics_json.read_text())[0]["accuracy"]
    losses = client.get_metric_history(found[A].info.run_id, "train/loss")
    assert {m.step for m in losses} == {10 * (i + 1) for i in range(STEPS)}
    assert "loss is not finite" in found[BAD].data.tags["cause"]
    attached = {f.path for f in client.list_artifacts(found["made"].info.run_id)}
    assert {"index.html", "all_metrics.json"} <= attached
