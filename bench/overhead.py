"""What a condition costs beside its optimizer steps, read off a finished run: python -m bench.overhead RUN

From one condition's end to the next one's end on the same group, less the seconds of its optimizer steps: taking it from
the queue, building the engine, the proof, export, record. Conditions that followed a pause (a restart of the run, a new
group) would count the pause; the median does not care.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

from wlsweep.run.layout import existing_run, read_json


def main() -> None:
    """Print the median, the largest, and their share of the training time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = existing_run(parser.parse_args().run)
    names = [c["name"] for c in read_json(run.sweep_json)["conditions"]]
    ended = sorted((run.trained(n).stat().st_mtime, n) for n in names if run.trained(n).exists())
    if len(ended) < 3:
        raise SystemExit(f"{run.root} has {len(ended)} trained conditions; at least 3 are needed")
    steps = {n: float(read_json(run.trained(n))["seconds"]["steps"]) for _, n in ended}
    overhead = [now - before - steps[n] for (before, _), (now, n) in itertools.pairwise(ended)]
    median, in_steps = statistics.median(overhead), statistics.median(steps.values())
    print(f"{'conditions':>10} {'steps, s':>9} {'overhead, s':>12} {'largest, s':>11} {'share':>6}")
    print(f"{len(ended):10} {in_steps:9.2f} {median:12.2f} {max(overhead):11.2f} {median / (median + in_steps):6.1%}")
    print(json.dumps({"bench": "overhead", "overhead_s": overhead, "steps_s": list(steps.values())}))


if __name__ == "__main__":
    main()
