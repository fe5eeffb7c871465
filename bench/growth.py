"""How the overhead of a condition grows - with conditions, rows and nodes; it should not: python -m bench.growth

Each case is a `wlsweep run` up to its predictions, on trivial conditions: a tiny model, a few optimizer steps. Overhead of
training is the time from one condition's end to the next one's, less its optimizer steps; of prediction, the time from one
condition's file to the next one's, its 64 short prompts included. Each is given for all conditions and for the first and
last quarter of them: what grows with the number of conditions shows there. With several groups it is the time between
two ends anywhere.

The nodes are raylets on this machine (`ray.cluster_utils.Cluster`), so more of them bring no more speed. On 1, 2 and 4 the
engines are the real ones, with one group of four ranks that spans all nodes. On the large simulated cluster the workers
run `bench.trivial` instead of a training - as many DeepSpeed processes fit no small machine - so that case measures the
orchestration alone: Tune trials, mailboxes, groups, leases, records; no prediction.

    python -m bench.growth --cases 19,rows        # some cases
    python -m bench.growth --nodes 16 --many 200  # a smaller simulated cluster
"""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.results import BENCH, WLSWEEP, empty_folder, publish, small_space, timed
from wlsweep.run.layout import RunDir, read_json
from wlsweep.spec.config import load_sweep

WORK = BENCH / "growth"
SPACE = """
[data.synthetic]
train_rows = {rows}
test_rows = {test}
[train]
global_batch = 64
workers = {workers}
groups = {groups}
[predict]
cpus_per_engine = 1
"""
TOKEN = secrets.token_hex(32)
"""Keeps the clusters to those who know it. One for all of them: Ray reads a process's token only once."""


class Case(NamedTuple):
    """One run."""

    label: str
    conditions: int = 19
    rows: int = 256
    workers: int = 2
    groups: int = 1
    nodes: tuple[int, ...] = ()
    """Logical CPUs of each node; without nodes the command starts its own local cluster."""
    real: bool = True


@contextmanager
def cluster(nodes: tuple[int, ...]) -> Iterator[dict[str, str]]:
    """A Ray cluster on this machine; yields the environment that joins it."""
    joined = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_usage_stats_enabled": "0",
        "RAY_prestart_worker_first_driver": "0",  # a process for each CPU of each node, most of them for nothing
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH")))),
    }
    os.environ |= joined
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": nodes[0], **small})
    try:
        for cpus in nodes[1:]:
            made.add_node(num_cpus=cpus, **small)
        yield {**joined, "RAY_ADDRESS": made.address}
    finally:
        made.shutdown()


def quarters(ended: list[float], steps: list[float]) -> dict[str, float]:
    """Seconds a condition beside its steps, over all conditions, the first and the last quarter."""
    last = len(ended) - 1
    size = max(1, last // 4)

    def each(a: int, b: int) -> float:
        return (ended[b] - ended[a] - sum(steps[a + 1 : b + 1])) / (b - a)

    return {"all": each(0, last), "first": each(0, size), "last": each(last - size, last)}


def run_case(case: Case) -> dict[str, object]:
    """Run a case from nothing and read off what it left."""
    folder = empty_folder(WORK / case.label.replace(" ", "-"))
    space = small_space(folder, "growth", case.conditions, SPACE.format(test=case.rows // 4, **case._asdict()))
    run = RunDir(folder / "run")
    stage = "predict" if case.real else "train"
    only = f"0-{case.conditions - 1}"
    command = [*WLSWEEP, "run", str(space), "--out", str(run.root), "--stage", stage, "--only", only]
    began = time.perf_counter()
    if case.nodes:
        with cluster(case.nodes) as joined:
            started = time.perf_counter() - began
            hook = {} if case.real else {"RAY_RUNTIME_ENV_HOOK": "bench.trivial.everywhere"}
            wall = timed(command, folder / "log", {**joined, **hook})
    else:
        started, wall = 0.0, timed(command, folder / "log")
    # Each group's first condition waits for the group's start, which is another matter.
    names = [c.name for c in load_sweep(space).conditions[case.groups : case.conditions]]
    ended = sorted((run.trained(n).stat().st_mtime, n) for n in names)
    steps = [float(read_json(run.trained(n))["seconds"]["steps"]) for _, n in ended]
    found = {
        **case._asdict(),
        "seconds": wall,
        "cluster_seconds": started,
        "stages": read_json(run.logs / "seconds.json"),
        "steps_each": sum(steps) / len(steps),
        "train": quarters([t for t, _ in ended], steps),
    }
    if case.real:
        files = sorted(run.prediction(n).stat().st_mtime for n in names)
        found["predict"] = quarters(files, [0.0] * len(files))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="19,76,304,rows,nodes,simulated")
    parser.add_argument("--nodes", type=int, default=64, help="nodes of the simulated cluster")
    parser.add_argument("--many", type=int, default=1_000, help="conditions there")
    parser.add_argument("--groups", type=int, default=1, help="groups of two ranks there")
    arguments = parser.parse_args()
    n = arguments.nodes
    known = {
        "19": [Case("19 conditions")],
        "76": [Case("76 conditions", 76)],
        "304": [Case("304 conditions", 304)],
        "rows": [Case("rows x4", rows=1_024)],
        "nodes": [
            Case("1 node", 8, workers=4, nodes=(5,)),
            Case("2 nodes", 8, workers=4, nodes=(3, 2)),
            Case("4 nodes", 8, workers=4, nodes=(2, 1, 1, 1)),
        ],
        "simulated": [
            Case(f"{n} simulated nodes", arguments.many, groups=arguments.groups, nodes=(2,) * n, real=False)
        ],
    }
    results = [run_case(case) for key in arguments.cases.split(",") for case in known[key]]
    publish(
        "growth",
        "Overhead of a condition, seconds: over all, in the first and in the last quarter of a run (trivial conditions)",
        ("case", "conditions", "ranks", "groups", "command", "train", "first", "last", "predict", "first", "last"),
        [
            (
                str(r["label"]),
                str(r["conditions"]),
                str(r["workers"]),
                str(r["groups"]),
                f"{r['seconds']:.0f}",
                *(
                    f"{r[k][part]:.3f}" if k in r else "-"
                    for k in ("train", "predict")
                    for part in ("all", "first", "last")
                ),
            )
            for r in results
        ],
        {"results": results},
    )


if __name__ == "__main__":
    main()
