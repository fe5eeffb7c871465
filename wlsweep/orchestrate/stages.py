"""The real stages: data, training, prediction, evaluation and report, as the functions that a driver calls in turn.

A driver knows no engine: tests hand it functions of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.capacity import Capacity, capacity
from wlsweep.orchestrate.launch import Launch
from wlsweep.orchestrate.training import OnTrial
from wlsweep.run.causes import one_line
from wlsweep.run.layout import json_text
from wlsweep.run.records import PlanRecord
from wlsweep.shipped import how_to_install
from wlsweep.spec.condition import Condition
from wlsweep.spec.plan import make_plan
from wlsweep.spec.preflight import refuse_model, sample_rows


@dataclass(frozen=True)
class Stages:
    """What a launch does; each function may take hours and raises `WlsweepError` for what its user can fix."""

    check: Callable[[Launch], None]
    """Refuses what would fail only later: engines that are not installed, room that the cluster does not have."""
    base: Callable[[Launch, Callable[[str], None]], str]
    """Finds or makes the base model; the second argument hears of progress, one line at a time."""
    prepare: Callable[[Launch, str, Callable[[str], None]], None]
    """Makes the data for this base model, or checks that it is there and the same."""
    plan: Callable[[Launch], None]
    """Records what `wlsweep plan` says of the sweep, unless an earlier launch did."""
    connect: Callable[[Launch], Capacity]
    """Joins or starts the Ray cluster, the first time it is called."""
    train: Callable[[Launch, str, Sequence[Condition], int, OnTrial], None]
    """One round of trials; see `training.TrainConditions`."""
    predict: Callable[[Launch, Sequence[str], int, Path | None, bool], Iterator[dict[str, Any]]]
    """See `wlsweep.predict.stage.predict_conditions`."""
    evaluate: Callable[[Launch], Any]
    """Computes the metrics; returns an `Evaluation`."""
    report: Callable[[Launch], tuple[Any, str]]
    """Writes the page; returns an `Evaluation`, and a note where the figures could not be drawn."""


def refuse_missing_engines() -> None:
    """Refuse what would fail only once workers run.

    Raises:
        WlsweepError: if an engine is not installed.
    """
    engines = {"ray": "train", "deepspeed": "train", "peft": "train", "vllm": "predict"}
    missing = [f"{name}, needed to {use}" for name, use in engines.items() if find_spec(name) is None]
    if missing:
        raise WlsweepError(
            "this environment lacks engines of the sweep: "
            + "; ".join(missing)
            + f". Install them:\n{how_to_install()}"
        )


def _check(launch: Launch) -> None:
    refuse_model(launch.sweep, sample_rows(launch.sweep))
    refuse_missing_engines()
    if launch.last == "data":
        return
    from wlsweep.orchestrate.ray_cluster import local_nodes, named_cluster

    if named_cluster():
        _connect(launch)
    else:
        capacity(launch.sweep, local_nodes(launch.sweep), launch.last != "train")


def _base(launch: Launch, note: Callable[[str], None]) -> str:
    model = launch.sweep.model
    if model.path is not None:
        path = Path(model.path)
        return str(path.resolve()) if path.is_dir() else str(model.path)  # workers run in other folders
    assert model.tiny is not None
    note("looking for the tiny base model")
    from wlsweep.data.prepare import base_rows
    from wlsweep.train.tiny_base import ensure_tiny_base

    rows = base_rows(launch.sweep, launch.run)
    return str(ensure_tiny_base(model.tiny, rows, launch.run.cache, note, launch.sweep.task).resolve())


def _prepare(launch: Launch, base: str, note: Callable[[str], None]) -> None:
    from wlsweep.data.prepare import prepare_data

    prepare_data(launch.sweep, launch.run, Path(base), note)


def _plan(launch: Launch) -> None:
    names = [c.name for c in launch.sweep.conditions]
    made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        if launch.run.plan_json.is_file():  # of then, unless the search space has other conditions by now
            kept = PlanRecord.read(launch.run.plan_json).plan["conditions"]
            if isinstance(kept, list) and [c["name"] for c in kept if isinstance(c, dict)] == names:
                return
        plan = make_plan(launch.sweep)
        PlanRecord(made_at=made_at, plan=json.loads(json_text(plan))).write(launch.run.plan_json)
    except Exception as e:  # noqa: BLE001 - a plan is no result: without one, what is used is compared with nothing
        launch.view.note(f"no plan to compare what is used with: {one_line(str(e))}")


def _connect(launch: Launch) -> Capacity:
    from wlsweep.orchestrate.notices import tell, told_rows
    from wlsweep.orchestrate.ray_cluster import cluster_nodes, connect, is_connected, lost_cluster, who_holds_room

    if not is_connected():
        launch.view.note("starting Ray")
        connect(launch.sweep, launch.view.say, launch.stop)
        launch.stop.take_signals()  # Ray takes SIGTERM for itself when it starts
    launch.cluster_lost, launch.others, launch.tell = lost_cluster, who_holds_room, tell
    launch.told_rows = lambda: told_rows(str(launch.run.root.resolve()))
    return capacity(launch.sweep, cluster_nodes(), launch.last != "train")


def _train(launch: Launch, base: str, conditions: Sequence[Condition], groups: int, on_trial: OnTrial) -> None:
    from wlsweep.orchestrate.trials import train_conditions

    train_conditions(launch, base, conditions, groups, on_trial)


def _predict(
    launch: Launch, names: Sequence[str], engines: int, training: Path | None, late: bool
) -> Iterator[dict[str, Any]]:
    from wlsweep.orchestrate.notices import tell_rows
    from wlsweep.predict.stage import predict_conditions

    tell = partial(tell_rows, str(launch.run.root.resolve()))
    return predict_conditions(launch.sweep, launch.run, names, engines, launch.owner, training, late, tell)


def _evaluate(launch: Launch) -> Any:
    from wlsweep.analysis.evaluate import evaluate, remembered_externals

    return evaluate(launch.run, None, remembered_externals(launch.run))


def _report(launch: Launch) -> tuple[Any, str]:
    from wlsweep.report.page import write_report
    from wlsweep.report.png import Renderer

    with Renderer() as renderer:  # it starts while the run is evaluated
        from wlsweep.analysis.evaluate import up_to_date

        evaluation = up_to_date(launch.run)
        return evaluation, write_report(launch.run, evaluation, renderer).note


ENGINES = Stages(_check, _base, _prepare, _plan, _connect, _train, _predict, _evaluate, _report)
"""The stages of the product."""
