"""The smoke subset: one sweep over two nodes, and what a login node can and cannot do with it meanwhile."""

from __future__ import annotations

import json
import re
import stat

import pytest

from tests.slurm.lab import HERE, PYTHON, Lab, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

LIST_JOBS = (
    "from ray.job_submission import JobSubmissionClient as C; import sys; print(len(C(sys.argv[1]).list_jobs()))"
)


def find_address(lab: Lab, run: str, seconds: float = 120) -> tuple[str, dict]:
    """The dashboard's URL as `submit --address` prints it, and the address file."""

    def attached() -> str:
        done = lab.wlsweep("submit", "--address", run, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    url = until(attached, seconds, f"no address of {run}", every=2)
    files = (lab.home() / run / "slurm").glob("cluster-*.json")
    found = next(f for f in (json.loads(p.read_text()) for p in files) if f["dashboard"] == url)
    return url, found


def as_client(cluster: dict) -> dict[str, str]:
    """Environment of a client that holds the token."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": cluster["token_path"]}


def left_behind(lab: Lab) -> dict[str, list[str]]:
    """What jobs left on the nodes: processes of the owner, and names in /tmp and /dev/shm that are not the test's."""
    found = {}
    for name in (n for n in lab.first if n != "login"):
        for folder in ("/tmp", "/dev/shm"):
            names = lab.on(name, "find", folder, "-mindepth", "1", "-maxdepth", "1", "-user", "owner").stdout.split()
            if names:
                found[f"{name}:{folder}"] = names
        if running := lab.processes(name):
            found[f"{name}: processes"] = running
    return found


def test_a_sweep_over_two_nodes_ends_complete_and_is_reached_by_its_owner_alone(lab):
    job = lab.submit(HERE / "small.toml", "--nodes", "2", site=lab.site(gpus_per_node=2))
    url, cluster = find_address(lab, "runs/small")
    assert url == cluster["dashboard"] and cluster["job"] == job and cluster["nodes"] == 2

    token = lab.home() / "runs/small/slurm" / f"token-{job}"
    assert str(token) == cluster["token_path"]
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and stat.S_IMODE(token.parent.stat().st_mode) == 0o700

    owner = lab.python("login", "-c", LIST_JOBS, url, env=as_client(cluster))
    assert owner.stdout.strip().isdigit()
    without = lab.python("login", "-c", LIST_JOBS, url, check=False, env={"RAY_AUTH_MODE": "disabled"})
    assert without.returncode != 0 and re.search("401|403|[Uu]nauth|token", without.stderr), without.stderr[-500:]
    stranger = lab.python("login", "-c", LIST_JOBS, url, check=False, user="stranger", env=as_client(cluster))
    assert stranger.returncode != 0 and re.search("[Pp]ermission|token|401|403", stranger.stderr), stranger.stderr[
        -500:
    ]
    guess = lab.on(
        "login", str(PYTHON), "-c", LIST_JOBS, url, user="stranger", check=False,
        env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
    )  # fmt: skip
    assert guess.returncode != 0 and re.search("401|403|[Ii]nvalid|[Uu]nauth", guess.stderr), guess.stderr[-500:]

    secret, run = token.read_bytes(), lab.home() / "runs/small"
    peep = f"grep -lsFf {token} /proc/[0-9]*/environ /proc/[0-9]*/cmdline"
    assert [lab.on(name, "bash", "-c", peep, check=False).stdout for name in ("node1", "node2")] == ["", ""]

    until(
        lambda: lab.training_on("node1", "node2"), 200, "the two ranks of a condition lie not on two nodes", every=0.5
    )
    ended = lab.wait(job, 400)
    assert [p for p in run.rglob("*") if p.is_file() and secret in p.read_bytes()] == []
    assert ended["JobState"] == "COMPLETED", (run / "logs/latest/job.log").read_text()
    states = json.loads(lab.wlsweep("status", "runs/small", "--json").stdout)
    assert [c["predict"] for c in states["conditions"]] == ["done"] * 4
    assert [m["state"] for m in json.loads((run / "metrics/all_metrics.json").read_text())] == ["done"] * 4

    until(lambda: left_behind(lab) == {}, 20, f"left behind: {left_behind(lab)}")
    assert list((run / "slurm").glob("token-*")) == list((run / "slurm").glob("cluster-*.json")) == []
    assert (run / "logs/latest").resolve() == run / "logs/attempt_0"
    late = lab.wlsweep("submit", "--address", "runs/small", check=False)
    assert late.returncode == 2 and "no running cluster" in late.stderr
