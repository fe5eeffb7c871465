"""A sweep of 1,000 conditions on 64 nodes: what it asks of a shared file system, what its driver and its page cost.

    python -m bench.scale                          # 1,000 conditions, 64 groups
    python -m bench.scale --parts driver,readers   # some parts (driver, parts, group, readers, page)

System calls are counted by strace (`bench/syscalls.py` says which, and what that misses), not simulated:

driver   the product's driver with 1,000 conditions. Its stages are functions that write what finished trainings and
         predictions leave; what they ask is not counted. Once, half-way, nothing happens for a while: that is what a driver
         asks a second while conditions train for hours.
parts    what a group's processes ask while a step takes long, without a group: the lease, the accounts of its ranks, the
         mailbox's connection and the metric log of the product, in one process that trains nothing.
group    a real sweep of one condition on one group of two ranks. After its first logged step everything is counted that is
         asked of the run directory, by the driver and by all others. What the others ask, times the groups, and the
         driver's share is the rate of the whole sweep. Then one of short conditions, for what each asks beside that.
readers  `status`, trackers, and an engine that waits for a model, on a run of 1,000 conditions.
page     CPU seconds of evaluation and report of 1,000 conditions, and the page's size.

Rates are of a sweep that trains. What a condition asks at its beginning and its end is a number of its own. All groups are
taken to begin at the same moment, when accounts are written most often.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from bench.analysis import STAGES, names, on_run
from bench.results import BENCH, WLSWEEP, empty_folder, measured, publish, small_space
from bench.syscalls import MARK, Asked, attached, family, mark, read, threads, traced
from tests.made_run import make_run
from tests.orchestrate.fakes import FakeStages, write_data, write_trained
from wlsweep.orchestrate.capacity import Capacity
from wlsweep.orchestrate.driver import Driver, new_launch
from wlsweep.orchestrate.launch import Launch
from wlsweep.orchestrate.mailbox import Assignment, GroupMailbox, GroupMember, MailboxServer
from wlsweep.orchestrate.stages import Stages
from wlsweep.run.layout import RunDir
from wlsweep.run.lease import hold
from wlsweep.run.usage_meter import UsageMeter
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import load_sweep

WORK = BENCH / "scale"
SHORT = 5
"""Short conditions whose beginnings and ends are counted."""
GOAL = 2.0
"""Operations a second of the whole sweep."""
SPACE = """
[data.synthetic]
train_rows = 960
test_rows = 80
[train]
epochs = {epochs}
global_batch = 16
"""


KINDS = {
    r"^\.(stop|training|all-begun)-": "marks of a launch",
    r"lease": "leases",
    r"^usage\b": "accounts of usage",
    r"^logs/ray\b": "Ray's own files",
    r"^logs\b": "logs",
    r"/checkpoints\b": "checkpoints",
    r"/model\b": "models",
    r"^conditions\b": "records of conditions",
    r"^predictions\b": "predictions",
    r"^tracking\b": "trackers",
    r"": "records of the run",
}
"""What an operation was about, by its path; the first that fits."""


def by_kind(asked: Sequence[Asked]) -> Counter[str]:
    """How many operations were about what."""
    paths = (o.path for o in asked if not o.path.startswith(MARK))
    return Counter(next(what for pattern, what in KINDS.items() if re.search(pattern, path)) for path in paths)


class Played(FakeStages):
    """Stages that take no time: what they write is left by hand, and hidden from the count."""

    def __init__(self, sweep: Any, groups: int, idle_s: float) -> None:
        super().__init__()
        self.sweep, self.groups, self.idle_s = sweep, groups, idle_s
        self.hidden_s = 0.0
        """CPU time of what is not the driver's work."""

    @contextmanager
    def hidden(self) -> Iterator[None]:
        mark("hide")
        began = time.thread_time()
        try:
            yield
        finally:
            self.hidden_s += time.thread_time() - began
            mark("show")

    def stages(self) -> Stages:
        return replace(super().stages(), prepare=self.prepare, connect=lambda launch: Capacity(self.groups, 0))

    def prepare(self, launch: Launch, base: str, note: Any) -> None:
        with self.hidden():
            write_data(launch.run)

    def train(self, launch: Launch, base: str, conditions: Any, groups: int, on_trial: Any) -> None:
        fingerprint = self.sweep.fingerprint()
        for at in range(0, len(conditions), groups):
            some = [c.name for c in conditions[at : at + groups]]
            for name in some:
                on_trial(name, {"state": "running", "step": 0})
            for step, name in itertools.product(range(10, 60, 10), some):
                on_trial(name, {"state": "running", "step": step, "of": 50})
            if at <= len(conditions) // 2 < at + groups:
                mark("idle")
                time.sleep(self.idle_s)
                mark("busy")
            for name in some:
                with self.hidden():
                    write_trained(launch.run, name, fingerprint=fingerprint)
                on_trial(name, {"state": "done", "step": 50, "of": 50})

    def predict(self, launch: Launch, names: Sequence[str], engines: int, training: Any, late: bool) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from tests.made_run import write_predictions

        with self.hidden():
            import numpy as np

            first = pq.read_table(write_predictions(launch.run, names[0], np.zeros(20)))
            column = first.schema.get_field_index("model_fingerprint")
        for name in names:
            with self.hidden():
                table = first.set_column(column, "model_fingerprint", pa.array([name[:16]] * len(first)))
                (folder := launch.run.prediction(name)).mkdir(parents=True, exist_ok=True)
                pq.write_table(table, folder / "part-0.parquet")
            yield {"condition": name, "cause": ""}


def play(folder: str, conditions: int, groups: int, idle_s: float) -> None:
    """What is traced in the part "driver": a launch from nothing; prints its CPU seconds."""
    root = Path(folder)
    sweep = load_sweep(small_space(root.parent, "scale", conditions, SPACE.format(epochs=200)))
    root.mkdir(parents=True)
    played = Played(sweep, groups, idle_s)
    launch = new_launch(
        sweep, RunDir(root), f"0-{conditions - 1}", "predict", "wlsweep run x", Console(file=StringIO())
    )
    driver = Driver(launch, played.stages(), closing=False)
    began = time.process_time()
    code = driver.go()
    print(json.dumps({"code": code, "cpu_s": time.process_time() - began - played.hidden_s, "stages": driver.seconds}))


def shown(asked: Sequence[Asked]) -> Iterator[Asked]:
    """Operations without those of threads that were hidden at that time, and without the marks that say so."""
    hidden: set[int] = set()
    for one in asked:
        if one.path.startswith(MARK):
            if one.path.endswith("/hide"):
                hidden.add(one.thread)
            elif one.path.endswith("/show"):
                hidden.discard(one.thread)
            else:
                yield one
        elif one.thread not in hidden:
            yield one


def between(asked: Sequence[Asked], begin: str, end: str) -> tuple[list[Asked], float]:
    """Operations between two marks, and the seconds between these."""
    (first,) = [o.at for o in asked if o.path == f"{MARK}/{begin}"]
    (last,) = [o.at for o in asked if o.path == f"{MARK}/{end}"]
    return [o for o in asked if first < o.at < last and not o.path.startswith(MARK)], last - first


def traced_call(folder: Path, function: Callable[..., None], *arguments: float) -> tuple[str, list[Asked]]:
    """Call a function of this module with a run directory in `folder`, traced: what it prints, and what it asks there."""
    run, log, name = folder / "run", folder / "trace", function.__name__
    code = f"from bench.scale import {name}; {name}{(str(run), *arguments)}"
    said = traced([sys.executable, "-c", code], log)
    return said, list(read(log, run))


def keep_busy(root: str, ranks: int, seconds: float) -> None:
    """What is traced in the part "parts"."""
    run, name = RunDir(Path(root)), "accept_gamma2.0_prop1_2"
    run.condition(name).mkdir(parents=True)
    box = GroupMailbox(max_retries=0)
    server = MailboxServer(box, "127.0.0.1")
    box.assign(Assignment(None, parse_name(name), root, "", "bench"))
    member = GroupMember(server.address, "node")
    member.take()
    meters = [UsageMeter(run.usage, "group", "train", gpus=1, cpus=8, rank=rank) for rank in range(ranks)]
    with ExitStack() as stack:
        stack.enter_context(hold(run.lease(name), "bench"))
        for meter in meters:
            stack.enter_context(meter.during("work", [name], 1))
        log = stack.enter_context(run.metric_log(name).open("a"))
        time.sleep(2)
        mark("begin")
        end = time.monotonic() + seconds
        while time.monotonic() < end and not member.asked_to_stop():
            time.sleep(0.5)
            log.write("{}\n")
            log.flush()
        mark("end")
    member.leave()


def parts_part(groups: int, ranks: int, seconds: float) -> None:
    """Count what the parts of a group ask that go on while it trains."""
    _, every = traced_call(empty_folder(WORK / "parts"), keep_busy, ranks, seconds)
    asked, length = between(every, "begin", "end")
    a_minute = {k: 60 * n / length for k, n in by_kind(asked).items()}
    later = [o for o in asked if o.at > asked[-1].at - length / 2]
    found = {
        "seconds": length,
        "a_minute": a_minute,
        "groups": groups,
        "ranks": ranks,
        "sweep_a_second": groups * sum(a_minute.values()) / 60,
        "sweep_a_second_later": groups * len(later) / (length / 2),
        "calls": dict(Counter(o.call for o in asked)),
    }
    publish(
        "scale_parts",
        f"The parts of a group of {ranks} ranks that ask while it trains, for {length:.0f} s: operations",
        ("about", "a minute", f"{groups} groups, a second"),
        [(k, f"{v:.2f}", f"{groups * v / 60:.2f}") for k, v in a_minute.items()]
        + [
            ("together", f"{sum(a_minute.values()):.2f}", f"{found['sweep_a_second']:.2f}, goal {GOAL:g}"),
            ("in the second half", "", f"{found['sweep_a_second_later']:.2f}"),
        ],
        found,
    )


def driver_part(conditions: int, groups: int, idle_s: float) -> None:
    """Count what a driver asks over 1,000 conditions, and while it waits."""
    folder = empty_folder(WORK / "driver")
    printed, all_asked = traced_call(folder, play, conditions, groups, idle_s)
    said, asked = json.loads(printed), list(shown(all_asked))
    idle, seconds = between(asked, "idle", "busy")
    every = by_kind(asked)
    found = {
        "idle_a_second": len(idle) / seconds,
        "idle_by": {k: n / seconds for k, n in by_kind(idle).items()},
        "a_condition": (sum(every.values()) - len(idle)) / conditions,
        "by": dict(every),
        "cpu_s": said["cpu_s"],
        "stages": said["stages"],
        "files": sum(1 for p in (folder / "run").rglob("*") if p.is_file()),
    }
    publish(
        "scale_driver",
        f"The driver of {conditions:,} conditions on {groups} groups: operations",
        ("about", "in all", "a second while it waits"),
        [(k, f"{n}", f"{found['idle_by'].get(k, 0):.2f}") for k, n in every.most_common()]
        + [
            ("together", f"{sum(every.values())}", f"{found['idle_a_second']:.2f}"),
            ("a condition", f"{found['a_condition']:.1f}", ""),
            ("CPU seconds", f"{found['cpu_s']:.1f}", ""),
        ],
        found,
    )


def group_part(groups: int, seconds: float) -> None:
    """Count what a real group asks while it trains, and for each condition that it begins and ends."""
    steady, length = watch_group(WORK / "groups" / "long", 1, 4000, lambda run: time.sleep(seconds))
    begun_and_ended, more = watch_group(WORK / "groups" / "short", SHORT, 2, trained_all)
    own, rest = ([o for o in steady if o.first is first] for first in (True, False))
    rate = {k: 60 * n / length for k, n in by_kind(rest).items()}
    driver = {k: 60 * n / length for k, n in by_kind(own).items()}
    each = {
        k: (n - more / 60 * rate.get(k, 0)) / (SHORT - 1)
        for k, n in by_kind([o for o in begun_and_ended if not o.first]).items()
    }
    table = pd.DataFrame({"driver": driver, "group": rate, "condition": each}).fillna(0).sort_index()
    table["sweep"] = (table["driver"] + groups * table["group"]) / 60
    table.loc["together"] = table.sum()
    cells = [
        (k, f"{r.driver:.1f}", f"{r.group:.1f}", f"{r.sweep:.2f}", f"{r.condition:.0f}") for k, r in table.iterrows()
    ]
    cells[-1] = (*cells[-1][:3], f"{cells[-1][3]}, goal {GOAL:g}", cells[-1][4])
    publish(
        "scale_group",
        f"A group of two ranks that trains, watched for {length:.0f} s, and its driver: operations",
        ("about", "driver, a minute", "group, a minute", f"{groups} groups, a second", "group, a condition"),
        cells,
        {
            "seconds": length,
            "driver_a_minute": driver,
            "group_a_minute": rate,
            "sweep_a_second": float(table.at["together", "sweep"]),
            "group_a_condition": each,
        },
    )


def trained_all(run: RunDir) -> None:
    """Wait for the end of all conditions."""
    while len(list(run.root.glob("conditions/*/trained.json"))) < SHORT:
        time.sleep(0.2)


def watch_group(root: Path, conditions: int, epochs: int, until: Callable[[RunDir], None]) -> tuple[list[Asked], float]:
    """Train conditions, and return what is asked from the first's first logged step, or its end, until some time."""
    run, folder = RunDir(empty_folder(root).resolve()), root.parent  # which keeps the base model
    toml = small_space(folder, "scale", 4 * conditions, SPACE.format(epochs=epochs))
    command = [*WLSWEEP, "run", str(toml), "--out", str(run.root), "--only", "*_prop1_2*", "--stage", "train"]
    begun = "conditions/*/metrics.jsonl" if conditions == 1 else "conditions/*/trained.json"
    with (folder / "log").open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        while not any(p.stat().st_size for p in run.root.glob(begun)):
            if process.poll() is not None:
                raise SystemExit(f"the sweep ended with {process.returncode}; see {folder / 'log'}")
            time.sleep(0.2)
        supervisor, driver, *others = family(process.pid)
        own, log, began = threads(supervisor) | threads(driver), folder / "trace", time.time()
        with attached([supervisor, driver, *others], log):
            until(run)
        ended = time.time()
        if conditions == 1:
            process.terminate()
        code = process.wait(timeout=600)
    saved = list(run.root.glob("conditions/*/checkpoints/step_*"))
    if (code, bool(saved)) not in ((0, False), (75, True)):
        raise SystemExit(f"the sweep ended with {code} and {len(saved)} checkpoints; see {folder / 'log'}")
    return [o for o in read(log, run.root, own) if began < o.at < ended], ended - began


def readers_part(conditions: int) -> None:
    """Count what each look of those who read a run directory asks."""
    folder = empty_folder(WORK / "readers")
    make_run(folder / "run", names(conditions), n=20, steps=4)
    _, asked = traced_call(folder, look)
    found: dict[str, Any] = {}
    for what in READERS:
        some, seconds = between(asked, f"{what}-begin", f"{what}-end")
        found[what] = {"operations": len(some), "seconds": seconds, "by": dict(by_kind(some))}
    publish(
        "scale_readers",
        f"Readers of a run of {conditions:,} conditions: operations",
        ("reader", "operations", "most of them about"),
        [
            (k, f"{v['operations']}", ", ".join(f"{n} {w}" for w, n in Counter(v["by"]).most_common(2)))
            for k, v in found.items()
        ],
        found,
    )


READERS = ("status", "status again", "tracker, first look", "tracker, later look", "engine that waits a minute")


def look(folder: str) -> None:
    """What is traced in the part "readers"."""
    import threading
    from unittest.mock import Mock

    from wlsweep.predict.waiting import ModelWait
    from wlsweep.run.status import RunStatus
    from wlsweep.run.status_table import status_table
    from wlsweep.track.clients import CLIENTS
    from wlsweep.track.follow import Follower

    root, nowhere = Path(folder), Mock(**{"begin.side_effect": lambda name, config, id_: name})
    run = RunDir(root)
    conditions = RunStatus(run).conditions

    def waits() -> None:
        training = root / ".training-bench"
        training.touch()
        threading.Timer(60, training.unlink).start()
        ModelWait(str(root), [c.name for c in conditions], training, False)("baseline_gamma1.0_prop1_2_seed9")

    CLIENTS["tensorboard"] = lambda run, sweep: nowhere
    follower = Follower(run, ["tensorboard"])
    sys.stdout = StringIO()

    def status() -> None:
        status_table(RunStatus(run))

    for what, act in zip(READERS, (status, status, follower.send, follower.send, waits), strict=True):
        mark(f"{what}-begin")
        act()
        mark(f"{what}-end")


def page_part(conditions: int) -> None:
    """CPU seconds of evaluation and page, and the page's size."""
    run = make_run(empty_folder(WORK / "page") / "run", names(conditions), n=2_024)
    found: dict[str, Any] = {}
    for stage in ("evaluate", "page"):
        _, found[f"{stage}_cpu_s"], found[f"{stage}_mib"] = measured(on_run(STAGES[stage], run.root))
    found["page_mb"] = run.report.stat().st_size / 1e6
    found["metrics_mb"] = sum(p.stat().st_size for p in run.metrics_json.parent.iterdir()) / 1e6
    publish(
        "scale_page",
        f"Evaluation and page of {conditions:,} conditions on 2,024 papers",
        ("what", "figure"),
        [(k, f"{v:.1f}") for k, v in found.items()],
        found,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="driver,parts,group,readers,page")
    parser.add_argument("--conditions", type=int, default=1_000)
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=8, help="ranks of a group in the part `parts`")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long a group or its parts are watched")
    parser.add_argument("--idle", type=float, default=30.0, help="how long the driver waits")
    given = parser.parse_args()
    parts = {
        "driver": lambda: driver_part(given.conditions, given.groups, given.idle),
        "parts": lambda: parts_part(given.groups, given.ranks, given.seconds),
        "group": lambda: group_part(given.groups, given.seconds),
        "readers": lambda: readers_part(given.conditions),
        "page": lambda: page_part(given.conditions),
    }
    for part in given.parts.split(","):
        parts[part]()


if __name__ == "__main__":
    main()
