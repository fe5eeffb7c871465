"""A whole sweep from nothing: wall time of the command and of each stage, and peak memory of everything it starts.

    python -m bench.sweep                                   # the 19 demo conditions, as `make sweep` runs them
    python -m bench.sweep search_spaces/demo.toml --only 0-2 --limit 200

Nothing is cached: the folder runs/bench/sweep is deleted first, tiny base model and token tables included. What follows
the search space is handed to `wlsweep run`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time

from bench.memory import Watch
from bench.results import BENCH, WLSWEEP, publish
from wlsweep.paths import RunDir, read_json

GOAL_S, GOAL_GB = 300, 6.0


def main() -> None:
    """Run, then print one line a stage and the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", default="search_spaces/demo.toml")
    arguments, more = parser.parse_known_args()
    run = RunDir(BENCH / "sweep" / "demo")
    shutil.rmtree(run.root.parent, ignore_errors=True)
    began = time.perf_counter()
    with subprocess.Popen([*WLSWEEP, "run", arguments.sweep, "--out", str(run.root), *more]) as process:
        with Watch(process.pid) as watch:
            code = process.wait()
        wall = time.perf_counter() - began
    if code:
        raise SystemExit(f"the sweep ended with {code}; see {run.logs}")
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
