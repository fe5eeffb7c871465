"""Whole sweeps on the real engines, killed and stopped in the middle, and two at once: nothing is lost or done twice."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.launches import (
    NAMES,
    SMALL,
    beside,
    find,
    finish,
    kill,
    leased_by,
    results,
    results_of_training,
    start,
    trained_in,
    wait_until,
)
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import holder
from wlsweep.run.status import RunStatus
from wlsweep.run.usage import usage_of

pytestmark = pytest.mark.slow
RAYS_OWN = (
    "SynchronizationActor", "log_monitor.py", "autoscaler/_private/monitor.py", "dashboard/dashboard.py",
    "RuntimeEnvAgent", "raylet/raylet", "Autoscaling", "StatsActor",
)  # fmt: skip
"""What Ray starts for itself, by what command lines hold; the node process (raylet) ends with its agents."""


def attempts(run):
    """How often each condition was begun, by the accounts of the processes that did it."""
    return {c.name: c.attempts for c in usage_of(run).conditions}


def test_a_killed_trial_costs_nothing_a_killed_worker_a_retry_and_failed_conditions_only_themselves(undisturbed):
    """All faults in one sweep; once they are fixed, the same command ends with the bits of an undisturbed run.

    It goes on with --until-decided, which first trains what tests the theory: here all that is left.
    """
    out = beside(undisturbed, "faults")
    run, (killed, greedy, failing) = RunDir(out), NAMES
    run.condition(failing).mkdir(parents=True)
    run.checkpoints(failing).touch()  # a file where a folder belongs
    path = os.pathsep.join(
        [str(Path(__file__).with_name("without_memory")), os.environ.get("PYTHONPATH", str(Path.cwd()))]
    )
    started = start(out, environment={"PYTHONPATH": path, "WITHOUT_MEMORY": greedy})
    wait_until(lambda: any(run.checkpoints(killed).glob("step_*/training.json")))
    assert attempts(run)[killed] == 1
    kill(started, "ImplicitFunc")  # the trial's process: its workers end themselves, their room is given back
    wait_until(lambda: attempts(run)[killed] == 2)
    os.kill(holder(run.lease(killed)).pid, signal.SIGKILL)
    text = finish(started, code=1)
    states = {s.name: s for s in RunStatus(run).all()}
    assert states[killed].predict == "done" and json.loads(run.trained(killed).read_text())["attempts"] == 2
    assert states[greedy].train == "failed" and states[failing].train == "failed"
    assert f"{greedy}: a worker ran out of memory; lower train.micro_batch (8), or set" in states[greedy].cause
    assert "checkpoints" in states[failing].cause
    tried = {n: json.loads(run.failed(n).read_text())["attempts"] for n in (greedy, failing)}
    assert tried == {greedy: 1, failing: 2}, "without memory the same again would fail again"
    assert attempts(run) == {killed: 3, greedy: 1, failing: 2}, "one that was killed is one, whoever is to blame"
    used = {c.name: c for c in usage_of(run).conditions}
    assert 0 < used[killed].unfinished.seconds < used[killed].training.seconds and used[killed].checkpoint_bytes > 0
    assert all(used[n].unfinished == used[n].training for n in (greedy, failing))
    assert all(f"{n} FAILED" in text for n in (greedy, failing)) and "\x1b[" not in text
    assert "lower train.micro_batch (8)" in text
    run.checkpoints(failing).unlink()
    text = finish(start(out, "--until-decided"))
    assert trained_in(text) == [failing, greedy], "both are an end of their mix; the largest expected shift comes first"
    assert all(f"next:    {name}: it tests the theory" in text for name in (greedy, failing))
    assert "theory:  " in text and "verdict: H1  decided by measurements: " in text
    assert json.loads(run.skipped_json.read_text()) == {} and run.report.is_file()
    assert results(out) == results(undisturbed[0])


def progress(run):
    """Lines of training and files of predictions so far."""
    lines = sum(len(run.metric_log(n).read_text().splitlines()) for n in NAMES if run.metric_log(n).exists())
    return lines + len(list(run.root.glob("predictions/*/*.parquet")))


def test_each_of_rays_own_processes_can_be_killed(undisturbed):
    """After each kill the launch goes on, or ends with 75 and a sentence, and the same command finishes the sweep."""
    out = beside(undisturbed, "rays-own")
    run, alive, texts = RunDir(out), list(RAYS_OWN), []
    while True:
        started = start(out, "--stage", "predict")
        over = lambda s=started: s[0].poll() is not None  # noqa: E731
        while not over():
            seen = progress(run)
            wait_until(lambda o=over, n=seen: progress(run) > n or o())  # it goes on after the last kill
            if at := next(((k, p[0]) for k in alive if (p := find(started, k))), None):
                alive.remove(at[0])
                at[1].kill()
        code = started[0].returncode and 75
        texts.append(finish(started, code))
        if code == 0:
            break
        assert re.search("goes on from its checkpoint|go on with", texts[-1])
    assert not alive, "these were never there"
    assert len(texts) <= 3, "more than the node process, and what it ends with, ended a launch"
    assert any("  predict 1/" in text for text in texts), "here an engine follows the training"
    assert results(out) == results(undisturbed[0])


def test_what_a_stop_and_the_death_of_rays_control_process_left_two_launches_share(undisturbed):
    """Neither the stop nor the death loses anything, and of two launches at once none trains what the other does."""
    out = beside(undisturbed, "stopped")
    run = RunDir(out)

    stopped = start(out, "--stage", "train")
    wait_until(run.metric_log(NAMES[0]).exists)  # the first step begins
    stopped[0].send_signal(signal.SIGTERM)
    assert "go on with: wlsweep run" in finish(stopped, code=75)
    (saved,) = run.checkpoints(NAMES[0]).glob("step_*/training.json")
    assert int(saved.parent.name.removeprefix("step_")) < 30, "the stop was not heard before a line was logged"
    assert not run.trained(NAMES[0]).exists()
    assert not run.lease(NAMES[0]).exists()

    started = start(out, "--stage", "train")
    wait_until(lambda: any(leased_by(started, run.lease(n)) for n in NAMES))
    kill(started, "gcs_server")
    text = finish(started, code=75)
    assert "Ray's control process (gcs_server) on this machine ended" in text and "\x1b[" not in text

    both = [start(out, "--stage", "train"), start(out, "--stage", "train")]
    written = {name: set() for name in NAMES}
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


def test_a_worker_killed_in_one_of_two_groups_costs_the_other_nothing(undisturbed, tmp_path):
    space, out = tmp_path / "groups.toml", beside(undisturbed, "groups")
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
    # One rank in place of two adds up in another order; a step done twice or left out would show.
    losses = [[line["loss"] for line in results_of_training(r, killed)["log"]] for r in (run, RunDir(undisturbed[0]))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
