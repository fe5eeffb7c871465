"""Whole sweeps on the real engines: undisturbed, killed in the middle, stopped, failing, and with nothing to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.track.reading import tensorboard_scalars
from wlsweep.run.layout import RunDir
from wlsweep.run.status import RunStatus
from wlsweep.spec.config import load_sweep

pytestmark = pytest.mark.slow
SMALL = Path(__file__).with_name("small.toml")
NAMES = [c.name for c in load_sweep(SMALL).conditions]


def start(out, *arguments, space=SMALL, cluster=None):
    command = [sys.executable, "-m", "wlsweep.cli", "run", str(space), "--out", str(out), *arguments]
    log = Path(f"{out}.{time.monotonic_ns()}.txt").open("w+")  # noqa: SIM115 - closed with the test run
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
    if cluster:
        environment["RAY_ADDRESS"] = cluster
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    return process, log


def finish(started, code=0):
    process, log = started
    process.wait(timeout=400)
    log.seek(0)
    text = log.read()
    assert process.returncode == code, text[-3000:]
    return text


def trained_in(text):
    """Conditions whose training a launch says it did itself."""
    return [line.split()[-2] for line in text.splitlines() if line.startswith("  train ") and line.endswith(" done")]


def find(started, kind):
    """Processes of a launch, by what their command lines hold."""
    found = []
    for process in psutil.Process(started[0].pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process] if kind in " ".join(process.cmdline()) else []
    return found


def leased_by(started, lease):
    """Whether a process of this launch holds a lease."""
    try:
        return json.loads(lease.read_text())["pid"] in {p.pid for p in find(started, "")}
    except (FileNotFoundError, ValueError):
        return False


def kill(started, kind):
    """SIGKILL to a process of a launch, by what its command line holds."""
    find(started, kind)[0].kill()


def wait_until(condition, seconds=200):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def results(out, predicted=True):
    """What must not depend on what happened on the way."""
    run = RunDir(Path(out))
    found = {}
    for name in NAMES:
        found[name] = results_of_training(run, name)
        if predicted:
            found[name]["predictions"] = results_of(run, name)
    return found


def results_of_training(run, name):
    log = [json.loads(line) for line in run.metric_log(name).read_text().splitlines()]
    record = json.loads(run.trained(name).read_text())
    return {
        "log": [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in log],
        "model": record["model"]["fingerprint"],
        "proof": record["proof"],
    }


def results_of(run, name):
    return pd.read_parquet(run.prediction(name)).sort_values("row_id").to_dict("list")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    text = finish(start(out, "--track", "tensorboard"))
    return out, text


def beside(undisturbed, name):
    return undisturbed[0].parent / name


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


def test_with_nothing_to_do_it_says_so(undisturbed):
    began = time.monotonic()
    text = finish(start(undisturbed[0]))
    assert f"nothing to do: all {len(NAMES)} conditions" in text
    assert time.monotonic() - began < 60  # a hang, not a speed


def test_a_killed_trial_costs_nothing_a_killed_worker_a_retry_and_a_failed_condition_only_itself(undisturbed):
    """All faults in one sweep; once they are fixed, the same command ends with the bits of an undisturbed run."""
    out = beside(undisturbed, "faults")
    run, (orphaned, killed, failing) = RunDir(out), NAMES
    run.condition(failing).mkdir(parents=True)
    run.checkpoints(failing).touch()  # a file where a folder belongs
    started = start(out)
    wait_until(lambda: any(run.checkpoints(orphaned).glob("step_*/training.json")))
    kill(started, "ImplicitFunc")  # the trial's process: its workers end themselves, their room is given back
    wait_until(lambda: any(run.checkpoints(killed).glob("step_*/training.json")))
    os.kill(json.loads(run.lease(killed).read_text())["pid"], signal.SIGKILL)
    text = finish(started, code=1)
    states = {s.name: s for s in RunStatus(run).all()}
    assert [states[n].predict for n in NAMES[:2]] == ["done", "done"]
    assert [json.loads(run.trained(n).read_text())["attempts"] for n in (orphaned, killed)] == [1, 2]
    assert states[failing].train == "failed" and "checkpoints" in states[failing].cause
    assert f"{failing} FAILED" in text and "\x1b[" not in text
    run.checkpoints(failing).unlink()
    assert trained_in(finish(start(out))) == [failing]
    assert results(out) == results(undisturbed[0])


def test_a_driver_that_is_stopped_or_killed_or_loses_ray_loses_nothing(undisturbed):
    out = beside(undisturbed, "stopped-and-killed")
    run = RunDir(out)

    stopped = start(out, "--stage", "train")
    wait_until(run.metric_log(NAMES[0]).exists)  # the first step begins
    stopped[0].send_signal(signal.SIGTERM)
    assert "go on with: wlsweep run" in finish(stopped, code=75)
    (saved,) = run.checkpoints(NAMES[0]).glob("step_*/training.json")
    assert int(saved.parent.name.removeprefix("step_")) < 30, "the stop was not heard before a line was logged"
    assert not run.trained(NAMES[0]).exists()
    assert not run.lease(NAMES[0]).exists()

    process, _ = start(out, "--stage", "train")
    wait_until(lambda: any(run.checkpoints(NAMES[1]).glob("step_*/training.json")))
    process.kill()
    process.wait()
    first = run.trained(NAMES[0]).stat().st_mtime_ns
    assert not run.trained(NAMES[1]).exists()

    started = start(out, "--stage", "train")
    wait_until(lambda: any(leased_by(started, run.lease(n)) for n in NAMES[1:]))
    kill(started, "gcs_server")
    text = finish(started, code=75)
    assert "Ray's control process (gcs_server) on this machine ended" in text and "\x1b[" not in text

    finish(start(out, "--stage", "train"))
    assert run.trained(NAMES[0]).stat().st_mtime_ns == first, "the finished condition was trained again"
    assert results(out, predicted=False) == results(undisturbed[0], predicted=False)


def test_two_launches_at_once_share_the_work_and_train_no_condition_twice(undisturbed):
    out = beside(undisturbed, "two-launches")
    both = [start(out, "--stage", "train"), start(out, "--stage", "train")]
    run, written = RunDir(out), {name: set() for name in NAMES}
    while any(process.poll() is None for process, _ in both):
        for name in NAMES:
            if run.trained(name).exists():
                written[name].add(run.trained(name).stat().st_mtime_ns)
        time.sleep(0.01)
    texts = [finish(started) for started in both]
    assert results(out, predicted=False) == results(undisturbed[0], predicted=False)
    # A training ends by writing its record. The logs are no count: both name a condition that either has trained.
    assert {name: len(times) for name, times in written.items()} == dict.fromkeys(NAMES, 1)
    assert all(set(trained_in(t)) <= set(NAMES) and "Traceback" not in t for t in texts)
    written = [run.trained(name).stat().st_mtime for name in NAMES]
    assert all(run.metric_log(n).stat().st_mtime <= at for n, at in zip(NAMES, written, strict=True))


def test_where_an_engine_fits_beside_training_it_predicts_meanwhile_and_the_same(undisturbed):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 6, "include_dashboard": False})
    try:
        out = beside(undisturbed, "pipelined")
        text = finish(start(out, cluster=cluster.address))
    finally:
        cluster.shutdown()
    assert results(out) == results(undisturbed[0])
    assert "  predict 1/" in undisturbed[1] and "  predict 1/" not in text, "nothing was left to the stage that follows"
    assert not list(out.glob(".training-*"))


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
        connect(sweep, print, StopRequest(run.root, print))
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


def test_a_worker_killed_in_one_of_two_groups_costs_the_other_nothing(tmp_path):
    space, out = tmp_path / "groups.toml", tmp_path / "groups"
    space.write_text(SMALL.read_text().replace("workers = 2", "workers = 1\ngroups = 2"))
    run = RunDir(out)
    started = start(out, "--stage", "predict", space=space)
    wait_until(lambda: any(any(run.checkpoints(n).glob("step_*/training.json")) for n in NAMES[:2]))
    killed = next(n for n in NAMES[:2] if any(run.checkpoints(n).glob("step_*/training.json")))
    os.kill(json.loads(run.lease(killed).read_text())["pid"], signal.SIGKILL)
    text = finish(started)
    assert [s.predict for s in RunStatus(run).all()] == ["done"] * len(NAMES)
    assert "  predict 1/" not in text, "an engine started in the room of the first group that had nothing left"
    attempts = {n: json.loads(run.trained(n).read_text())["attempts"] for n in NAMES}
    assert attempts == {n: 1 + (n == killed) for n in NAMES}
    groups = {p.name.split("_")[1] for p in run.logs.glob("train_*_rank0.log")}
    assert len(groups) == 2
    before = results_of_training(run, killed)
    shutil.rmtree(run.condition(killed))
    finish(start(out, "--stage", "train", "--only", killed, space=space))
    assert results_of_training(run, killed) == before


def test_until_decided_first_tests_the_theory_and_calls_forecasts_forecasts(undisturbed):
    out = beside(undisturbed, "until-decided")
    shutil.copytree(undisturbed[0], out)
    run = RunDir(out)
    for name in NAMES[1:]:
        shutil.rmtree(run.condition(name))
        shutil.rmtree(run.prediction(name))
    text = finish(start(out, "--until-decided"))
    done = [s.name for s in RunStatus(run).all() if s.predict == "done"]
    assert done == NAMES, "both are an end of their mix, so both test the theory"
    assert json.loads(run.skipped_json.read_text()) == {}
    assert all(f"next:    {name}: it tests the theory" in text for name in NAMES[1:])
    assert "theory:  " in text and "verdict: H1  decided by measurements: " in text
    assert run.report.is_file()
    assert results_of_training(run, done[1]) == results_of_training(RunDir(undisturbed[0]), done[1])
