"""Train one condition of a prepared run without Ray, for profiling and for machines that have only torchrun.

wlsweep run search_spaces/demo.toml --stage data
torchrun --nproc-per-node 2 -m wlsweep.train.torchrun runs/demo baseline_gamma1.0_prop1_2
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from wlsweep.data.load import load_mix, load_validation
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import existing_run
from wlsweep.run.lease import hold
from wlsweep.run.records import SweepRecord
from wlsweep.run.status import starting_model
from wlsweep.run.usage_meter import UsageMeter
from wlsweep.spec.condition import first_stage, select


def main() -> None:
    """Train the condition named on the command line on the ranks that torchrun started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("condition")
    arguments = parser.parse_args()
    run = existing_run(arguments.run)
    record = SweepRecord.read(run.sweep_json)
    sweep = record.resolved(run.sweep_json)
    (condition,) = select(sweep.conditions, arguments.condition)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != sweep.train.workers:
        layout = sweep.train.model_dump() | {"workers": world}
        sweep = sweep.model_copy(update={"train": type(sweep.train).model_validate(layout)})
    if sweep.train.gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # before DeepSpeed looks for a GPU
        torch.set_num_threads(sweep.train.cpus_per_worker)
    dist.init_process_group("nccl" if sweep.train.gpu else "gloo")
    from wlsweep.train.job import Hooks, Job
    from wlsweep.train.loop import train_condition
    from wlsweep.train.zero3 import join_group

    place = join_group()
    meter = UsageMeter(run.usage, "group", "train", int(sweep.train.gpu), sweep.train.cpus_per_worker, place.rank)
    hooks = Hooks(lambda line: print(json.dumps(line), flush=True), meter.wrote_checkpoint)
    with hold(run.lease(condition.name), "torchrun") if place.rank == 0 else nullcontext(True) as mine:
        if not mine:
            raise WlsweepError(f"{condition.name} is being trained by another process; see {run.lease(condition.name)}")
        base = starting_model(run, condition, record.base)
        if condition.two_stage and not Path(base).is_dir():
            raise WlsweepError(f"{base} is missing: train {first_stage(condition).name} first")
        job, rows = Job(sweep, condition, run, base), load_mix(run, condition.k)
        with meter.during("work", [condition.name], 1):
            train_condition(job, rows, place, hooks, load_validation(run))
    meter.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except WlsweepError as e:
        sys.exit(f"error: {e}")
