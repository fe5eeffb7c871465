"""From a site, a sweep and a shape to the batch script and the `sbatch` line. Pure: no file, no SLURM, no Ray.

Two shapes: one allocation whose Ray cluster trains many conditions, or a job array with one small cluster a condition.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.capacity import capacity
from wlsweep.slurm.site import Site
from wlsweep.spec.config import Sweep

TEMPLATES = Path(__file__).parent
OBJECT_STORE_SHARE = 0.1
"""Share of a job's memory for Ray's object store: rows and predictions are small, models do not pass through it."""
OBJECT_STORE_MB = 8192
"""Its upper bound."""


@dataclass(frozen=True)
class JobResources:
    """Resources of one job (of one task of an array)."""

    nodes: int
    cpus: int
    """CPU cores a node."""
    gpus: int
    """GPUs a node."""
    memory_mb: int
    """MiB a node."""


@dataclass(frozen=True)
class Job:
    """Everything that the batch script is made from."""

    name: str
    site: Site
    ask: JobResources
    workdir: Path
    """Where relative paths of the search space start; on the shared file system."""
    run: Path
    """Run directory, absolute."""
    script: Path
    """Where the script will lie; a continuation submits it again."""
    driver: tuple[str, ...]
    """Arguments of `wlsweep` in the allocation, without `--only`."""
    only: str | None
    """Selection of conditions (one allocation)."""
    array: str | None
    """Indices for `--array`; each task selects its own condition."""


def job_resources(site: Site, sweep: Sweep, nodes: int, array: bool) -> JobResources:
    """Resources of one job: the site's nodes for one allocation, one condition's share of them for a task of an array.

    Raises:
        WlsweepError: if the sweep does not fit, naming what is missing.
    """
    train, predict = sweep.train, sweep.predict
    if nodes > 1 and site.listen == "loopback":
        raise WlsweepError(
            f'--nodes {nodes}: the site says listen = "loopback", so nodes cannot reach each other; '
            'use one node, or set listen = "network"'
        )
    cpus, gpus, share = site.cpus_per_node, site.gpus_per_node, 1.0
    if array and not site.whole_nodes:
        workers = math.ceil(train.workers / nodes)
        gpus = min(gpus, max(workers if train.gpu else 0, predict.gpus_per_engine))
        least = max(workers * train.cpus_per_worker, predict.cpus_per_engine) + 1
        fair = site.cpus_per_node * gpus // site.gpus_per_node if gpus else 0
        cpus = min(site.cpus_per_node, max(least, fair))
        share = max(cpus / site.cpus_per_node, gpus / site.gpus_per_node if gpus else 0.0)
    try:
        capacity(sweep, [{"CPU": float(cpus), "GPU": float(gpus)}] * nodes)
    except WlsweepError as e:
        raise WlsweepError(f"the sweep does not fit into {nodes} nodes of this site; {e}") from None
    return JobResources(nodes, cpus, gpus, int(site.memory_gb * 1024 * share))


def index_ranges(indices: Sequence[int]) -> str:
    """Indices as `--array` takes them: `[0, 1, 2, 7]` -> `0-2,7`."""
    parts: list[list[int]] = []
    for i in sorted(set(indices)):
        if parts and parts[-1][-1] == i - 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _paths(job: Job) -> tuple[tuple[str, Path], ...]:
    return ("run directory", job.run), ("working directory", job.workdir)


def refuse_paths(job: Job) -> None:
    """Refuse paths that SLURM would read as something else.

    Raises:
        WlsweepError: for control characters anywhere, `%` or a backslash in the run directory (SLURM expands them in
            names of logs).
    """
    for what, path in _paths(job):
        bad = sorted({c for c in str(path) if not c.isprintable()} | {c for c in str(path) if c in "%\\"})
        if bad:
            found = ", ".join(map(repr, bad))
            raise WlsweepError(f"{what} {str(path)!r}: SLURM cannot take a path with {found}; rename it")


def not_shared(job: Job) -> list[str]:
    """Which of the job's folders compute nodes would not find, by what the site says."""
    shared = job.site.shared
    return [
        f"{what} {path} does not lie in {shared}, which the site names as shared by all nodes"
        for what, path in _paths(job)
        if not path.is_relative_to(shared)
    ]


def render_script(job: Job) -> str:
    """The batch script; every value in shell code is quoted.

    Raises:
        WlsweepError: if a path cannot be used.
    """
    refuse_paths(job)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is shell code; values pass through the filters below
    )
    environment.filters["q"] = lambda value: shlex.quote(str(value))
    environment.filters["words"] = lambda values: " ".join(shlex.quote(str(v)) for v in values)
    store = min(OBJECT_STORE_MB, int(job.ask.memory_mb * OBJECT_STORE_SHARE))
    driver = [*job.driver, "--only", job.only] if job.only is not None and job.array is None else list(job.driver)
    return environment.get_template("job.sh.j2").render(
        job=job,
        site=job.site,
        ask=job.ask,
        driver=driver,
        again=[p for p in sbatch_command(job) if not p.startswith("--array=")],
        store_mb=store,
        heap_mb=job.ask.memory_mb - store,
    )


def sbatch_command(job: Job) -> list[str]:
    """The `sbatch` call as an argument list. Paths stand here: `#SBATCH` lines have no reliable quoting."""
    array = [f"--array={job.array}"] if job.array is not None else []
    return [
        "sbatch",
        "--parsable",
        *array,
        f"--chdir={job.workdir}",
        f"--output={job.run / 'slurm' / 'job_%j.out'}",
        str(job.script),
    ]
