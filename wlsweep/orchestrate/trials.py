"""The grid as Ray Tune trials: one trial a condition, named after it, on the warm group of the trial's actor.

Only unfinished conditions become trials, so identity lies in the run directory and not in Tune's own state. A condition
that fails ends its trial normally (a Tune error would kill the actor, and with it a healthy group); its cause is kept in
`failed.json`, which the next run deletes when it tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.tune

from wlsweep.orchestrate.gauges import show_done, show_line
from wlsweep.orchestrate.mailbox import Assignment, Outcome, TrialCounter
from wlsweep.run.layout import RunDir
from wlsweep.run.status import record_failure, starting_model
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.config import Sweep

if TYPE_CHECKING:
    from wlsweep.orchestrate.worker_group import WorkerGroup

_group: WorkerGroup | None = None
"""The group of this trial actor's process; Tune reuses the process for the next trial."""


def _warm_group(sweep: Sweep, run: RunDir) -> WorkerGroup:
    global _group
    if _group is None or not _group.alive:
        from wlsweep.orchestrate.worker_group import WorkerGroup  # with torch, which the driver need not wait for

        label = ray.get_runtime_context().get_actor_id()[:8]
        _group = WorkerGroup(sweep.train, label, run.logs)
    return _group


def train_trial(config: dict[str, Any], settings: dict[str, Any]) -> None:
    """One Tune trial: hand the condition to the warm group and pass its metrics on."""
    sweep: Sweep = settings["sweep"]
    run = RunDir(Path(settings["root"]))
    name = config["condition"]
    condition = next((c for c in sweep.conditions if c.name == name), None) or parse_name(name)
    base = starting_model(run, condition, settings["base"])
    ray.get(settings["ledger"].start.remote(name))
    stop_file = Path(settings["stop_file"])
    if stop_file.exists():
        ray.tune.report({"state": "stopped", "step": 0})
        return
    run.failed(condition.name).unlink(missing_ok=True)
    group = _warm_group(sweep, run)
    assignment = Assignment(sweep, condition, settings["root"], base, settings["stop_file"], settings["owner"])
    line, outcome = _follow(group, assignment)
    if outcome.state == "failed":
        record_failure(run, name, "train", outcome.cause or "unknown", outcome.attempts)
    show_done(sweep.name, ray.get(settings["ledger"].end.remote(outcome.state)))
    ray.tune.report({**line, "state": outcome.state, "cause": outcome.cause or "", "attempts": outcome.attempts})
    if stop_file.exists() or ray.get(settings["ledger"].is_over.remote()):
        group.close()


def _follow(group: WorkerGroup, assignment: Assignment) -> tuple[dict[str, Any], Outcome]:
    """Assign, pass the metric log on to Tune, and return its last line and the outcome."""
    ray.get(group.desk.assign.remote(assignment))
    shown = group.desk.watch.options(name=assignment.condition.name).remote()
    line: dict[str, Any] = {"step": 0}
    seen = 0
    outcome: Outcome | None = None
    while outcome is None:
        if not group.alive:
            return line, Outcome("failed", f"the worker group could not be kept running: {group.error!r}")
        if Path(assignment.stop_file).exists():
            ray.get(group.desk.withdraw.remote())
        lines, outcome = ray.get(group.desk.follow.remote(seen))
        seen += len(lines)
        for line in lines:
            show_line(assignment.sweep.name, assignment.condition.name, line)
            ray.tune.report({**line, "state": "running"})
    ray.wait([shown])
    return line, outcome


class _Listener(ray.tune.Callback):  # type: ignore[misc] # Ray has no types here
    """Hears of trials in the driver."""

    def __init__(self, on_trial: Callable[[str, dict[str, Any]], None]) -> None:
        self.on_trial = on_trial

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks beside the trials' state; what this one talks to lives in this process only."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial(trial.config["condition"], {"state": "running", "step": 0})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.on_trial(trial.config["condition"], result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial(trial.config["condition"], {"state": "failed", "cause": "its trial process failed"})


def train_conditions(
    sweep: Sweep,
    run: RunDir,
    base: str,
    conditions: Sequence[Condition],
    groups: int,
    owner: str,
    stop_file: Path,
    on_trial: Callable[[str, dict[str, Any]], None],
) -> None:
    """Train conditions on the Ray cluster that this process is connected to; returns when none is left to try.

    Args:
        sweep: the search space.
        run: where results go.
        base: the model to start from.
        conditions: what to train, in this order.
        groups: how many at the same time.
        owner: named in leases.
        stop_file: once it exists, running conditions save a resume checkpoint and no other starts.
        on_trial: hears (condition name, metrics with `state` and `step`).
    """
    done = sum(run.trained(c.name).is_file() for c in sweep.conditions)
    settings = {
        "ledger": ray.remote(TrialCounter).options(num_cpus=0).remote([c.name for c in conditions], done),
        "sweep": sweep,
        "root": str(run.root.resolve()),
        "base": base,
        "owner": owner,
        "stop_file": str(stop_file.resolve()),
    }
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(train_trial, settings=settings), {"CPU": 0.01}),
        param_space={"condition": ray.tune.grid_search([c.name for c in conditions])},
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=groups,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["condition"],
            trial_dirname_creator=lambda trial: trial.config["condition"],
        ),
        run_config=ray.tune.RunConfig(
            name=f"tune-{time.strftime('%Y%m%dT%H%M%S')}",
            storage_path=str((run.logs / "ray").resolve()),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=1),
            callbacks=[_Listener(on_trial)],
        ),
    )
    tuner.fit()
