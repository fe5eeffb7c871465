"""The grid as Ray Tune trials: one trial a condition, named after it, on the warm group of the trial's process.

Only unfinished conditions become trials, so identity lies in the run directory and not in Tune's own state. A condition
that fails ends its trial normally (a Tune error would kill the process, and with it a healthy group); its cause is kept in
`failed.json`, which the next run deletes when it tries again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.tune
from ray.util.metrics import Gauge

from wlsweep.orchestrate.launch import Launch
from wlsweep.orchestrate.mailbox import Assignment, Outcome
from wlsweep.orchestrate.notices import told
from wlsweep.orchestrate.signals import new_mark
from wlsweep.orchestrate.training import OnTrial
from wlsweep.run.layout import RunDir, read_json
from wlsweep.run.status import record_failure, starting_model
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.config import Sweep

if TYPE_CHECKING:
    from wlsweep.orchestrate.worker_group import WorkerGroup

FOLLOW_S = 0.2
"""Seconds between two looks at whether the group still lives and the launch was not asked to stop, where the group says
nothing: a question to the cluster's control process."""
RESTARTS = 3
"""How often Tune starts a trial again whose process died; after that the driver does, with fresh processes."""
GAUGES = {
    "loss": "weighted loss of the last logged steps",
    "tokens_per_s": "training speed over all ranks",
    "predicted_accept_rate": "share of training rows that the model would give the positive label",
    "step": "optimizer steps so far",
    "of": "optimizer steps in all",
}
"""Keys of a condition's metric log, and what they mean, that Prometheus scrapes beside Ray's own metrics and Grafana draws
(`cluster/grafana/`): `ray_wlsweep_loss{sweep="iclr19", condition="accept_gamma2.0_prop1_2"} 0.61`."""
_group: WorkerGroup | None = None
"""The group of this trial process; Tune reuses the process for the next trial."""


@lru_cache(maxsize=1)
def _gauges() -> tuple[dict[str, Any], Any]:
    each = {k: Gauge(f"wlsweep_{k}", text, tag_keys=("sweep", "condition")) for k, text in GAUGES.items()}
    return each, Gauge("wlsweep_conditions_done", "conditions that are trained", tag_keys=("sweep",))


def show_line(sweep: str, condition: str, line: Mapping[str, Any]) -> None:
    """Set a condition's gauges from a line of its metric log."""
    for key, gauge in _gauges()[0].items():
        if line.get(key) is not None:
            gauge.set(float(line[key]), tags={"sweep": sweep, "condition": condition})


def show_done(sweep: str, count: int) -> None:
    """Set how many conditions of a sweep are trained."""
    _gauges()[1].set(count, tags={"sweep": sweep})


def _warm_group(sweep: Sweep, run: RunDir) -> WorkerGroup:
    global _group
    if _group is None or not _group.alive:
        from wlsweep.orchestrate.worker_group import WorkerGroup  # with torch, which the driver need not wait for

        label = f"{ray.get_runtime_context().get_actor_id()[:8]}-{uuid.uuid4().hex[:4]}"
        _group = WorkerGroup(sweep.train, label, run)
    return _group


def train_trial(config: dict[str, Any], settings: dict[str, Any]) -> None:
    """One Tune trial: hand the condition to the warm group and pass its metrics on."""
    sweep: Sweep = settings["sweep"]
    run = RunDir(Path(settings["root"]))
    name = config["condition"]
    condition = next((c for c in sweep.conditions if c.name == name), None) or parse_name(name)
    base = starting_model(run, condition, settings["base"])
    all_begun = Path(settings["all_begun"])

    stopping = partial(told, settings["stop"])
    if stopping():
        ray.tune.report({"state": "stopped", "step": 0})
        return
    run.failed(condition.name).unlink(missing_ok=True)
    group = _warm_group(sweep, run)
    assignment = Assignment(sweep, condition, settings["root"], base, settings["owner"])
    shown = _show_in_dashboard(run, name) if settings["dashboard"] else None
    line, outcome = _follow(group, assignment, stopping)
    if outcome.state == "failed":
        record_failure(run, name, "train", outcome.cause or "unknown", outcome.attempts)
    if shown and outcome.state not in ("done", "failed"):
        ray.cancel(shown)
    ray.tune.report({**line, **outcome._asdict(), "cause": outcome.cause or ""})
    if stopping() or all_begun.exists():
        group.close()


def _follow(group: WorkerGroup, assignment: Assignment, stopping: Callable[[], bool]) -> tuple[dict[str, Any], Outcome]:
    """Assign, pass the metric log on to Tune, and return its last line and the outcome."""
    mailbox = group.mailbox
    mailbox.assign(assignment)
    line: dict[str, Any] = {"step": 0}
    seen = 0
    outcome: Outcome | None = None
    while outcome is None:
        if not group.alive:
            return line, Outcome("lost", f"its worker group could not be kept running: {group.error!r}")
        if stopping():
            mailbox.withdraw()
        lines, outcome = mailbox.follow(seen, FOLLOW_S)
        seen += len(lines)
        for line in lines:
            show_line(assignment.sweep.name, assignment.condition.name, line)
            ray.tune.report({**line, "state": "running"})
    return line, outcome


def _show_in_dashboard(run: RunDir, name: str) -> Any:
    """Show a condition under its name in the Jobs pages of Ray's dashboard: a task that lasts as long as its training."""
    task = ray.remote(_last_as_long).options(name=name, num_cpus=0, max_retries=0)
    return task.remote(run.trained(name), run.failed(name))


def _last_as_long(trained: Path, failed: Path) -> None:
    """End when a condition is trained; fail with its cause if it fails. Nobody waits for this task."""
    while not trained.is_file():
        if failed.is_file():
            raise RuntimeError(read_json(failed)["cause"])
        time.sleep(1)


class _Listener(ray.tune.Callback):  # type: ignore[misc] # Ray has no types here
    """Hears of trials in the driver."""

    def __init__(self, on_trial: OnTrial, names: Sequence[str], all_begun: Path, sweep: str, done: int) -> None:
        self.on_trial, self.waiting, self.all_begun = on_trial, set(names), all_begun
        self.sweep, self.done = sweep, done

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks beside the trials' state; what this one talks to lives in this process only."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config["condition"]
        self.waiting.discard(name)
        if not self.waiting:
            self.all_begun.touch()  # a group that ends a condition from now on has nothing more to do
        self.on_trial(name, {"state": "running", "step": 0})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("state") == "done":
            self.done += 1
            show_done(self.sweep, self.done)
        self.on_trial(trial.config["condition"], result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial(trial.config["condition"], {"state": "lost", "cause": "its trial process was killed"})


def train_conditions(
    launch: Launch, base: str, conditions: Sequence[Condition], groups: int, on_trial: OnTrial
) -> None:
    """Train conditions on the Ray cluster that this process is connected to; see `training.TrainConditions`."""
    sweep, run, names = launch.sweep, launch.run, [c.name for c in conditions]
    done = sum(run.trained(c.name).is_file() for c in sweep.conditions)
    all_begun = new_mark(run.root, "all-begun")
    settings = {
        "sweep": sweep,
        "root": str(run.root.resolve()),
        "base": base,
        "owner": launch.owner,
        "stop": launch.stop.word,
        "all_begun": str(all_begun.resolve()),
        "dashboard": bool(ray._private.worker.get_dashboard_url()),
    }
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(train_trial, settings=settings), {"CPU": 0.01}),
        param_space={"condition": ray.tune.grid_search(names)},
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=groups,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["condition"],
            trial_dirname_creator=lambda trial: trial.config["condition"],
        ),
        run_config=ray.tune.RunConfig(
            name=f"tune-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:4]}",
            storage_path=str((run.logs / "ray").resolve()),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=RESTARTS),
            callbacks=[_Listener(on_trial, names, all_begun, sweep.name, done)],
        ),
    )
    try:
        tuner.fit()
    finally:
        all_begun.unlink(missing_ok=True)
