"""Warm worker groups: a `TorchTrainer` whose workers take one condition after another.

Starting a group (processes, imports, process group) costs tens of seconds, a condition of a small sweep less. So a group
outlives its conditions:

    Tune trial actor --assign--> GroupMailbox <--take-- rank 0 of the group --broadcast--> other ranks
                     <--events--       <--log, finish--

The trial actor is reused by Tune for the next trial and keeps its group. A worker that dies takes its group down; Ray
Train starts the group again, rank 0 takes the same condition again, which resumes from its checkpoint. The desk counts
these attempts. Ownership ends everything: when the trial actor goes, so do desk, controller and workers.
"""

from __future__ import annotations

import os
import threading
import traceback
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from wlsweep.errors import SharedFailure
from wlsweep.orchestrate.mailbox import Assignment, GroupMailbox, State
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import hold
from wlsweep.run.logs import log_process_to
from wlsweep.run.status import RunStatus
from wlsweep.spec.condition import Condition, first_stage
from wlsweep.spec.config import Sweep, Train

LEASE_PATIENCE_S = 20.0
"""How long a group waits for the lease of a condition: an owner that was just killed needs some seconds to die."""
CLOSE_PATIENCE_S = 60.0
"""Longest wait for a group to end; it is killed with its owner then."""
IDLE_S = 14 * 24 * 3600
"""Longest wait of the other ranks for the next condition."""


def work(config: dict[str, Any]) -> None:
    """What each worker of a group does until it is killed."""
    desk, log_folder = config["desk"], Path(config["logs"])
    rank, me = ray.train.get_context().get_world_rank(), uuid.uuid4().hex
    log_process_to(log_folder / f"train_{config['group']}_rank{rank}.log")
    try:
        # Taken before the imports, so that an environment that cannot start counts against the condition.
        first = ray.get(desk.take.remote(me)) if rank == 0 else None
        _serve(desk, rank, me, first)
    except BaseException:
        desk.note.remote(traceback.format_exc(limit=-8))
        traceback.print_exc()
        raise


def _serve(desk: Any, rank: int, me: str, first: Assignment | None) -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from wlsweep.train.zero3 import join_group

    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    place = join_group()
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=IDLE_S))
    assignment = first
    while True:
        box: list[Any] = [None]
        if rank == 0:
            assignment = assignment or ray.get(desk.take.remote(me))
            if assignment is None:
                dist.broadcast_object_list(box, src=0, group=control)
                return
            run = RunDir(Path(assignment.root))
            with hold(run.lease(assignment.condition.name), assignment.owner, LEASE_PATIENCE_S) as mine:
                if mine and is_trained(run, assignment.condition, assignment.sweep):
                    ray.get(desk.finish.remote("done"))  # another launch finished it since it was listed
                elif mine:
                    dist.broadcast_object_list([assignment], src=0, group=control)
                    _train(desk, assignment, place)
                else:
                    ray.get(desk.finish.remote("elsewhere"))
            assignment = None
        else:
            dist.broadcast_object_list(box, src=0, group=control)
            if box[0] is None:
                return
            _train(desk, box[0], place)


def is_trained(run: RunDir, condition: Condition, sweep: Sweep) -> bool:
    """Whether a condition's training is finished and its model still there, if it is to be predicted with or started
    from."""
    state = RunStatus(run)
    name = condition.name
    if state.trained(name) is None:
        return False
    awaited = any(c.two_stage and first_stage(c).name == name and not state.trained(c.name) for c in sweep.conditions)
    return run.model(name).is_dir() or (state.predicted(name) and not awaited)


@lru_cache(maxsize=8)
def _rows(run: RunDir, k: int, written: int) -> Any:
    """Rows of a mix, kept from condition to condition; `written` tells versions of the data apart."""
    from wlsweep.data.load import load_mix

    del written
    return load_mix(run, k)


def _train(desk: Any, assignment: Assignment, place: Any) -> None:
    from wlsweep.train.loop import ConditionFailed, Hooks, Job, OutOfMemory, Stopped, train_condition

    run = RunDir(Path(assignment.root))
    job = Job(assignment.sweep, assignment.condition, run, assignment.base, assignment.attempt)
    hooks = Hooks(on_log=desk.log.remote, should_stop=Path(assignment.stop_file).exists)
    state: State = "done"
    cause = None
    try:
        train_condition(job, _rows(run, assignment.condition.k, run.data_json.stat().st_mtime_ns), place, hooks)
    except Stopped:
        state = "stopped"
    except OutOfMemory as e:
        ray.get(desk.finish.remote("failed", str(e)))
        raise  # the other ranks wait for this one in a collective: the group starts anew, with the next condition
    except (ConditionFailed, SharedFailure) as e:
        state, cause = "failed", str(e)
    if place.rank == 0:
        ray.get(desk.finish.remote(state, cause))


class WorkerGroup:
    """A running group, owned by this process."""

    def __init__(self, train: Train, label: str, logs: Path) -> None:
        self.error: BaseException | None = None
        self.desk = ray.remote(GroupMailbox).options(num_cpus=0).remote(train.max_retries)
        resources: dict[str, float] = {"CPU": train.cpus_per_worker}
        if train.gpu:
            resources["GPU"] = 1
        self._trainer = TorchTrainer(
            work,
            train_loop_config={"desk": self.desk, "group": label, "logs": str(logs)},
            torch_config=TorchConfig(backend="nccl" if train.gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=train.workers, use_gpu=train.gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=f"group-{label}",
                storage_path=str((logs / "ray").resolve()),
                # The desk counts attempts by condition; the group itself is always started again.
                failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=3),
                worker_runtime_env={"env_vars": worker_environment(train)},
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as e:  # noqa: BLE001 - handed to whoever waits for the group
            self.error = e

    def close(self) -> None:
        """End the group in good order: a controller that is only killed leaves its resources booked for minutes."""
        ray.get(self.desk.close.remote())
        self._thread.join(timeout=CLOSE_PATIENCE_S)

    @property
    def alive(self) -> bool:
        """Whether the group can take conditions."""
        return self._thread.is_alive()


def worker_environment(train: Train) -> dict[str, str]:
    """Environment of training workers."""
    found = {"OMP_NUM_THREADS": str(train.cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    if not train.gpu:
        # Ray leaves the GPUs of a machine visible to actors that asked for none.
        found |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return found
