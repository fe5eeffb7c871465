"""Predict the test set with every trained condition: Ray Data streams conditions through actors that hold an engine each.

Each condition becomes one Parquet file, written whole after its rows were counted, so a killed run loses at most the
conditions in hand. What is complete is decided by `wlsweep.run.status`, from the files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wlsweep.predict.predictor import Predictor
from wlsweep.predict.vllm_engine import engine_environment
from wlsweep.predict.waiting import ModelWait
from wlsweep.run.layout import RunDir
from wlsweep.spec.config import Predict, Sweep

MAX_RESTARTS = 2
"""How often an engine whose process died is started again before the prediction is given up."""


def engine_resources(config: Predict) -> dict[str, Any]:
    """What Ray books for the actor that holds an engine; its ranks are processes of that actor."""
    gpus = {"num_gpus": config.gpus_per_engine} if config.gpus_per_engine else {}
    return {"num_cpus": config.cpus_per_engine, **gpus}


def predict_conditions(
    sweep: Sweep,
    run: RunDir,
    names: Sequence[str],
    engines: int,
    owner: str,
    training: Path | None = None,
    late: bool = False,
    tell_rows: Callable[[str, int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict conditions on the Ray cluster that this process is connected to; yields each one's result as it ends.

    Args:
        sweep: the search space.
        run: where models lie and predictions go.
        names: conditions, trained or, with `training`, in the order in which they will be.
        engines: actors at the same time.
        owner: named in leases; a condition that another launch predicts is left to it (a result of 0 rows).
        training: a file that exists while conditions are still being trained; until it is gone, engines wait for models.
        late: the last conditions train; a model that nobody trains is not waited for (a result of 0 rows).
        tell_rows: called in the engines' processes with a condition, and how many of how many rows are predicted, of all
            conditions that share its queue.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # engines wait for models and for room, for hours if need be
    config = sweep.predict
    root = str(run.root.resolve())
    conditions = ray.data.from_items([{"condition": n} for n in names], override_num_blocks=len(names))
    results = conditions.map_batches(
        Predictor,
        fn_constructor_kwargs={
            "sweep": sweep,
            "root": root,
            "owner": owner,
            "wait_for": ModelWait(root, tuple(c.name for c in sweep.conditions), training and training.resolve(), late),
            "names": tuple(names),
            "tell_rows": tell_rows,
        },
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(engines, len(names)), max_tasks_in_flight_per_actor=1),
        runtime_env={"env_vars": engine_environment(config)},
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
        **engine_resources(config),
    )
    yield from results.iter_rows()
