"""What clusters do to jobs: signals, preemption, cancellation, dead nodes. The sweep goes on or stays away, as promised.

That a condition was resumed and not trained anew is read off its metric log: each line holds a measured speed, so the
lines before the stop can only still be there if nobody trained those steps again.
"""

from __future__ import annotations

import json
import time

import pytest

from tests.slurm.lab import Lab, until
from tests.slurm.test_smoke import find_address, left_behind

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 200
EVERY = 20
ONE_NODE = {"cpus_per_node": 5}


def long_sweep(lab: Lab, name: str):
    """One condition of 200 steps, a checkpoint every 20."""
    return lab.variant(name, epochs=STEPS // 10, checkpoint_every=EVERY)


def check_complete(lab: Lab, name: str, before: list[str], lost: int) -> None:
    """All steps are logged once, and those before the fault are the same but for the last `lost`."""
    lines = lab.steps(name)
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    kept = max(0, len(before) - lost)
    assert kept > 0 and lines[:kept] == before[:kept]
    states = json.loads(lab.wlsweep("status", f"runs/{name}", "--json").stdout)
    assert states["conditions"][0]["predict"] == "done"


def check_gauges(lab: Lab, host: str, cluster: dict) -> None:
    """The sweep's own gauges are among what Prometheus would scrape, and the loss is one that was logged."""
    url = f"http://{host}:{cluster['metrics_port']}/metrics"
    get = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"

    def loss() -> list[str]:
        lines = lab.python(host, "-c", get, check=False).stdout.splitlines()
        return [x for x in lines if x.startswith("ray_wlsweep_loss{") and 'condition="baseline_gamma1.0_prop1_2"' in x]

    (line,) = until(loss, 60, f"no gauge of the loss at {url}", every=1)
    value = float(line.split()[-1])
    assert any(json.loads(x)["loss"] == pytest.approx(value) for x in lab.steps("early"))


def log_of(lab: Lab, name: str, attempt: int) -> str:
    """The log of one attempt."""
    return (lab.home() / "runs" / name / "logs" / f"attempt_{attempt}" / "job.log").read_text()


def test_the_early_signal_saves_requeues_and_resumes_at_the_very_step(lab):
    job = lab.submit(long_sweep(lab, "early"), "--only", "0", site=lab.site(**ONE_NODE))
    lab.until_step("early", 30)
    check_gauges(lab, lab.job(job)["BatchHost"], find_address(lab, "runs/early")[1])
    lab.on("login", "scancel", "--signal=USR1", "--batch", str(job))  # what SLURM sends `warning_s` before the limit
    until(lambda: lab.job(job)["Restarts"] == "1", 90, "the job did not requeue")
    before = lab.steps("early")
    assert len(before) < STEPS
    ended = lab.wait(job, 500)
    assert ended["JobState"] == "COMPLETED", log_of(lab, "early", 1)
    check_complete(lab, "early", before, lost=0)
    assert "stopped in time: requeue" in log_of(lab, "early", 0)
    assert (lab.home() / "runs/early/logs/latest").resolve().name == "attempt_1"
    until(lambda: left_behind(lab) == {}, 20, f"left behind: {left_behind(lab)}")


def test_a_time_limit_that_comes_near_is_met_with_a_checkpoint_and_a_fresh_limit(lab):
    """SLURM itself sends the signal here, 60 to 120 s after the start: it looks at time limits once a minute or so."""
    sweep = lab.variant("limit", epochs=500, checkpoint_every=5000)
    job = lab.submit(sweep, "--only", "0", site=lab.site(time="3", warning_s=60, **ONE_NODE))
    lab.until_step("limit", 1)
    until(lambda: lab.job(job)["Restarts"] == "1", 200, "the job did not requeue")
    before = lab.steps("limit")
    log = log_of(lab, "limit", 0)
    assert "SIGUSR1: running conditions save" in log and "stopped in time: requeue" in log
    lab.until_step("limit", len(before) + 20)
    assert lab.steps("limit")[: len(before)] == before
    assert "restart 1" in log_of(lab, "limit", 1)
    lab.on("login", "scancel", str(job), user="owner")
    assert lab.wait(job, 60)["JobState"] == "CANCELLED"


def test_a_cancelled_job_leaves_nothing_and_never_comes_back_and_can_be_gone_on_with(lab):
    sweep = long_sweep(lab, "cancel")
    job = lab.submit(sweep, "--only", "0", site=lab.site(**ONE_NODE))
    lab.until_step("cancel", EVERY + 5)
    lab.on("login", "scancel", str(job), user="owner")
    assert lab.wait(job, 60)["JobState"] == "CANCELLED"
    until(lambda: left_behind(lab) == {}, 30, f"left behind: {left_behind(lab)}")
    before = lab.steps("cancel")
    time.sleep(15)  # a job that requeues itself on SIGTERM is back by now
    assert lab.on("login", "squeue", "-h").stdout == "" and lab.job(job)["Restarts"] == "0"
    again = lab.submit(sweep, "--only", "0", site=lab.site(**ONE_NODE))
    assert lab.wait(again, 500)["JobState"] == "COMPLETED"
    check_complete(lab, "cancel", before, lost=EVERY)


def test_a_compute_node_that_dies_costs_the_steps_since_the_last_checkpoint(lab):
    job = lab.submit(long_sweep(lab, "node"), "--only", "0", "--nodes", "2")
    lab.until_step("node", EVERY + 10)
    before = lab.steps("node")
    lab.crash("node2")
    try:
        until(lambda: lab.job(job)["Restarts"] == "1", 180, "the job did not requeue")
    finally:
        lab.boot(2)
    ended = lab.wait(job, 600)
    assert ended["JobState"] == "COMPLETED", log_of(lab, "node", 1)
    check_complete(lab, "node", before, lost=EVERY)


def test_a_head_node_that_dies_costs_the_steps_since_the_last_checkpoint(lab):
    job = lab.submit(long_sweep(lab, "head"), "--only", "0", site=lab.site(**ONE_NODE))
    lab.until_step("head", EVERY + 10)
    before, node = lab.steps("head"), lab.job(job)["BatchHost"]
    lab.crash(node)
    try:
        until(lambda: lab.job(job)["Restarts"] == "1", 180, "the job did not requeue")
        ended = lab.wait(job, 600)  # on the other node
    finally:
        lab.boot(int(node.removeprefix("node")))
        lab.wait_for_nodes(2)
    assert ended["JobState"] == "COMPLETED", log_of(lab, "head", 1)
    check_complete(lab, "head", before, lost=EVERY)


def test_a_preempted_job_saves_makes_room_and_goes_on_afterwards(lab):
    site = lab.site(partition="scavenge", **ONE_NODE)
    job = lab.submit(long_sweep(lab, "preempt"), "--only", "0", site=site)
    lab.until_step("preempt", 30)
    other = lab.on(
        "login", "sbatch", "--parsable", "-p", "normal", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 10",
        user="stranger",
    ).stdout.strip()  # fmt: skip
    assert lab.wait(other, 120)["JobState"] == "COMPLETED"
    before = lab.steps("preempt")
    ended = lab.wait(job, 600)
    assert ended["JobState"] == "COMPLETED" and ended["Restarts"] == "1", log_of(lab, "preempt", 1)
    assert "stopped in time" in log_of(lab, "preempt", 0)
    check_complete(lab, "preempt", before[: json.loads(before[-1])["step"]], lost=EVERY)


def test_where_requeue_is_forbidden_a_task_of_an_array_submits_its_continuation(lab):
    """In a run directory whose name a careless shell would run."""
    name = "it's $(touch BAD) `touch BAD`; & *"
    site = lab.site(requeue=False, **ONE_NODE)
    job = lab.submit(long_sweep(lab, "go_on"), "--array", "--only", "0", "--out", f"runs/{name}", site=site)
    lab.until_step(name, 30)
    lab.on("login", "scancel", "--signal=USR1", "--batch", str(job))
    lab.wait(job, 90)
    before = lab.steps(name)
    assert f"the continuation is job {job + 1}" in log_of(lab, name, 0)
    assert lab.wait(job + 1, 500)["JobState"] == "COMPLETED", log_of(lab, name, 1)
    check_complete(lab, name, before, lost=0)
    assert list(lab.home().rglob("BAD")) == []
    until(lambda: left_behind(lab) == {}, 20, f"left behind: {left_behind(lab)}")
