"""Stands in for a condition's training where what surrounds it is measured: it leaves a whole record and does no work.

`RAY_RUNTIME_ENV_HOOK=bench.trivial.everywhere wlsweep run ...` makes every worker process of that command put these in the
place of `wlsweep.train.zero3` and `wlsweep.train.loop`, so that no DeepSpeed is imported and nothing is computed. All the
rest is the product's own: Tune trials, mailbox, Ray Train group, process group and broadcasts, leases, records.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from wlsweep.train.job import Hooks, Job


def everywhere(runtime_env: dict[str, Any] | None) -> dict[str, Any]:
    """For Ray, in the driver: adds the set-up below to every worker process."""
    return {**(runtime_env or {}), "worker_process_setup_hook": "bench.trivial.install"}


def install() -> None:
    """For Ray, in each worker process."""
    for name, part in (("wlsweep.train.zero3", join_group), ("wlsweep.train.loop", train_condition)):
        sys.modules[name] = module = types.ModuleType(name)
        setattr(module, part.__name__, part)


def join_group() -> types.SimpleNamespace:
    import torch.distributed as dist

    return types.SimpleNamespace(rank=dist.get_rank(), world=dist.get_world_size())


def train_condition(job: Job, _rows: Any, place: types.SimpleNamespace, hooks: Hooks, _validation: Any = None) -> None:
    """One line of the metric log, an empty model folder and the record, then the ranks meet."""
    import torch.distributed as dist

    from wlsweep.run.metric_log import MetricLine
    from wlsweep.run.records import ConditionEntry, ModelRecord, TrainedOn, TrainedRecord, TrainingSeconds

    name = job.condition.name
    if place.rank == 0:
        line = {"step": 1, "of": 1, "loss": 0.0}
        hooks.on_log(line)
        job.run.model(name).mkdir(parents=True, exist_ok=True)
        TrainedRecord(
            condition=ConditionEntry(**job.condition.as_dict()),
            sweep_fingerprint=job.sweep.fingerprint(),
            base=job.base,
            steps=1,
            samples=0,
            tokens=0,
            seconds=TrainingSeconds(start=0.0, steps=0.0),
            attempts=job.attempt,
            proof={},
            final=MetricLine(**line),
            unweighted_loss=0.0,
            trained_on=TrainedOn(host="", device="", workers=place.world),
            probe=[],
            model=ModelRecord(fingerprint="none", bytes=0),
            finished_at="",
        ).write(job.run.trained(name))
    dist.barrier()
