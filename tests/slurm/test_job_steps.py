"""Attempts, tokens, ports and addresses, as a job makes them on its first node."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.slurm.attach import environment_line, find_cluster, tunnel_line
from wlsweep.slurm.job_steps import FORM_S, PORTS, begin, free_block, new_attempt, new_token, own_address
from wlsweep.slurm.node import end_tree, ray_command, ray_environment


def test_attempts_are_numbered_and_latest_is_the_last(tmp_path):
    assert [new_attempt(tmp_path).name for _ in range(3)] == ["attempt_0", "attempt_1", "attempt_2"]
    assert (tmp_path / "latest").resolve() == tmp_path / "attempt_2"


def test_attempts_that_begin_at_once_get_folders_of_their_own(tmp_path):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(new_attempt(tmp_path))) for _ in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(p.name for p in found) == sorted(f"attempt_{i}" for i in range(12))


def test_a_token_is_its_owners_alone_and_new_every_time(tmp_path):
    path = tmp_path / "slurm" / "token-1"
    tokens = set()
    for _ in range(2):
        new_token(path)
        tokens.add(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(tokens) == 2 and all(len(t) == 64 and int(t, 16) for t in tokens)


def test_a_token_does_not_follow_a_link_that_someone_laid(tmp_path):
    (tmp_path / "victim").write_text("mine")
    path = tmp_path / "slurm" / "token-1"
    path.parent.mkdir()
    path.symlink_to(tmp_path / "victim")
    new_token(path)
    assert (tmp_path / "victim").read_text() == "mine" and not path.is_symlink()


def test_a_block_with_a_busy_port_is_passed_over():
    first = free_block("127.0.0.1", 3)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", first + 4))
        busy.listen()
        second = free_block("127.0.0.1", 3)
    assert second % PORTS == 0 and second != first


def test_jobs_one_after_another_start_from_blocks_of_their_own():
    assert len({free_block("127.0.0.1", job) for job in range(100, 110)}) == 10


def test_a_loopback_site_never_asks_for_another_address():
    assert own_address("loopback") == "127.0.0.1"


def test_begin_leaves_a_record_without_the_token_and_no_stale_address(tmp_path):
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "cluster-9.json").write_text("{}")
    env = {
        "WLSWEEP_ADDRESS_FILE": str(folder / "cluster-9.json"),
        "RAY_AUTH_TOKEN_PATH": str(folder / "token-9"),
        "WLSWEEP_LISTEN": "loopback",
        "SLURM_JOB_ID": "9",
        "SLURM_RESTART_COUNT": "2",
        "SECRET": "hush",
    }
    attempt, address = begin(tmp_path, env)
    assert not (folder / "cluster-9.json").exists() and address.startswith("127.0.0.1:")
    record = json.loads((attempt / "job.json").read_text())
    assert (record["slurm_job_id"], record["slurm_restart_count"]) == ("9", "2") and "secret" not in record
    assert (folder / "token-9").read_text() not in (attempt / "job.json").read_text()


ENV = {"RAY_ADDRESS": "10.0.0.1:20100", "WLSWEEP_CPUS": "8", "WLSWEEP_GPUS": "2", "WLSWEEP_HEAP_MB": "1000"}
ENV |= {"WLSWEEP_STORE_MB": "100", "WLSWEEP_SCRATCH": "/tmp/wl7", "RAY_AUTH_TOKEN_PATH": "/s/token-7"}


def test_ray_gets_every_limit_and_no_token_on_its_command_line():
    for head, address in ((True, "10.0.0.1"), (False, "10.0.0.2")):
        command = ray_command("python", ENV, head, address)
        assert {"--num-cpus=8", "--num-gpus=2", f"--memory={1000 << 20}", f"--object-store-memory={100 << 20}"} <= set(
            command
        )
        assert f"--node-ip-address={address}" in command and not any("token" in part for part in command)
        assert ("--head" in command) == head and ("--address=10.0.0.1:20100" in command) == (not head)


def test_a_node_is_as_patient_with_a_slow_head_as_the_job_is():
    """Ray reads its patience from the environment, as a number of tries 2 s apart."""
    found = ray_environment(ENV, head=False)
    ask = "from ray._private import ray_constants as c; print(c.NUM_REDIS_GET_RETRIES * 2)"
    done = subprocess.run([sys.executable, "-c", ask], env=found, capture_output=True, text=True, check=True)
    assert float(done.stdout) == FORM_S and found["TMPDIR"] == ENV["WLSWEEP_SCRATCH"]


def test_a_process_tree_ends_with_those_that_ignore_sigterm_and_those_in_sessions_of_their_own():
    import psutil

    script = "import signal,subprocess,sys,time; signal.signal(15,signal.SIG_IGN)\n"
    script += "p=subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)'],start_new_session=True)\n"
    script += "print(p.pid,flush=True); time.sleep(60)"
    process = psutil.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    end_tree(process)
    assert not process.is_running() and not psutil.pid_exists(child)


def fake_squeue(tmp_path: Path, monkeypatch, answer: str, code: int = 0) -> None:
    """A `squeue` that answers as SLURM would."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    tool = tmp_path / "bin" / "squeue"
    tool.write_text(f"#!/bin/sh\n{answer}\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def an_address(tmp_path: Path, **changes) -> Path:
    """A run whose job 7 announced a cluster."""
    run = tmp_path / "run"
    (run / "slurm").mkdir(parents=True, exist_ok=True)
    found = {
        "job": 7, "restart": 1, "dashboard": "http://10.0.0.1:20071", "token_path": "/s/a b/token-7", "head": "node1",
        "login": "me@login.example.org", "listen": "network", **changes,
    }  # fmt: skip
    (run / "slurm" / "cluster-7.json").write_text(json.dumps(found))
    return run


def test_a_cluster_is_found_while_slurm_says_that_its_attempt_runs(tmp_path, monkeypatch):
    run = an_address(tmp_path)
    fake_squeue(tmp_path, monkeypatch, 'echo "RUNNING             1           "')
    found = find_cluster(run)
    assert found["dashboard"] == "http://10.0.0.1:20071"
    assert environment_line(found).endswith("RAY_AUTH_TOKEN_PATH='/s/a b/token-7'")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ('echo "RUNNING             2           "', 0),
        ('echo "PENDING             1           "', 0),
        ("", 0),
        ('echo "slurm_load_jobs error: Invalid job id specified" >&2', 1),
    ],
)
def test_an_address_that_outlived_its_job_is_not_believed(tmp_path, monkeypatch, answer, code):
    run = an_address(tmp_path)
    fake_squeue(tmp_path, monkeypatch, answer, code)
    with pytest.raises(WlsweepError, match=r"no running cluster .no longer running: job 7"):
        find_cluster(run)


def test_the_tunnel_ends_on_the_users_own_loopback_and_passes_the_login_node(tmp_path):
    near = {"login": "me@login", "dashboard": "http://10.0.0.1:20071", "listen": "network", "head": "node1"}
    assert tunnel_line(near) == "ssh -N -L 127.0.0.1:8265:10.0.0.1:20071 me@login"
    closed = {**near, "dashboard": "http://127.0.0.1:20071", "listen": "loopback"}
    assert tunnel_line(closed) == "ssh -N -L 127.0.0.1:8265:127.0.0.1:20071 -J me@login me@node1"
