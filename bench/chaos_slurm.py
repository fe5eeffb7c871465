"""Chaos on a throw-away SLURM: random faults in the nodes of a job, which comes back by itself or when submitted again.

    python -m bench.chaos_slurm --kills 10 --seed 1 [--out runs/chaos_slurm]      # as root, with SLURM's packages

Faults: a signal to a random process of the job (batch script's Python, Ray, workers, engine), SIGSTOP of slurmd or slurmctld
for a while, a node that loses its power and is started again.
"""

from __future__ import annotations

import argparse
import json
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

from bench.chaos import PAUSE_S, WRONG, Fault, _command, _signal, bits_of, files_left, kind_of, summary
from tests.slurm.lab import ENDED, Lab, why_not

ROOT = Path(__file__).parents[1]
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
        began, faults, codes, hangs = time.monotonic(), list[Fault](), list[str](), 0
        for attempt in range(2 * SUBMISSIONS):
            code, met = self._job(name, self._moments(seconds) if attempt < SUBMISSIONS - 1 else [])
            faults += met
            codes.append(code)
            hangs += code == "hang"
            if code == "COMPLETED":
                break
        lost, got = time.monotonic() - began - seconds, bits_of(self.run_of(name))
        time.sleep(10)
        left = {k for node in self._nodes() for k, _ in self._processes(node)}
        return {
            "sweep": name, "faults": [f._asdict() for f in faults], "launches": len(codes), "codes": codes,
            "seconds_lost": round(lost, 1), "hangs": hangs, "processes_left": sorted(left),
            "different": sorted(k for k in want.keys() | got.keys() if want.get(k) != got.get(k)),
            "files_left": files_left(self.run_of(name)), "unexplained": self._unexplained(name),
        }  # fmt: skip

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
        try:
            found = psutil.Process(self.lab.first[node]).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        living = [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        named = [(kind_of(_command(p)), p) for p in living]
        return [(k, p) for k, p in named if k not in SERVICES and not k.startswith("slurm")]

    def _moments(self, seconds: float) -> list[float]:
        """When a submission meets its faults, in seconds since it was made."""
        moments = [self.rng.uniform(0.1, 0.8) * seconds]
        while len(moments) < FAULTS:
            moments.append(moments[-1] + self.rng.expovariate(1 / (GAP * seconds)))
        return moments

    def _job(self, name: str, moments: list[float]) -> tuple[str, list[Fault]]:
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
            due = bool(moments) and now > moments[0] and state == "RUNNING"
            if due and (fault := self._fault(now)):  # else there is nobody to meet it yet
                moments.pop(0)
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
    """Run sweeps until so many faults were met; 1 if one ended wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "chaos_slurm")
    a = parser.parse_args()
    if cause := why_not():
        print(f"no test SLURM here: {cause}")
        return 2
    a.out.mkdir(parents=True, exist_ok=True)
    began, mine, lab = time.monotonic(), [], Lab()
    try:
        sweeps = SlurmSweeps(lab.up(), a.seed)
        want, seconds = sweeps.reference()
        print(f"an undisturbed job takes {seconds:.0f} s", flush=True)
        while sum(len(r["faults"]) for r in mine) < a.kills and time.monotonic() - began < 60 * a.minutes:
            mine.append(sweeps.sweep(len(mine), want, seconds))
            with (a.out / "results.jsonl").open("a") as f:
                f.write(json.dumps(mine[-1]) + "\n")
            print(json.dumps({k: v for k, v in mine[-1].items() if k != "faults"}), flush=True)
    finally:
        lab.down()
    print(summary(mine))
    return int(any(r[k] for r in mine for k in WRONG))


if __name__ == "__main__":
    sys.exit(main())
