"""Warm worker groups: a `TorchTrainer` whose workers take one condition after another.

Starting a group (processes, imports, process group) costs tens of seconds, a condition of a small sweep less. So a group
outlives its conditions:

    Tune trial actor --assign--> Desk <--take-- rank 0 of the group --broadcast--> other ranks
                     <--events--       <--log, finish--

The trial actor is reused by Tune for the next trial and keeps its group. A worker that dies takes its group down; Ray
Train starts the group again, rank 0 takes the same condition again, which resumes from its checkpoint. The desk counts
these attempts. Ownership ends everything: when the trial actor goes, so do desk, controller and workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import traceback
import uuid
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from wlsweep.conditions import Condition
from wlsweep.config import Train
from wlsweep.lease import hold
from wlsweep.paths import RunDir
from wlsweep.process_log import talk_to
from wlsweep.state import RunState

State = Literal["done", "failed", "stopped", "elsewhere"]
LEASE_PATIENCE_S = 20.0
"""How long a group waits for the lease of a condition: an owner that was just killed needs some seconds to die."""
CLOSE_PATIENCE_S = 60.0
"""Longest wait for a group to end; it is killed with its owner then."""
IDLE_S = 14 * 24 * 3600
"""Longest wait of the other ranks for the next condition."""


class Outcome(NamedTuple):
    """How an assigned condition ended."""

    state: State
    cause: str | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Assignment:
    """A condition for a group: everything a worker needs to know, as plain data."""

    sweep: Any
    condition: Any
    root: str
    base: str
    stop_file: str
    owner: str
    attempt: int = 0


class Desk:
    """Where a trial leaves a condition and its group's rank 0 picks it up; an async Ray actor."""

    def __init__(self, max_retries: int) -> None:
        self.max_retries = max_retries
        self.assignment: Assignment | None = None
        self.attempts = 0
        self.cause: str | None = None
        self.lines: list[dict[str, Any]] = []
        self.outcome: Outcome | None = None
        self.taker = ""
        self.closed = False
        self.changed = asyncio.Condition()

    async def assign(self, assignment: Assignment) -> None:
        """Leave the next condition."""
        async with self.changed:
            self.assignment, self.attempts, self.cause, self.lines, self.outcome = assignment, 0, None, [], None
            self.changed.notify_all()

    async def watch(self) -> str:
        """Lasts as long as the assigned condition; called under its name, it shows it in Ray's dashboard.

        Raises:
            RuntimeError: the cause, if the condition failed.
        """
        async with self.changed:
            await self.changed.wait_for(lambda: self.outcome is not None)
            assert self.outcome is not None
            if self.outcome.state == "failed":
                raise RuntimeError(self.outcome.cause)
            return self.outcome.state

    async def take(self, taker: str) -> Assignment | None:
        """Wait for a condition that is not finished; called by rank 0 whenever it is free or was started again.

        Nothing is left to take once the desk is closed, nor for a taker that was replaced by a later one (its process
        is dead, its call still waits).
        """
        async with self.changed:
            self.taker = taker
            self.changed.notify_all()
            while True:
                await self.changed.wait_for(
                    lambda: self.closed or self.taker != taker or (self.assignment is not None and self.outcome is None)
                )
                if self.closed or self.taker != taker or self.assignment is None:
                    return None
                if self.attempts <= self.max_retries:
                    self.attempts += 1
                    return replace(self.assignment, attempt=self.attempts)
                cause = self.cause or "a worker process died without a word (killed, or out of memory)"
                self.outcome = Outcome("failed", cause, self.attempts)
                self.changed.notify_all()

    async def close(self) -> None:
        """Send the group home: its workers end, and their resources are free."""
        async with self.changed:
            self.closed = True
            self.changed.notify_all()

    async def note(self, cause: str) -> None:
        """Remember why the group is about to fall."""
        self.cause = self.cause or cause

    async def log(self, line: dict[str, Any]) -> None:
        """A line of the metric log."""
        async with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    async def finish(self, state: State, cause: str | None = None) -> None:
        """The condition's end."""
        async with self.changed:
            self.outcome = Outcome(state, cause, self.attempts)
            self.changed.notify_all()

    async def follow(self, seen: int) -> tuple[list[dict[str, Any]], Outcome | None]:
        """New lines since `seen`, and the outcome once there is one; returns empty-handed after a while."""
        async with self.changed:
            news = self.changed.wait_for(lambda: len(self.lines) > seen or self.outcome is not None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news, timeout=5)
            return self.lines[seen:], self.outcome


def work(config: dict[str, Any]) -> None:
    """What each worker of a group does until it is killed."""
    desk, log_folder = config["desk"], Path(config["logs"])
    rank, me = ray.train.get_context().get_world_rank(), uuid.uuid4().hex
    talk_to(log_folder / f"train_{config['group']}_rank{rank}.log")
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

    from wlsweep.train.engine import join_group

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
                if mine and is_trained(run, assignment.condition):
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


def is_trained(run: RunDir, condition: Condition) -> bool:
    """Whether a condition's training is finished and its model still there to be predicted with or started from."""
    state = RunState(run)
    name = condition.name
    return state.trained(name) is not None and (run.model(name).is_dir() or state.predicted(name))


@lru_cache(maxsize=8)
def _rows(run: RunDir, k: int, written: int) -> Any:
    """Rows of a mix, kept from condition to condition; `written` tells versions of the data apart."""
    from wlsweep.data.stage import load_mix

    del written
    return load_mix(run, k)


def _train(desk: Any, assignment: Assignment, place: Any) -> None:
    from wlsweep.train.loop import ConditionFailed, Hooks, Job, Stopped, train_condition

    run = RunDir(Path(assignment.root))
    job = Job(assignment.sweep, assignment.condition, run, assignment.base, assignment.attempt)
    hooks = Hooks(on_log=desk.log.remote, should_stop=Path(assignment.stop_file).exists)
    state: State = "done"
    cause = None
    try:
        train_condition(job, _rows(run, assignment.condition.k, run.data_json.stat().st_mtime_ns), place, hooks)
    except Stopped:
        state = "stopped"
    except ConditionFailed as e:
        state, cause = "failed", str(e)
    if place.rank == 0:
        ray.get(desk.finish.remote(state, cause))


class Ledger:
    """Knows which trials were not started yet, so that a group learns that no other will come; a Ray actor."""

    def __init__(self, names: list[str]) -> None:
        self.left = set(names)

    def start(self, name: str) -> None:
        """A trial begins, or begins again."""
        self.left.discard(name)

    def is_over(self) -> bool:
        """Whether every trial was started."""
        return not self.left


class WarmGroup:
    """A running group, owned by this process."""

    def __init__(self, train: Train, label: str, logs: Path) -> None:
        self.error: BaseException | None = None
        self.desk = ray.remote(Desk).options(num_cpus=0).remote(train.max_retries)
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
