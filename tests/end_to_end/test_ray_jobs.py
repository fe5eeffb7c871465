"""`make head` and `make job`: a sweep as a Ray job on this machine - refused without the token, stopped, gone on with."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.launches import NAMES, SMALL, wait_until
from wlsweep.run.layout import RunDir
from wlsweep.run.status import RunStatus

pytestmark = [pytest.mark.jobs, pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")]
ROOT = Path(__file__).parents[2]
SESSION = ("RAY_ADDRESS", "OMP_NUM_THREADS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in SESSION}


def four_free_ports():
    for first in range(18_265, 28_265, 4):
        try:
            for port in range(first, first + 4):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no four free ports")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    settings = [f"DASHBOARD={four_free_ports()}", f"HEAD={folder}/secret"]
    with (folder / "head.txt").open("w") as log:
        process = subprocess.Popen(
            ["make", "head", *settings], cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: jobs(settings, "list")[0] == 0, 90)
        yield settings
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def jobs(settings, *arguments, token=True):
    """What `ray job` answers: exit status and output."""
    (port, secret), environment = (s.split("=")[1] for s in settings), {**ENVIRONMENT, "RAY_AUTH_MODE": "token"}
    environment["RAY_AUTH_TOKEN_PATH"] = f"{secret}/token" if token else "/dev/null"
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments, "--address", f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout + done.stderr


def submit(settings, space, out, log):
    """Start `make job`; returns its process and the job's id."""
    arguments = f"ARGS=--out {out} --only 0 --stage train"
    command = ["make", "job", f"SWEEP={space}", arguments, *settings]
    with log.open("w") as to:
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=to, stderr=to)
    wait_until(lambda: "submitted successfully" in log.read_text())
    return process, re.search(r"Job '(\w+)' submitted", log.read_text())[1]


def logged(run, name, last=None):
    """Lines of the metric log, those up to a step."""
    lines = [json.loads(line) for line in run.metric_log(name).read_text().splitlines()]
    return [line for line in lines if last is None or line["step"] <= last]


def test_a_job_that_is_stopped_saves_its_condition_and_the_same_command_goes_on(head, tmp_path):
    run, name, space = RunDir(tmp_path / "run"), NAMES[0], tmp_path / "longer.toml"
    text = SMALL.read_text().replace("base_rows = 3200", "base_rows = 1600")
    space.write_text(text.replace("train_rows = 960", "train_rows = 12000"))  # so that it is stopped in the middle
    code, said = jobs(head, "list", token=False)
    assert code != 0 and "oken" in said

    first, stopped = submit(head, space, run.root, tmp_path / "first.txt")
    wait_until(lambda: any(run.checkpoints(name).glob("step_*/training.json")))
    code, said = jobs(head, "stop", stopped)
    assert code == 0 and "was stopped" in jobs(head, "status", stopped)[1], said
    first.wait(timeout=60)
    saved = max(int(p.parent.name.split("_")[1]) for p in run.checkpoints(name).glob("step_*/training.json"))
    until_saved = logged(run, name, saved)
    assert until_saved and not run.trained(name).exists()
    assert not run.lease(name).exists() and RunStatus(run).all()[0].train == "missing"

    second, other = submit(head, space, run.root, tmp_path / "second.txt")
    second.wait(timeout=200)
    assert second.returncode == 0, (tmp_path / "second.txt").read_text()[-3000:]
    assert "succeeded" in jobs(head, "status", other)[1] and f"{name} done" in jobs(head, "logs", other)[1]
    # Each line tells the speed of its step, which no second training repeats.
    assert logged(run, name, saved) == until_saved, "the second job began anew"
    assert len(logged(run, name)) > len(until_saved)
