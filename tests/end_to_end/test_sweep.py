"""Whole sweeps on the real engines: undisturbed, with nothing to do, refused, and ended early."""

import json
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

from tests.end_to_end.launches import NAMES, SMALL, beside, finish, results, results_of, start
from tests.track.reading import tensorboard_scalars
from wlsweep.run.layout import RunDir
from wlsweep.run.status import RunStatus
from wlsweep.run.usage import usage_of
from wlsweep.spec.config import load_sweep

pytestmark = pytest.mark.slow


def test_a_sweep_ends_with_every_condition_predicted_and_a_report(undisturbed):
    out, text = undisturbed
    run = RunDir(out)
    states = RunStatus(run).all()
    assert [(s.train, s.predict) for s in states] == [("done", "done")] * len(NAMES)
    metrics = json.loads(run.metrics_json.read_text())
    assert [m["name"] for m in metrics] == NAMES
    assert run.report.stat().st_size > 10_000
    assert str(run.report) in text and "Traceback" not in text and "WARNING" not in text
    assert not run.checkpoints(NAMES[0]).exists()


def test_a_tracker_has_every_logged_step_and_the_metrics_of_every_condition(undisturbed):
    run = RunDir(undisturbed[0])
    for entry in json.loads(run.metrics_json.read_text()):
        found, _ = tensorboard_scalars(run.root / "tensorboard" / entry["name"])
        log = [json.loads(line) for line in run.metric_log(entry["name"]).read_text().splitlines()]
        assert found["train/loss"] == [(line["step"], pytest.approx(line["loss"])) for line in log]
        assert found["eval/accuracy"] == [(log[-1]["step"], pytest.approx(entry["accuracy"]))]
    assert "tracking:" not in undisturbed[1]


def test_gamma_and_the_mix_move_the_predicted_rate_the_right_way(undisturbed):
    rates = [results(undisturbed[0])[n]["predictions"]["p_accept"] for n in NAMES]
    baseline, rejecting, rejecting_and_rare = (sum(p > 0.5 for p in r) / len(r) for r in rates)
    assert baseline > rejecting > rejecting_and_rare


def test_the_record_tells_what_ran(undisturbed):
    record = json.loads(RunDir(undisturbed[0]).sweep_json.read_text())
    assert record["conditions"][1]["name"] == NAMES[1]
    assert record["provenance"]["versions"]["torch"] and record["provenance"]["machine"]["cpus"]
    assert record["sweep"]["train"]["lr"] == 1e-3


def test_what_every_condition_used_is_counted_beside_the_plan_of_then(undisturbed):
    run, sweep = RunDir(undisturbed[0]), load_sweep(SMALL)
    usage = usage_of(run)
    for c in usage.conditions:
        said = json.loads(run.trained(c.name).read_text())["seconds"]
        assert c.attempts == 1 and not c.unfinished.seconds and c.prediction.seconds > 0
        assert c.training.seconds >= said["start"] + said["steps"] > 0
        cores = sweep.train.workers * sweep.train.cpus_per_worker
        assert c.training.core_hours == pytest.approx(cores * c.training.seconds / 3600, rel=0.2)
        assert c.model_bytes > 0
    assert usage.starting.core_hours > 0 and usage.total.gpu_hours == 0
    assert usage.wall_seconds >= sum(c.training.seconds for c in usage.conditions)
    assert set(usage.stages) == {"data", "train", "predict", "report"} and not usage.unrecorded
    assert 0.5 < usage.storage["models"] / usage.plan.models_bytes < 2  # a tiny tokenizer has fewer words than it may
    assert usage.sentence().removeprefix("used: ").split(" ")[1:3] == ["CPU", "core-hours,"]


def test_with_nothing_to_do_it_says_so(undisturbed):
    began = time.monotonic()
    text = finish(start(undisturbed[0]))
    assert f"nothing to do: all {len(NAMES)} conditions" in text
    assert time.monotonic() - began < 60  # a hang, not a speed


def test_where_an_engine_fits_beside_training_it_predicts_meanwhile(undisturbed):
    """That it predicts the same as an engine that follows the training is what `test_killed` compares."""
    assert "  predict 1/" not in undisturbed[1], "something was left to the stage that follows"
    assert not list(undisturbed[0].glob(".training-*"))


def test_an_engine_that_waits_long_for_its_model_is_not_given_up(undisturbed):
    """Ray Data ends a pipeline without progress, by default after half an hour; here it would after two seconds."""
    out = beside(undisturbed, "waiting")
    shutil.copytree(undisturbed[0], out)
    RunDir(out).trained(NAMES[0]).unlink()
    script = f"""
        import threading
        from pathlib import Path
        import ray.data
        from wlsweep.spec.config import load_sweep
        from wlsweep.run.layout import RunDir
        from wlsweep.predict.stage import predict_conditions
        from wlsweep.orchestrate.ray_cluster import connect
        from wlsweep.orchestrate.signals import StopRequest

        sweep, run = load_sweep({str(SMALL)!r}), RunDir(Path({str(out)!r}))
        connect(sweep, print, StopRequest(print))
        ray.data.DataContext.get_current().execution_no_progress_timeout_s = 2
        training = run.root / ".training-test"
        training.touch()
        threading.Timer(10, training.unlink).start()
        print(list(predict_conditions(sweep, run, [{NAMES[0]!r}], 1, "a test", training)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == f"[{{'condition': '{NAMES[0]}', 'rows': 0, 'accepted': 0, 'cause': ''}}]"
    shutil.rmtree(out)


def test_a_model_that_the_engine_does_not_reproduce_fails_alone_and_is_not_predicted_with(undisturbed):
    """The training left its own scores of four rows; here one of them is not what the exported model says."""
    out = beside(undisturbed, "not-reproduced")
    shutil.copytree(undisturbed[0], out)
    run, (sound, other) = RunDir(out), NAMES[:2]
    record = json.loads(run.trained(other).read_text())
    record["probe"][0]["logprob_accept"] -= 0.5
    run.trained(other).write_text(json.dumps(record))
    for name in (sound, other):
        shutil.rmtree(run.prediction(name))
    text = finish(start(out), code=1)
    states = {s.name: s for s in RunStatus(run).all()}
    assert states[sound].predict == "done" and results_of(run, sound) == results_of(RunDir(undisturbed[0]), sound)
    assert states[other].predict == "failed" and "differ by 0.5" in states[other].cause
    assert f"{other} FAILED" in text and not run.prediction(other).exists()


def test_another_configuration_in_the_same_run_is_refused(undisturbed, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(SMALL.read_text().replace("lr = 1.0e-3", "lr = 2.0e-3"))
    text = finish(start(undisturbed[0], space=other), code=2)
    assert "holds a run of another configuration" in text and "--out" in text


def test_a_sweep_that_no_cluster_here_can_hold_is_refused_before_it_starts(tmp_path, undisturbed):
    space = tmp_path / "gpu.toml"
    space.write_text(SMALL.read_text().replace("gpu = false", "gpu = true").replace("workers = 2", "workers = 1"))
    out = beside(undisturbed, "no-room")
    text = finish(start(out, space=space), code=2)
    assert "needs 1 workers of 1 CPUs and 1 GPUs each" in text
    shutil.rmtree(out)
