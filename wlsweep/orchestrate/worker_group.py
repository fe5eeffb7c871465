"""Warm worker groups: a `TorchTrainer` whose workers take one condition after another.

Starting a group (processes, imports, process group) costs tens of seconds, a condition of a small sweep less. So a group
outlives its conditions. One process owns it, the Tune trial's, which Tune reuses for the next trial:

    trial process: trial, GroupMailbox, Ray Train's controller  <--TCP-->  each worker  (rank 0 --broadcast--> other ranks)

A worker that dies takes its group down; the controller starts the group again, rank 0 takes the same condition again, which
resumes from its checkpoint. The mailbox counts these attempts. When the trial's process dies, its workers read the end of
their connection and end themselves; the driver removes the placement group (`ray_cluster.ClusterWatch`).
"""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from wlsweep.errors import SharedFailure
from wlsweep.orchestrate.mailbox import Assignment, GroupMailbox, GroupMember, MailboxServer, State
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import hold
from wlsweep.run.logs import log_process_to
from wlsweep.run.nvml import gpu_energy
from wlsweep.run.status import RunStatus
from wlsweep.run.usage_meter import UsageMeter
from wlsweep.spec.condition import Condition, first_stage
from wlsweep.spec.config import Sweep
from wlsweep.spec.train_section import Train

LEASE_PATIENCE_S = 20.0
"""How long a group waits for the lease of a condition: an owner that was just killed needs some seconds to die."""
CLOSE_PATIENCE_S = 60.0
"""Longest wait for a group to end; it is killed with its owner then."""
RESTARTS = 1000
"""How often a group is started again. The mailbox counts attempts by condition; this ends a group whose workers die before
they take one."""
IDLE_S = 14 * 24 * 3600
"""Longest wait of the other ranks for the next condition."""


class OwnedTrainer(TorchTrainer):  # type: ignore[misc] # Ray has no types here
    """A `TorchTrainer` whose controller runs in the process that calls `fit`, where it cannot die alone.

    Ray 2.60 puts it into an actor, and starts three more: one that cleans up after a dead controller (it asks a dashboard
    that a local cluster does not have), one that asks an autoscaler for room, and one that hands out datasets, of which a
    group has none (it imports Ray Data while the workers import what they need: 3 CPU-seconds).
    """

    def _create_default_callbacks(self) -> list[Any]:
        needless = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [c for c in super()._create_default_callbacks() if not isinstance(c, needless)]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        settings["scaling_policy"] = _NoAutoscaler(self.scaling_config)
        controller = TrainController(**settings)
        asyncio.run(controller.run())
        return controller.get_result()


class _NoAutoscaler(FixedScalingPolicy):  # type: ignore[misc] # Ray has no types here
    def _maybe_send_resource_request(self) -> None:
        """Placement groups ask by themselves."""


def work(config: dict[str, Any]) -> None:
    """What each worker of a group does until it is killed."""
    log_folder: Path = config["logs"]
    rank = ray.train.get_context().get_world_rank()
    group_log = log_folder / f"train_{config['group']}_rank{rank}.log"
    log_process_to(group_log)
    member: GroupMember | None = None
    meter = UsageMeter(config["usage"], "group", "train", config["gpus"], config["cpus"], rank)
    try:
        member = GroupMember(config["mailbox"], ray.get_runtime_context().get_node_id())
        # Taken before the imports, so that an environment that cannot start counts against the condition.
        first = member.take() if rank == 0 else None
        _serve(member, rank, first, group_log, meter)
        member.leave()
    except SharedFailure as e:
        if member:
            member.finish("failed", str(e), True)
        raise
    except BaseException:
        if member:
            member.note(traceback.format_exc(limit=-8))
        traceback.print_exc()
        raise
    finally:
        meter.close()


def _serve(member: GroupMember, rank: int, first: Assignment | None, group_log: Path, meter: UsageMeter) -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from wlsweep.train.zero3 import join_group

    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    place = join_group()
    if torch.cuda.is_available():
        meter.measure_energy(gpu_energy([f"GPU-{torch.cuda.get_device_properties(place.device).uuid}"]))
    meter.wait()
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=IDLE_S))
    assignment = first
    while True:
        box: list[Any] = [None]
        if rank == 0:
            assignment = assignment or member.take()
            if assignment is None:
                dist.broadcast_object_list(box, src=0, group=control)
                return
            run = RunDir(Path(assignment.root))
            with hold(run.lease(assignment.condition.name), assignment.owner, LEASE_PATIENCE_S) as mine:
                if mine and is_trained(run, assignment.condition, assignment.sweep):
                    member.finish("done")  # another launch finished it since it was listed
                elif mine:
                    dist.broadcast_object_list([assignment], src=0, group=control)
                    _train(member, assignment, place, group_log, meter)
                else:
                    member.finish("elsewhere")
            assignment = None
        else:
            member.current = None
            dist.broadcast_object_list(box, src=0, group=control)
            if box[0] is None:
                return
            _train(member, box[0], place, group_log, meter)


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
def _rows(run: RunDir, k: int | None, written: int) -> Any:
    """Rows of a mix, or without `k` those of validation, kept from condition to condition; `written` tells versions of the
    data apart."""
    from wlsweep.data.load import load_mix, load_validation

    del written
    return load_validation(run) if k is None else load_mix(run, k)


def _train(member: GroupMember, assignment: Assignment, place: Any, group_log: Path, meter: UsageMeter) -> None:
    from wlsweep.train.job import ConditionFailed, Hooks, Job, OutOfMemory, Stopped
    from wlsweep.train.loop import train_condition

    run, name = RunDir(Path(assignment.root)), assignment.condition.name
    member.current = assignment.key
    log_process_to(run.logs / "conditions" / f"{name}_train_attempt{assignment.attempt}_rank{place.rank}.log")
    job = Job(assignment.sweep, assignment.condition, run, assignment.base, assignment.attempt)
    hooks = Hooks(member.log, meter.wrote_checkpoint, member.asked_to_stop)
    state: State = "done"
    cause, shared = None, False
    try:
        with meter.during("work", [name], assignment.attempt):
            written = run.data_json.stat().st_mtime_ns
            rows, validation = _rows(run, assignment.condition.k, written), _rows(run, None, written)
            try:
                train_condition(job, rows, place, hooks, validation)
            except Stopped:
                meter.outcome("stopped")
                raise
    except Stopped:
        state = "stopped"
    except OutOfMemory as e:
        member.finish("failed", str(e))
        raise  # the other ranks wait for this one in a collective: the group starts anew, with the next condition
    except SharedFailure as e:
        if place.rank:
            raise  # perhaps on this rank's node alone: the others wait in a collective, so the group must fall
        state, cause, shared = "failed", str(e), True
    except ConditionFailed as e:
        state, cause = "failed", str(e)
    finally:
        log_process_to(group_log)
    if place.rank == 0:
        member.finish(state, cause, shared)


def _lives(node: str) -> bool:
    """Whether a node of the cluster is still there."""
    return any(n["NodeID"] == node and n["Alive"] for n in ray.nodes())


class WorkerGroup:
    """A running group, owned by this process."""

    def __init__(self, train: Train, label: str, run: RunDir) -> None:
        self.error: BaseException | None = None
        self.mailbox = GroupMailbox(train.max_retries, _lives)
        self._server = MailboxServer(self.mailbox, ray.util.get_node_ip_address())
        resources: dict[str, float] = {"CPU": train.cpus_per_worker}
        if train.gpu:
            resources["GPU"] = 1
        self._trainer = OwnedTrainer(
            work,
            train_loop_config={
                "mailbox": self._server.address,
                "group": label,
                "logs": run.logs,
                "usage": run.usage,
                "gpus": 1 if train.gpu else 0,
                "cpus": train.cpus_per_worker,
            },
            torch_config=TorchConfig(backend="nccl" if train.gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=train.workers, use_gpu=train.gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=f"group-{label}",
                storage_path=str((run.logs / "ray").resolve()),
                failure_config=ray.train.FailureConfig(max_failures=RESTARTS, controller_failure_limit=3),
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
        """End the group in good order."""
        self.mailbox.close()
        self._thread.join(timeout=CLOSE_PATIENCE_S)
        self._server.close()

    @property
    def alive(self) -> bool:
        """Whether the group can take conditions."""
        return self._thread.is_alive() and not self.mailbox.closed


def worker_environment(train: Train) -> dict[str, str]:
    """Environment of training workers."""
    found = {"OMP_NUM_THREADS": str(train.cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    if not train.gpu:
        # Ray leaves the GPUs of a machine visible to actors that asked for none.
        found |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return found
