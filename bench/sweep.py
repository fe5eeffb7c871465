"""A whole sweep from nothing: wall time of the command and its stages, peak memory, first step, overhead of a condition.

    python -m bench.sweep                                   # the 19 demo conditions, as `make sweep` runs them
    python -m bench.sweep search_spaces/demo.toml --only 0-2 --limit 200

Nothing is cached: the folder runs/bench/sweep is deleted first, tiny base model and token tables included. What follows
the search space is handed to `wlsweep run`. Then its first condition is trained once more in another folder, which finds the
base model cached as every later sweep does.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import threading
import time
from collections import Counter
from statistics import median
from types import TracebackType

import psutil

from bench.results import BENCH, WLSWEEP, publish
from wlsweep.run.layout import RunDir, read_json

GOAL_S, GOAL_GB, GOAL_FIRST_S = 300, 6.0, 20
EVERY_S = 2.0
"""Between two samples of memory: reading them costs the kernel a walk over every page table. A shorter peak is missed."""
KINDS = {
    "ray::_RayTrainWorker": "training workers",
    "ray::RayTrainWorker": "training workers",
    "Predictor": "vLLM engines",
    "ray::ImplicitFunc": "trial processes",
    "ray::": "other Ray actors and tasks",
    "/ray/": "Ray's own processes",
    "kaleido": "renderer of PNGs",
    "": "driver",
}
"""What a process is, by what its command line holds; the first that fits."""


def tree_pss(root: int) -> Counter[str]:
    """MiB by kind of process, of `root` and all that descends from it: proportional set sizes, a shared page counts once."""
    found: Counter[str] = Counter()
    try:
        processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in processes:
        try:
            line = " ".join(process.cmdline())
            kind = next(kind for sign, kind in KINDS.items() if sign in line)
            found[kind] += process.memory_full_info().pss / 2**20
        except psutil.Error:
            continue  # it ended meanwhile
    return found


class Watch:
    """Samples the memory of a process tree in a thread for the length of a block: its peak, and what held it then."""

    def __init__(self, root: int) -> None:
        self.root, self.peak_mib, self.parts = root, 0.0, Counter[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(EVERY_S):
            parts = tree_pss(self.root)
            if parts.total() > self.peak_mib:
                self.peak_mib, self.parts = parts.total(), parts

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


def first_step(process: subprocess.Popen, run: RunDir, began: float) -> float:
    """Seconds from the command's start to the first line of a metric log, a few optimizer steps after the very first.

    Returns when the command has ended.
    """
    first = 0.0
    while process.poll() is None:
        if not first and any(log.stat().st_size for log in run.root.glob("conditions/*/metrics.jsonl")):
            first = time.perf_counter() - began
        time.sleep(0.05)
    return first


def overhead(run: RunDir) -> tuple[list[float], list[float]]:
    """Seconds that each condition but the first cost beside its optimizer steps, and those of its steps.

    From one condition's end to the next one's, less its steps: taking it from the queue, building the engine, the proof,
    export, record.
    """
    ended = sorted((p.stat().st_mtime, p) for p in run.root.glob("conditions/*/trained.json"))
    steps = [float(read_json(p)["seconds"]["steps"]) for _, p in ended[1:]]
    apart = [now - before for (before, _), (now, _) in itertools.pairwise(ended)]
    return [a - s for a, s in zip(apart, steps, strict=True)], steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", default="search_spaces/demo.toml")
    arguments, more = parser.parse_known_args()
    run = RunDir(BENCH / "sweep" / "demo")
    shutil.rmtree(run.root.parent, ignore_errors=True)
    began = time.perf_counter()
    with subprocess.Popen([*WLSWEEP, "run", arguments.sweep, "--out", str(run.root), *more]) as process:
        with Watch(process.pid) as watch:
            first = first_step(process, run, began)
        wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"the sweep ended with {process.returncode}; see {run.logs}")
    again, began = RunDir(run.root.parent / "again"), time.perf_counter()
    command = [*WLSWEEP, "run", arguments.sweep, "--out", str(again.root), *more, "--only", "0", "--stage", "train"]
    with subprocess.Popen(command) as process:
        first_cached = first_step(process, again, began)
    if process.returncode:
        raise SystemExit(f"training one condition again ended with {process.returncode}; see {again.logs}")
    stages = {k: v for k, v in read_json(run.logs / "seconds.json").items() if k != "all"}
    conditions = len(list(run.root.glob("conditions/*/trained.json")))
    rows = [(name, f"{s:.1f}", f"{s / wall:.0%}") for name, s in stages.items()]
    rows += [("start and end", f"{wall - sum(stages.values()):.1f}", f"{1 - sum(stages.values()) / wall:.0%}")]
    rows += [("whole command", f"{wall:.1f}", f"goal {GOAL_S}")]
    publish(
        "sweep",
        f"{arguments.sweep}, {conditions} conditions, nothing cached",
        ("stage", "seconds", "share"),
        rows,
        {"conditions": conditions, "seconds": wall, "stages": stages, "goal_s": GOAL_S},
    )
    beside, steps = overhead(run)
    if beside:
        publish(
            "overhead",
            "A condition beside its optimizer steps, seconds",
            ("", "median", "largest"),
            [(what, f"{median(s):.2f}", f"{max(s):.2f}") for what, s in (("overhead", beside), ("steps", steps))],
            {"overhead_s": beside, "steps_s": steps},
        )
    publish(
        "first_step",
        "From the command to the first lines of a metric log",
        ("base model", "seconds", "goal"),
        [("to be made", f"{first:.1f}", ""), ("cached", f"{first_cached:.1f}", f"{GOAL_FIRST_S}")],
        {"seconds": first, "seconds_cached": first_cached, "goal_s": GOAL_FIRST_S},
    )
    mib = watch.peak_mib
    publish(
        "memory",
        "The same run's peak memory, sum of proportional set sizes",
        ("what held it at the peak", "MiB", "share"),
        [(k, f"{v:.0f}", f"{v / mib:.0%}") for k, v in watch.parts.most_common()]
        + [("together", f"{mib:.0f}", f"{mib * 2**20 / 1e9:.2f} GB, goal {GOAL_GB:g}")],
        {"conditions": conditions, "peak_mib": mib, "parts_mib": dict(watch.parts), "goal_gb": GOAL_GB},
    )


if __name__ == "__main__":
    main()
