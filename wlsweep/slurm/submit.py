"""`wlsweep submit`: write the batch script into the run directory, show the `sbatch` line, submit it.

wlsweep submit iclr19 --site mysite.toml --nodes 2 --dry-run
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.orchestrate.capacity import capacity
from wlsweep.run.layout import RunDir, atomic_files
from wlsweep.run.status import refuse_other_configuration
from wlsweep.slurm.attach import slurm
from wlsweep.slurm.checks import job_problems, job_sweep, warning_time_problems
from wlsweep.slurm.script import (
    Job,
    index_ranges,
    job_resources,
    not_shared,
    refuse_paths,
    render_script,
    sbatch_command,
)
from wlsweep.slurm.site import Site
from wlsweep.spec.condition import select
from wlsweep.spec.config import Sweep


class SubmitOptions(NamedTuple):
    """What the command line asked for."""

    out: Path
    """Run directory."""
    only: str | None = None
    nodes: int = 1
    array: bool = False


def make_job(sweep: Sweep, site: Site, options: SubmitOptions, workdir: Path, stamp: str) -> Job:
    """Everything that a submission consists of; writes nothing.

    Raises:
        WlsweepError: if the sweep does not fit the site or a path cannot be used.
    """
    if options.nodes < 1:
        raise WlsweepError(f"--nodes {options.nodes}: at least one is needed")
    chosen = select(sweep.conditions, options.only)
    run = (workdir / options.out).resolve()
    folder = run / "slurm"
    job = Job(
        name=f"wl-{sweep.name}",
        site=site,
        ask=job_resources(site, sweep, options.nodes, options.array),
        workdir=workdir,
        run=run,
        script=folder / f"{stamp}.sh",
        driver=("run", str(folder / f"{stamp}.json"), "--out", str(run)),
        only=options.only,
        array=index_ranges([c.index for c in chosen if c.index is not None]) if options.array else None,
    )
    refuse_paths(job)
    return job


def write_job(job: Job, sweep: Sweep) -> None:
    """Write the script, and beside it the search space, resolved: a job that comes back must not read a later one."""
    folder = job.script.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with atomic_files(job.script.with_suffix(".json"), job.script) as (space, script):
        space.write_text(sweep.model_dump_json(indent=1), encoding="utf-8")
        script.write_text(render_script(job), encoding="utf-8")
        script.chmod(0o700)


def submit(sweep: Sweep, site: Site, options: SubmitOptions, dry_run: bool, say: Callable[[str], None]) -> int | None:
    """Write and submit a job; returns its id, or None on a dry run, which first shows what would be submitted.

    Raises:
        WlsweepError: if nothing can be submitted as asked, or SLURM refuses.
    """
    sweep, problems = job_sweep(sweep, site)
    stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(2)}"
    job = make_job(sweep, site, options, Path.cwd().resolve(), stamp)
    refuse_other_configuration(RunDir(job.run), sweep.fingerprint(), sweep.name)
    problems += not_shared(job) + job_problems(sweep, site, job.workdir, say)
    ask = job.ask
    groups = capacity(sweep, [{"CPU": float(ask.cpus), "GPU": float(ask.gpus)}] * ask.nodes).groups
    problems += warning_time_problems(sweep, site, job.run, groups, say)
    if not dry_run:
        refuse_all("the job would fail:", problems)
    write_job(job, sweep)
    command = sbatch_command(job)
    shape = f"array {job.array}, each task" if job.array is not None else "one allocation"
    say(f"shape:   {shape}: {ask.nodes} x ({ask.cpus} CPUs, {ask.gpus} GPUs, {ask.memory_mb} MiB), {site.time}")
    say(f"script:  {job.script}")
    say(f"submit:  {shlex.join(command)}")
    if dry_run:
        refuse_all("without --dry-run this is refused, since the job would fail:", problems)
        return None
    answer = slurm(*command).strip().partition(";")[0]
    if not answer.isdigit():
        raise WlsweepError(f"sbatch answered {answer!r} instead of a job id; see squeue --me")
    run = shlex.quote(str(options.out))
    say(f"job:     {answer}")
    say(f"log:     {job.run / 'logs' / 'latest' / 'job.log'} (until it starts: {job.run / 'slurm'}/job_*.out)")
    say(f"next:    squeue --me; wlsweep status {run}; wlsweep submit --tunnel {run}; scancel {answer}")
    return int(answer)
