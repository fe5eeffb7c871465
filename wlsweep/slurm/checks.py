"""What a job would fail of, found on the login node before it is submitted.

    job_problems(sweep, site, workdir, say)      # everything that is wrong

Rows, model and environment are checked as `wlsweep run` would, and must lie where the compute nodes see them.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from wlsweep.data.sources import find_inputs, planned_mixes, source_counts
from wlsweep.errors import WlsweepError
from wlsweep.slurm.site import Site
from wlsweep.spec import adapters
from wlsweep.spec.architecture import architecture, model_folder
from wlsweep.spec.config import Sweep
from wlsweep.spec.cost import checkpoint_bytes
from wlsweep.spec.preflight import check_model, find_model, how_to_fetch, sample_rows

ENVIRONMENT_S = 120
"""Longest time for the site's set-up lines and one start of Python on the login node."""
MEASURED_BYTES = 128 << 20
"""How much is written to measure the file system's bandwidth."""
NOT_RUNNABLE = (126, 127)
"""Exit codes of a shell that cannot start a command."""
# Reads versions without importing torch, which takes seconds from a shared file system.
PROBE = """
import importlib.util as u, json, runpy, pathlib
found = {n: bool(u.find_spec(n)) for n in ("wlsweep", "ray", "deepspeed", "vllm")}
spec = u.find_spec("torch")
version = runpy.run_path(str(pathlib.Path(spec.origin).with_name("version.py"))) if spec else {}
print(json.dumps({**found, "torch": version.get("__version__"), "cuda": version.get("cuda")}))
"""


def job_sweep(sweep: Sweep, site: Site) -> tuple[Sweep, list[str]]:
    """The sweep as the job will run it, its base model a folder; and if there is none, why, with the way to get one."""
    path = sweep.model.path
    if path is None:
        return sweep, []
    try:
        folder = find_model(path, ask_hub=False)
    except WlsweepError as e:
        return sweep, [str(e)]
    if folder is None:
        wish = str(Path(site.shared) / "models" / path.rpartition("/")[2])
        return sweep, [
            f"model.path {path!r} is no folder here, and compute nodes often have no internet. "
            f"{how_to_fetch(path, wish)}. All nodes must see it, as they see {site.shared}"
        ]
    model = sweep.model.model_copy(update={"path": str(folder.absolute())})
    return sweep.model_copy(update={"model": model}), []


def job_problems(sweep: Sweep, site: Site, workdir: Path, say: Callable[[str], None]) -> list[str]:
    """Everything that a job of a sweep (from `job_sweep`) would fail of at a site; says what could not be checked."""
    problems: list[str] = []
    for check in (_rows, _model, partial(_environment, workdir=workdir)):
        try:
            found, unchecked = check(sweep, site)
        except WlsweepError as e:
            found, unchecked = [str(e)], []
        problems += found
        for line in unchecked:
            say(f"note:    {line}")
    return problems


Found = tuple[list[str], list[str]]
"""Problems, and what could not be checked."""


def _outside(site: Site, what: str, path: Path) -> list[str]:
    if path.resolve().is_relative_to(Path(site.shared).resolve()):
        return []
    return [f"{what} {path} does not lie in {site.shared}, which the site names as shared by all nodes; copy it there"]


def _rows(sweep: Sweep, site: Site) -> Found:
    """What the data stage would refuse: no rows, bad rows, a source too small, papers in both training and test."""
    if sweep.data.synthetic is not None:
        return [], []
    inputs = find_inputs(sweep.data, Path())  # refuses a sweep without rows
    problems = []
    for files in inputs.named.values():
        for path in files.files:
            problems += _outside(site, "data", path)
    planned_mixes(sweep, source_counts(sweep).stock)
    return problems, []


def _model(sweep: Sweep, site: Site) -> Found:
    if sweep.model.path is None or model_folder(sweep.model.path) is None:
        return [], []  # a folder that is missing was named by `job_sweep`
    found = check_model(sweep, sample_rows(sweep) if sweep.data.source else ())
    problems = list(found.problems)
    if found.folder is not None:
        problems += _outside(site, "base model", found.folder)
        if not any(found.folder.glob("*.safetensors")) and not any(found.folder.glob("*.bin")):
            problems.append(f"base model {found.folder} holds no weights; {how_to_fetch(sweep.model.path)}")
    return problems, found.warnings


def _environment(sweep: Sweep, site: Site, workdir: Path) -> Found:
    """Whether the site's set-up lines lead to a Python that has everything, with a CUDA torch where GPUs are used."""
    python = shlex.join([*site.prefix, site.python])
    script = "\n".join(
        [*site.setup, f"cd -- {shlex.quote(str(workdir))} || exit 2", f"{python} -c {shlex.quote(PROBE)}"]
    )
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=workdir, capture_output=True, text=True, timeout=ENVIRONMENT_S
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return [], [f"the environment was not checked: the site's set-up lines do not end here ({e})"]
    said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    if done.returncode in NOT_RUNNABLE and site.prefix:
        return [], [f"the environment was not checked: {site.prefix[0]} cannot be started on this machine ({said})"]
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        lines = "; ".join(site.setup) or "none"
        return [
            f"the site's environment does not start Python: {said} (setup: {lines}; python: {python}). Correct setup, "
            f"prefix or python in the site file, or make the environment: make EXTRA={_extra(sweep)}"
        ], []
    return environment_problems(found, python, _extra(sweep)), []


def _extra(sweep: Sweep) -> str:
    return "gpu" if sweep.train.gpu or sweep.predict.gpus_per_engine else "cpu"


def environment_problems(found: dict[str, Any], python: str, extra: str) -> list[str]:
    """What an environment lacks, from what `PROBE` printed in it."""
    remedy = (
        f"make EXTRA={extra} installs them into {'.venv-gpu' if extra == 'gpu' else '.venv'}, which setup must activate"
    )
    lacking = [name for name in ("wlsweep", "torch", "deepspeed", "ray", "vllm") if not found.get(name)]
    if lacking:
        return [f"the site's {python} lacks {', '.join(lacking)}; {remedy}"]
    if extra == "gpu" and not found.get("cuda"):
        return [
            f"the site's {python} has torch {found['torch']}, which is built without CUDA, and the sweep trains on GPUs; "
            "activate .venv-gpu in setup (make EXTRA=gpu makes and checks it)"
        ]
    return []


def warning_time_problems(sweep: Sweep, site: Site, run: Path, groups: int, say: Callable[[str], None]) -> list[str]:
    """Why `warning_s` does not suffice to save the running conditions, at the given bandwidth or one measured now.

    Args:
        sweep: what is trained.
        site: `warning_s`, and `write_mb_s` where it is known.
        run: a folder on the file system that checkpoints are written to.
        groups: conditions that save at the same time.
        say: hears of a measured bandwidth that is too low; it varies, so nothing is refused for it.
    """
    shape = architecture(sweep.model)
    if shape is None:
        return []
    each = (
        adapters.checkpoint_bytes(shape, sweep, c.lora) if c.lora else checkpoint_bytes(shape) for c in sweep.conditions
    )
    size = groups * max(each)
    if size < 10e9 and site.write_mb_s is None:
        return []  # written within seconds
    rate = site.write_mb_s or write_speed(run)
    needed = size / (rate * 1e6)
    if needed < 0.8 * site.warning_s:
        return []
    what = "write_mb_s says" if site.write_mb_s else "measured now"
    text = (
        f"saving takes {needed:.0f} s ({groups} x {size / groups / 1e9:.0f} GB at {rate:.0f} MB/s, {what}), and the site's "
        f"warning_s is {site.warning_s}; set warning_s = {int(needed / 0.8) // 60 * 60 + 60} or more"
    )
    if site.write_mb_s:
        return [text]
    say(f"warning: {text}; what is not saved in time is trained again")
    return []


def write_speed(folder: Path, size: int = MEASURED_BYTES) -> float:
    """MB/s at which a file reaches the disk of a folder (or of the nearest that exists), synchronised."""
    while not folder.is_dir():
        folder = folder.parent
    file = folder / f".wlsweep-write-{os.getpid()}"
    block = os.urandom(4 << 20)
    began = time.monotonic()
    try:
        with file.open("wb") as f:
            for _ in range(max(1, size // len(block))):
                f.write(block)
            f.flush()
            os.fsync(f.fileno())
        return size / 1e6 / max(time.monotonic() - began, 1e-6)
    finally:
        file.unlink(missing_ok=True)
