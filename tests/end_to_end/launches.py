"""Launches of whole sweeps for the tests: started, found, killed, waited for, and what they leave behind."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil

from wlsweep.run.layout import RunDir
from wlsweep.spec.config import load_sweep

SMALL = Path(__file__).with_name("small.toml")
NAMES = [c.name for c in load_sweep(SMALL).conditions]


def start(out, *arguments, space=SMALL, cluster=None, environment=None):
    command = [sys.executable, "-m", "wlsweep", "run", str(space), "--out", str(out), *arguments]
    log = Path(f"{out}.{time.monotonic_ns()}.txt").open("w+")  # noqa: SIM115 - closed with the test run
    inherited = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
    environment = inherited | (environment or {})
    if cluster:
        environment["RAY_ADDRESS"] = cluster
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    return process, log


def finish(started, code=0):
    process, log = started
    process.wait(timeout=700)
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
    with suppress(psutil.NoSuchProcess):
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


def beside(undisturbed, name):
    """A run directory next to another: they share the data and the base model."""
    return undisturbed[0].parent / name
