"""Chaos on a throw-away SLURM: random faults in the nodes of a job, which comes back by itself or when submitted again.

    python -m bench.chaos_slurm --kills 10 --seed 1 [--out runs/chaos_slurm]      # as root, with SLURM's packages

Faults: a signal to a random process of the job (batch script's Python, Ray, workers, engine), SIGSTOP of slurmd or slurmctld
for a while, a node that loses its power and is started again.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from bench.chaos import PAUSE_S, Fault, _command, _signal, bits_of, kind_of, moments, options, outcome, run_all, tree_of
from tests.slurm.lab import ENDED, Lab, why_not

FAULTS = 4
"""Most faults of one submission."""
GAP = 0.3
"""Mean time between two faults, in lengths of an undisturbed job."""
SUBMISSIONS = 3
"""The last submission of a sweep is left alone."""
HANG_S = 900.0
"""A job that neither ends nor comes back for so long after its last fault hangs."""
SERVICES = ("munged", "slurmctld", "slurmd", "bash", "sleep", "unshare", "sh")


class SlurmSweeps:
    """Runs and disturbs jobs on a test cluster."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab, self.seed, self.rng = lab, seed, random.Random(seed)

    def run_of(self, name: str) -> Path:
        """A run directory on the shared file system."""
        return self.lab.home() / "runs" / name

    def reference(self) -> tuple[dict[str, str], float]:
        """Bits and seconds of an undisturbed job."""
        self._job("reference", [])
        began = time.monotonic()
        shutil.rmtree(self.run_of("reference"))
        code, _ = self._job("reference", [])
        assert code == "COMPLETED", f"the undisturbed job ended as {code}"
        return bits_of(self.run_of("reference")), time.monotonic() - began

    def sweep(self, number: int, want: dict[str, str], seconds: float) -> dict[str, Any]:
        """One sweep with faults, submitted until a job completes; what happened."""
        name = f"chaos-{self.seed}-{number}"
        began, faults, codes = time.monotonic(), list[Fault](), list[int | str]()
        for attempt in range(2 * SUBMISSIONS):
            due: list[float] = []
            if attempt < SUBMISSIONS - 1:
                due = moments(self.rng, self.rng.uniform(0.1, 0.8) * seconds, GAP * seconds, FAULTS)
            code, met = self._job(name, due)
            faults += met
            codes.append(code)
            if code == "COMPLETED":
                break
        lost = time.monotonic() - began - seconds
        time.sleep(10)
        left = {k for node in self._nodes() for k, _ in self._processes(node)}
        found = outcome(self.run_of(name), faults, codes, lost, want, left)
        return found | {"unexplained": self._unexplained(name)}

    def _unexplained(self, name: str) -> list[str]:
        """Attempts whose sweep ended with exit code 1 and no reason."""
        logs = sorted(self.run_of(name).glob("logs/attempt_*/job.log"))
        told = {log.parent.name: log.read_text() for log in logs}
        odd = [at for at, text in told.items() if "exit code 1\n" in text]
        return [at for at in odd if not re.search("FAILED|error: |did not form|Ray ended", told[at])]

    def _nodes(self) -> list[str]:
        return [name for name in self.lab.first if name.startswith("node")]

    def _processes(self, node: str) -> list[tuple[str, psutil.Process]]:
        """The job's processes on a node, with their kinds."""
        named = [(kind_of(_command(p)), p) for p in tree_of(self.lab.first[node])]
        return [(k, p) for k, p in named if k not in SERVICES and not k.startswith("slurm")]

    def _job(self, name: str, when: list[float]) -> tuple[str, list[Fault]]:
        """Submit, disturb at these moments, and wait until the job has ended for good; returns its last state."""
        sweep = self.lab.variant(name, epochs=4)
        job = self.lab.submit(sweep, "--nodes", "2")
        began, met = time.monotonic(), list[Fault]()
        while True:
            time.sleep(1)
            now = time.monotonic() - began
            state = self.lab.job(job)["JobState"]
            if state in ENDED:
                return state, met
            due = bool(when) and now > when[0] and state == "RUNNING"
            if due and (fault := self._fault(now)):  # else there is nobody to meet it yet
                when.pop(0)
                met.append(fault)
                print(f"  {name}: {fault.what} to {fault.victim} after {now:.0f} s", flush=True)
            if now - (met[-1].after_s if met else 0) > HANG_S:
                self.lab.on("login", "scancel", str(job))
                self.lab.wait(job, 120)
                return "hang", met

    def _fault(self, now: float) -> Fault | None:
        what = self.rng.choices(["SIGKILL", "SIGTERM", "SIGSTOP", "power off", "service"], [8, 2, 2, 2, 1])[0]
        node = self.rng.choice(self._nodes())
        if what == "power off":
            self.power_cycle(node, self.rng.uniform(1, 20))
            return Fault(what, "node", now)
        if what == "service":
            machine, name = self.rng.choice([("login", "slurmctld"), (node, "slurmd")])
            tree = psutil.Process(self.lab.first[machine]).children(recursive=True)
            for process in tree:
                if process.name() == name:
                    _signal(process, signal.SIGSTOP)
                    time.sleep(8)  # SlurmdTimeout of the test cluster is 15 s
                    _signal(process, signal.SIGCONT)
                    return Fault("SIGSTOP", name, now)
            return None
        groups: dict[str, list[psutil.Process]] = defaultdict(list)
        for kind, process in self._processes(node):
            groups[kind].append(process)
        if not groups:
            return None
        victim = self.rng.choice(sorted(groups))
        process = self.rng.choice(groups[victim])
        _signal(process, getattr(signal, what))
        if what == "SIGSTOP":
            time.sleep(PAUSE_S)
            _signal(process, signal.SIGCONT)
        return Fault(what, victim, now)

    def power_cycle(self, node: str, off_s: float) -> None:
        """Power a node off, and on again after so many seconds."""
        self.lab.crash(node)
        for attempt in range(5):
            time.sleep(off_s if not attempt else 5)
            try:
                self.lab.boot(int(node.removeprefix("node")))
                return
            except (subprocess.CalledProcessError, AssertionError):  # the old network end is still there
                if attempt == 4:
                    raise
                if node in self.lab.first:
                    self.lab.crash(node)


def main() -> int:
    """Run sweeps on a test cluster of their own."""
    a = options(__doc__, 10, "chaos_slurm").parse_args()
    if cause := why_not():
        print(f"no test SLURM here: {cause}")
        return 2
    a.out.mkdir(parents=True, exist_ok=True)
    lab = Lab()
    try:
        return run_all(SlurmSweeps(lab.up(), a.seed), "job takes {}", a.out / "results.jsonl", a.kills, a.minutes)
    finally:
        lab.down()


if __name__ == "__main__":
    sys.exit(main())
