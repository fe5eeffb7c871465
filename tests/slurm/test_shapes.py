"""The two shapes of a job, and launches that meet: nothing collides, nothing is trained twice."""

from __future__ import annotations

import json
import time

import pytest

from tests.slurm.lab import ENDED, HERE, PYTHON, until
from tests.slurm.test_smoke import as_client, find_address, left_behind

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]


def states_of(lab, run: str) -> list[str]:
    """Prediction states of a run's conditions."""
    return [c["predict"] for c in json.loads(lab.wlsweep("status", f"runs/{run}", "--json").stdout)["conditions"]]


def done_in(log: str) -> list[str]:
    """Conditions that a log says were trained."""
    return [line.split()[-2] for line in log.splitlines() if line.startswith("  train") and line.endswith(" done")]


def flat(value, at: str = "") -> dict[str, float]:
    """The numbers of nested JSON by their path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in items for k, v in flat(inner, f"{at}.{key}").items()}
    return {at: value} if isinstance(value, int | float) else {}


def test_tasks_of_an_array_share_a_node_without_a_collision_and_leave_nothing(lab):
    sweep = lab.variant("array", cpus_per_worker=1)
    lab.on("login", "scontrol", "update", "nodename=node2", "state=drain", "reason=test")
    try:
        site = lab.site(cpus_per_node=6, memory_gb=8, gpus_per_node=2)
        job = lab.submit(sweep, "--array", "--only", "0-2", site=site)
        folder = lab.home() / "runs/array/slurm"
        until(lambda: len(list(folder.glob("cluster-*.json"))) == 2, 240, "no two clusters at the same time")
        clusters = [json.loads(p.read_text()) for p in folder.glob("cluster-*.json")]
        assert {c["head"] for c in clusters} == {"node1"}
        for key in ("gcs", "dashboard", "metrics_port", "token_path", "attempt"):
            assert len({c[key] for c in clusters}) == 2, key
    finally:
        lab.on("login", "scontrol", "update", "nodename=node2", "state=resume")
    ids = [job, *range(job + 1, job + 3)]
    assert [lab.wait(i, 600)["JobState"] for i in ids] == ["COMPLETED"] * 3
    assert states_of(lab, "array") == ["done"] * 3 + ["missing"]
    logs = [p.read_text() for p in (lab.home() / "runs/array/logs").glob("attempt_*/job.log")]
    assert sorted(len(done_in(log)) for log in logs) == [1, 1, 1]
    metrics = json.loads((lab.home() / "runs/array/metrics/all_metrics.json").read_text())
    assert [m["state"] for m in metrics] == ["done"] * 3 + ["missing"]
    until(lambda: left_behind(lab) == {}, 20, f"left behind: {left_behind(lab)}")


def test_nothing_listens_beyond_loopback_unless_the_site_says_so(lab):
    sweep = lab.variant("closed", epochs=20)
    job = lab.submit(sweep, "--only", "0", site=lab.site(cpus_per_node=5, listen="loopback", login="me@login"))
    url, cluster = find_address(lab, "runs/closed")
    lab.until_step("closed", 3)
    host = cluster["head"]
    beyond = []
    lines = lab.on(host, "ss", "-Hltnp").stdout.splitlines()
    for line in lines:
        address, process = line.split()[3].rpartition(":")[0], line.split('"')[1]
        if address not in ("127.0.0.1", "[::ffff:127.0.0.1]", "[::1]") and not process.startswith(("srun", "slurm")):
            beyond.append(process)
    # torch's rendezvous store binds to every address, whatever it is told: one port of one rank
    assert len(lines) > 10 and len(beyond) <= 1 and all(p.startswith("ray::RayTrainWo") for p in beyond), beyond
    tunnel = lab.wlsweep("submit", "--tunnel", "runs/closed").stdout
    assert tunnel == f"ssh -N -L 127.0.0.1:8265:127.0.0.1:{url.rpartition(':')[2]} -J me@login me@{host}\n"
    lab.on("login", "scancel", str(job), user="owner")
    lab.wait(job, 60)


def test_two_submissions_of_one_sweep_train_each_condition_once(lab):
    sweep, site = lab.variant("twice", epochs=4), lab.site(cpus_per_node=5)
    run = lab.home() / "runs/twice"
    jobs = [lab.submit(sweep, site=site) for _ in range(2)]
    # A training ends by writing its record. The logs are no count: both name a condition that either has trained.
    written: dict[str, set[int]] = {}

    def over() -> bool:
        for record in run.glob("conditions/*/trained.json"):
            written.setdefault(record.parent.name, set()).add(record.stat().st_mtime_ns)
        return int(time.monotonic()) % 5 == 0 and all(lab.job(j)["JobState"] in ENDED for j in jobs)

    until(over, 700, "the two jobs have not ended", every=0.05)
    assert [lab.job(j)["JobState"] for j in jobs] == ["COMPLETED"] * 2
    assert states_of(lab, "twice") == ["done"] * 4
    assert len(list((run / "logs").glob("attempt_*/job.log"))) == 2
    assert sorted(len(times) for times in written.values()) == [1] * 4


def test_three_nodes_train_one_condition_together_and_nothing_is_left_on_any(lab):
    lab.boot(3)
    try:
        lab.wait_for_nodes(3)
        job = lab.submit(lab.variant("three", workers=3, global_batch=24), "--only", "0-1", "--nodes", "3")
        until(lambda: lab.training_on("node1", "node2", "node3"), 240, "three nodes hold no rank each", every=0.5)
        assert lab.wait(job, 500)["JobState"] == "COMPLETED"
        assert states_of(lab, "three") == ["done"] * 2 + ["missing"] * 2
        until(lambda: left_behind(lab) == {}, 20, f"left behind: {left_behind(lab)}")
    finally:
        lab.crash("node3")
        lab.on("login", "scontrol", "update", "nodename=node3", "state=down", "reason=test")


def test_slurm_and_a_plain_machine_give_the_same_numbers(lab):
    job = lab.submit(HERE / "small.toml", "--nodes", "2", "--out", "runs/slurm")
    assert lab.wait(job, 500)["JobState"] == "COMPLETED"
    lab.wlsweep("run", str(HERE / "small.toml"), "--out", "runs/plain", timeout=600)
    here, there = (
        flat(json.loads((lab.home() / f"runs/{r}/metrics/all_metrics.json").read_text())) for r in ("plain", "slurm")
    )
    assert len(here) > 40 and here == pytest.approx(there, abs=1e-6)


def test_a_ray_job_from_the_login_node_runs_beside_the_sweep_and_outlives_it(lab):
    """The driver of the allocation trains condition 0; the job brings condition 1, and the cluster waits for it."""
    sweep, site = lab.variant("jobs", cpus_per_worker=1), lab.site(cpus_per_node=6)
    job = lab.submit(sweep, "--only", "0", site=site)
    url, cluster = find_address(lab, "runs/jobs")
    ray = [str(PYTHON), "-m", "ray.scripts.scripts", "job"]
    run = [str(PYTHON), "-m", "wlsweep", "run", str(sweep), "--out", str(lab.home() / "runs/jobs"), "--only", "1"]
    submit = [*ray, "submit", "--address", url, "--submission-id", "late", "--no-wait", "--", *run]
    refused = lab.on("login", *submit, user="stranger", check=False, env={"RAY_AUTH_MODE": "disabled"})
    assert refused.returncode != 0
    lab.on("login", *submit, user="owner", env=as_client(cluster))

    def status() -> str:
        return lab.on("login", *ray, "status", "--address", url, "late", user="owner", env=as_client(cluster)).stdout

    until(lambda: "RUNNING" in status(), 120, "the job does not run", every=3)
    seen = {}

    def named() -> bool:
        done = lab.on(
            "login", *ray, "logs", "--address", url, "late", user="owner", env=as_client(cluster), check=False
        )  # fmt: skip
        seen["log"] = done.stdout or seen.get("log", "")
        return "accept_gamma2.0_prop1_2 done" in seen["log"] or lab.job(job)["JobState"] != "RUNNING"

    until(named, 400, "the job's log names no condition", every=4)
    assert "accept_gamma2.0_prop1_2 done" in seen["log"]
    assert lab.wait(job, 400)["JobState"] == "COMPLETED"
    assert states_of(lab, "jobs")[:2] == ["done"] * 2
