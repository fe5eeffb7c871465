"""Time and memory of evaluate, forecast and report, each in a process of its own, over growing sweeps, and of the page.

    python -m bench.analysis                       # 19 conditions x 2,024 papers
    python -m bench.analysis 19x2024 75x5000 300x20000

Seconds are wall clock and CPU time of the whole process, imports included; a browser's CPU time is not in it. Memory is
its peak resident set. "both" is `wlsweep report` of what nobody evaluated yet, which evaluates while the browser starts, as
the end of a sweep does; then each alone. The page is opened in a browser with an empty cache: when
it first shows something, when it has loaded, when the first and the last figure are drawn. Made predictions: the work
does not depend on what the numbers are.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

from bench.results import measured
from tests.made_run import THE_19, make_run
from tests.report.browser import browser, tab

_REPORT = """
from wlsweep.report.png import Renderer
with Renderer() as renderer:
    from wlsweep.analysis.evaluate import up_to_date
    from wlsweep.report.page import write_report
    write_report(run, up_to_date(run), renderer)
"""
STAGES = {
    "both": _REPORT,  # nothing is evaluated yet
    "evaluate": "from wlsweep.analysis.evaluate import evaluate; evaluate(run)",
    "page": "from wlsweep.analysis.evaluate import up_to_date; from wlsweep.report.page import write_report;"
    " write_report(run, up_to_date(run))",
    "report": _REPORT,
    "forecast": "from wlsweep.analysis.forecast import forecast_run; forecast_run(run).text()",
}


def names(count: int) -> list[str]:
    """The 19, then more gammas and proportions until there are `count` conditions."""
    more = (
        f"{v}_gamma{g / 10:.1f}_prop1_{k}"
        for g, k, v in itertools.product(range(11, 200), (2, 3, 4, 8), ("accept", "reject"))
    )
    return list(itertools.islice(dict.fromkeys([*THE_19, *more]), count))


def on_run(code: str, root: Path) -> str:
    """A stage as a program that works on a run."""
    return f"from pathlib import Path\nfrom wlsweep.run.layout import RunDir\nrun = RunDir(Path({str(root)!r}))\n{code}"


def main(sizes: list[str]) -> None:
    results: list[dict[str, object]] = []
    for size in sizes or ["19x2024"]:
        conditions, rows = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            run = make_run(Path(folder) / "run", names(conditions), n=rows)
            walls = {}
            for stage, code in STAGES.items():
                walls[stage], cpu, memory = measured(on_run(code, run.root))
                print(f"{size:>10} {stage:9} {walls[stage]:6.1f} s {cpu:6.1f} CPU-s {memory:7.0f} MiB", flush=True)
                results.append(
                    {"size": size, "stage": stage, "seconds": walls[stage], "cpu_seconds": cpu, "peak_mib": memory}
                )
            two = walls["evaluate"] + walls["report"]
            print(f"{size:>10} evaluate and report: {walls['both']:.1f} s as one command, {two:.1f} s as two")
            if path := browser():
                with tab(path) as opened:
                    shown = opened.open(run.report)
                told = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in shown.items())
                print(f"{size:>10} opening   {told}; {run.report.stat().st_size / 2**20:.1f} MiB")
                results.append({"size": size, "stage": "opening", **shown})
    print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg()[0], "results": results}))


if __name__ == "__main__":
    main(sys.argv[1:])
