"""How many worker groups and engines a cluster holds at the same time: pure, so that what cannot fit is refused before
anything starts."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from wlsweep.errors import WlsweepError
from wlsweep.spec.config import Predict, Sweep


class Capacity(NamedTuple):
    """How much runs at the same time."""

    groups: int
    engines: int
    beside: int = 0
    """Engines that fit while all groups run, wherever Ray places either; so neither can keep the other waiting."""
    late: int = 0
    """The same once one of several groups has gone home."""


def local_cpus(sweep: Sweep) -> int:
    """Logical CPUs of a local cluster: at least what one group and its bookkeeping ask for, whatever the machine has.

    Where it has several groups and the machine holds them, an engine fits in the room of one of them, too.
    """
    train, engine = sweep.train, sweep.predict.cpus_per_engine
    group = train.workers * train.cpus_per_worker
    cpus = max(os.cpu_count() or 1, group + 1, engine + 1)
    groups = 1 if train.gpu else train.groups or 1
    if not 1 < groups <= (cpus - 1) // group:
        return cpus
    return max(cpus, (groups - 1) * group + engine + 2)


def capacity(sweep: Sweep, nodes: list[dict[str, float]], predicting: bool = True) -> Capacity:
    """How many groups and engines the nodes hold.

    Args:
        sweep: what each needs.
        nodes: resources of each node, such as {"CPU": 64.0, "GPU": 4.0}.
        predicting: whether engines are needed, too.

    Raises:
        WlsweepError: if not even one group or one engine fits, naming what is missing; Ray would wait for ever.
    """
    train, predict = sweep.train, sweep.predict
    need = {"CPU": float(train.cpus_per_worker), "GPU": float(train.gpu)}
    workers = sum(_fit(node, need) for node in nodes)
    have = ", ".join(f"{sum(n.get(k, 0) for n in nodes):g} {k}s" for k in ("CPU", "GPU"))
    problems = []
    spare = sum(n.get("CPU", 0) for n in nodes) - train.workers * train.cpus_per_worker
    if workers < train.workers:
        problems.append(
            f"training needs {train.workers} workers of {need['CPU']:g} CPUs and {need['GPU']:g} GPUs each; "
            f"room is for {workers}. Lower train.workers or train.cpus_per_worker, or add nodes"
        )
    elif spare < 1:
        problems.append(
            f"training takes {train.workers * train.cpus_per_worker} CPUs and needs one more for its own bookkeeping. "
            "Lower train.cpus_per_worker, or start Ray with one more --num-cpus"
        )
    engines = sum(_fit(n, _engine(predict)) for n in nodes)
    if engines < 1 and predicting:
        problems.append(
            f"a vLLM engine needs {predict.cpus_per_engine} CPUs and {predict.gpus_per_engine} GPUs on one node. "
            "Change [predict], or add a node"
        )
    if problems:
        raise WlsweepError(f"the Ray cluster has {have}:\n" + "\n".join(f"  - {p}" for p in problems))
    total = sum(n.get("CPU", 0) for n in nodes)
    groups = max(1, min(workers // train.workers, int((total - 1) // (train.workers * train.cpus_per_worker))))
    if not train.gpu:
        groups = 1 if train.groups is None else groups
    groups = min(groups, train.groups or groups)
    engines = min(engines, predict.engines or (engines if predict.gpus_per_engine else 1))
    beside, late = (
        _beside(nodes, need, n * train.workers, _engine(predict), engines) if n else 0 for n in (groups, groups - 1)
    )
    return Capacity(groups, engines, beside, late)


def _engine(predict: Predict) -> dict[str, float]:
    return {"CPU": float(predict.cpus_per_engine), "GPU": float(predict.gpus_per_engine)}


def _beside(
    nodes: list[dict[str, float]], worker: dict[str, float], workers: int, engine: dict[str, float], engines: int
) -> int:
    """How many of the engines fit beside all workers, and these beside them, wherever Ray places whom."""
    own = {"CPU": 1.0}  # one for Tune's trials, one for Ray Data
    for count in range(engines, 0, -1):
        beside_workers = _crowded(_crowded(nodes, own, 2, engine), worker, workers, engine)
        beside_engines = _crowded(_crowded(nodes, own, 2, worker), engine, count, worker)
        if (
            sum(_fit(n, engine) for n in beside_workers) >= count
            and sum(_fit(n, worker) for n in beside_engines) >= workers
        ):
            return count
    return 0


def _crowded(
    nodes: list[dict[str, float]], taker: dict[str, float], count: int, other: dict[str, float]
) -> list[dict[str, float]]:
    """What `count` takers leave of the nodes if they spoil as many places for `other` as they can, the cheapest first."""
    left = [{k: n.get(k, 0.0) for k in ("CPU", "GPU")} for n in nodes]

    def less(node: dict[str, float], takers: int) -> dict[str, float]:
        return {k: v - takers * taker.get(k, 0.0) for k, v in node.items()}

    def price(node: dict[str, float]) -> int:
        """Takers until one place fewer is left; 0 if there is nothing to spoil."""
        possible = range(1, min(count, _fit(node, taker)) + 1)
        return next((m for m in possible if _fit(less(node, m), other) < _fit(node, other)), 0)

    for _ in range(count):
        prices = {i: cost for i, node in enumerate(left) if (cost := price(node))}
        if not prices:
            break
        cheapest = min(prices, key=prices.__getitem__)
        left[cheapest] = less(left[cheapest], 1)
    return left


def _fit(node: dict[str, float], need: dict[str, float]) -> int:
    return min((math.floor(node.get(k, 0) / v) for k, v in need.items() if v), default=0)
