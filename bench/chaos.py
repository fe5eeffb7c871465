"""Random faults over small sweeps: every sweep must end, with the bits of an undisturbed one, and leave nothing behind.

    python -m bench.chaos --kills 20 --seed 1 [--out runs/chaos] [--minutes 30]
    python -m bench.chaos --summary [--out runs/chaos]

Each launch of a sweep meets up to eight faults: after a quiet time of random length, one every few seconds until it ends.
After five such launches one runs undisturbed. The next launch starts at once, while processes of the last may still end. A
fault is a signal (SIGKILL, SIGTERM, SIGINT, SIGSTOP for a while and SIGCONT) to a random kind of process of the launch's own
tree, a full disk that is freed again, a run directory in which nothing can be made or renamed for a while, or a launch
beside it. Disk faults need root (a loop-mounted file system). Results are added to `results.jsonl`, so that slices
with different seeds add up.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
SPACE = Path(__file__).with_name("chaos.toml")
HANG_S = 300.0
"""A launch that runs so long after its last fault does not end by itself (stall_minutes of the search space is 2)."""
FAULTS = 8
"""Most faults of one launch; after three to five of them it has met one that ends it."""
GAP = 0.1
"""Mean time between two faults, in lengths of an undisturbed sweep: long enough for the launch to take up its work again."""
LAUNCHES = 6
"""The last launch of a sweep is left alone."""
LEFT_S = 90
"""Ray's own processes notice a raylet that was killed or stopped by missed heartbeats, half a minute and more later."""
PAUSE_S = 30.0
"""How long a process is stopped."""
DISTURBED_S = 10.0
"""How long a disk is full or a run directory closed."""
DISK_MB = 256
"""Size of the file system that sweeps lie on."""
KINDS = (
    "gcs_server", "raylet", "dashboard/agent", "dashboard", "log_monitor", "runtime_env", "EngineCore", "RayTrainWorker",
    "MapWorker", "ImplicitFunc", "SynchronizationActor", "Autoscaling", "StatsActor", "orphans", "resource_tracker", "ray::",
    "wlsweep run",
)  # fmt: skip
"""Kinds of processes, by what their command line holds; the first that fits."""


WRONG = ("hangs", "different", "processes_left", "files_left", "unexplained")
"""What a sweep must not have met."""


class Fault(NamedTuple):
    """What was done to a launch."""

    what: str
    """SIGKILL, SIGTERM, ..., `disk full`, `closed directory`, `second launch`."""
    victim: str
    after_s: float
    """Since the launch began."""


def kind_of(command: str) -> str:
    """The kind of a process, from its command line or name."""
    kind = next((k for k in KINDS if k in command), command.split(" ")[0].rpartition("/")[2][:20])
    return "driver" if kind == "wlsweep run" else kind


def tree_of(pid: int) -> list[psutil.Process]:
    """The living processes that a launch started."""
    try:
        return [c for c in psutil.Process(pid).children(recursive=True) if _lives(c)]
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "gone"


def bits_of(run: Path) -> dict[str, str]:
    """What must not depend on what happened: hashes of every condition's model and predictions."""
    found = {}
    for path in sorted(run.glob("conditions/*/model/*.safetensors")):  # of a model or of an adapter
        found[f"model {path.parents[1].name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for path in sorted(run.glob("predictions/condition=*/*.parquet")):
        table = pq.read_table(path).sort_by("row_id")
        found[f"predictions {path.parent.name}"] = hashlib.sha256(str(table.to_pydict()).encode()).hexdigest()[:16]
    return found


def files_left(run: Path) -> list[str]:
    """Files that a finished sweep must not leave: parts, marks, leases."""
    pattern = re.compile(r"\.tmp$|^\.training-|^\.all-begun-|\.dead$|lease|^checkpoints$")
    return sorted(str(p.relative_to(run)) for p in run.rglob("*") if pattern.search(p.name) and "ray" not in p.parts)


def outcome(
    run: Path, faults: list[Fault], codes: list[int | str], lost: float, want: dict[str, str], left: set[str]
) -> dict[str, Any]:
    """What happened to a sweep that ended: a line of the results, but for its ends without a reason."""
    got = bits_of(run)
    return {
        "sweep": run.name, "faults": [f._asdict() for f in faults], "launches": len(codes), "codes": codes,
        "seconds_lost": round(lost, 1), "hangs": codes.count("hang"), "processes_left": sorted(left),
        "different": sorted(k for k in want.keys() | got.keys() if want.get(k) != got.get(k)),
        "files_left": files_left(run),
    }  # fmt: skip


def moments(rng: random.Random, first: float, gap: float, count: int) -> list[float]:
    """When faults are made: seconds since a launch began."""
    found = [first]
    while len(found) < count:
        found.append(found[-1] + rng.expovariate(1 / gap))
    return found


class Sweeps:
    """Runs and disturbs launches of one sweep after another."""

    def __init__(self, out: Path, seed: int, disk: bool) -> None:
        self.out, self.disk, self.rng = out, disk, random.Random(seed)
        self.seed = seed
        self._ending: list[tuple[float, set[psutil.Process]]] = []
        self._left: set[str] = set()
        self._stopped: list[tuple[float, psutil.Process]] = []
        self.command = [sys.executable, "-m", "wlsweep", "run", str(SPACE), "--stage", "predict", "--out"]

    def launch(self, run: Path) -> subprocess.Popen[bytes]:
        """Start a launch; what it says is added to a file beside the run."""
        environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
        with self._log(run).open("ab") as log:
            return subprocess.Popen(
                [*self.command, str(run)], cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def _log(self, run: Path) -> Path:
        return self.out / f"{run.name}.log"

    def reference(self) -> tuple[dict[str, str], float]:
        """Bits and seconds of an undisturbed sweep; made once."""
        kept = self.out / "reference.json"
        if not kept.exists():
            run = self.out / "disk" / "reference"
            # Base model and token tables, which later sweeps find in the cache; needs no Ray.
            subprocess.run([*self.command[:-3], "--stage", "data", "--out", str(run)], cwd=ROOT, check=True)
            shutil.rmtree(run)
            began = time.monotonic()
            code = self.launch(run).wait()
            assert code == 0, f"the undisturbed sweep ended with {code}: {self.out / 'reference.log'}"
            kept.write_text(json.dumps({"bits": bits_of(run), "seconds": time.monotonic() - began}))
            shutil.rmtree(run)
        found = json.loads(kept.read_text())
        return found["bits"], found["seconds"]

    def sweep(self, number: int, want: dict[str, str], seconds: float) -> dict[str, Any]:
        """One sweep with faults, until a launch ends with 0; what happened."""
        run = self.out / "disk" / f"sweep-{self.seed}-{number}"
        began, faults, codes, given, unexplained = time.monotonic(), [], [], [], []
        self._left = set()
        for attempt in range(2 * LAUNCHES):
            told = len(self._log(run).read_text()) if attempt else 0
            process, seen = self.launch(run), set[psutil.Process]()
            met, code = self._disturb(process, run, seconds, FAULTS if attempt < LAUNCHES - 1 else 0, seen)
            faults += met
            codes.append(code)
            if code in (1, 2):
                text = self._log(run).read_text()[told:]
                reasons = re.findall(r"^.*(?:FAILED|error: ).*$", text, re.MULTILINE)
                (given if reasons else unexplained).append(f"launch {attempt}: exit code {code}: {reasons[:1]}")
            if code == "hang":
                for one in [process, *seen]:
                    _signal(one, signal.SIGKILL)
            self._continue_stopped(time.monotonic() + PAUSE_S)
            self._ending.append((time.monotonic() + LEFT_S, seen))
            if code == 0:
                break
        lost = time.monotonic() - began - seconds
        while self._ending:  # of the last launches
            self._note_left()
            time.sleep(0.5)
        found = outcome(run, faults, codes, lost, want, self._left) | {"unexplained": unexplained, "reasons": given}
        if not any(found[k] for k in WRONG):
            shutil.rmtree(run)
            self._log(run).unlink()
        return found

    def _disturb(
        self, process: subprocess.Popen[bytes], run: Path, seconds: float, faults: int, seen: set[psutil.Process]
    ) -> tuple[list[Fault], int | str]:
        """Let a launch meet faults until it ends; returns them and its exit code."""
        began, met, due = time.monotonic(), list[Fault](), list[float]()
        if faults:
            first = self.rng.uniform(1, self.rng.choice((0.3, 0.9)) * seconds)
            due = moments(self.rng, first, GAP * seconds, faults)
        while process.poll() is None:
            time.sleep(0.2)
            seen.update(tree_of(process.pid))
            self._continue_stopped(time.monotonic())
            self._note_left()
            now = time.monotonic() - began
            if due and now >= due[0]:
                due.pop(0)
                met.append(self._fault(process, run, now))
                print(f"  {run.name}: {met[-1].what} to {met[-1].victim} after {now:.0f} s", flush=True)
            last = met[-1].after_s + PAUSE_S if met else 0.0
            if not due and now - last > HANG_S + seconds:
                return met, "hang"
        return met, process.returncode

    def _fault(self, process: subprocess.Popen[bytes], run: Path, now: float) -> Fault:
        what = self.rng.choices(
            ["SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP", "second launch", "disk full", "closed directory"],
            [12, 3, 1, 3, 1, *((1, 1) if self.disk else (0, 0))],
        )[0]
        if what == "disk full":
            with _full_disk(run.parent):
                time.sleep(DISTURBED_S)
            return Fault(what, "disk", now)
        if what == "closed directory":
            with _closed(run):
                time.sleep(DISTURBED_S)
            return Fault(what, "run directory", now)
        if what == "second launch":
            second = self.launch(run)
            time.sleep(self.rng.uniform(2, 30))
            self._ending.append((time.monotonic() + LEFT_S, set(tree_of(second.pid))))
            _signal(second, signal.SIGKILL)
            second.wait()
            return Fault(what, "run directory", now)
        groups: dict[str, list[psutil.Process]] = defaultdict(list)
        groups["supervisor"].append(psutil.Process(process.pid))
        for one in tree_of(process.pid):
            groups[kind_of(_command(one))].append(one)
        victim = "supervisor" if what == "SIGINT" else self.rng.choice(sorted(groups))
        one = self.rng.choice(groups[victim])
        _signal(one, getattr(signal, what))
        if what == "SIGSTOP":
            self._stopped.append((time.monotonic() + PAUSE_S, one))
        return Fault(what, victim, now)

    def _continue_stopped(self, now: float) -> None:
        """SIGCONT to what was stopped `PAUSE_S` ago."""
        for when, process in self._stopped:
            if when <= now:
                _signal(process, signal.SIGCONT)
        self._stopped = [(when, process) for when, process in self._stopped if when > now]

    def _note_left(self) -> None:
        """Note what launches left running `LEFT_S` seconds after their ends."""
        now = time.monotonic()
        ending = [(end, {p for p in seen if _lives(p)}) for end, seen in self._ending]
        self._left |= {kind_of(_command(p)) for end, living in ending if end <= now for p in living}
        self._ending = [(end, living) for end, living in ending if end > now and living]


def _signal(process: psutil.Process | subprocess.Popen[bytes], number: int) -> None:
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(number)


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    try:
        with filler.open("wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(1, free))
    except OSError:
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], capture_output=True, check=False)
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def _closed(run: Path) -> Iterator[None]:
    """Nothing can be made, renamed or deleted in the run's folders; root, too, obeys this mark."""
    close = ["find", str(run), "-type", "d", "-exec", "chattr", "+i", "{}", "+"]
    try:
        subprocess.run(close, capture_output=True, check=False)
        yield
    finally:
        subprocess.run(["chattr", "-R", "-i", str(run)], capture_output=True, check=False)


@contextmanager
def _file_system(out: Path) -> Iterator[bool]:
    """A small file system of its own at OUT/disk, where root can make one."""
    folder, image = out / "disk", out / "disk.img"
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        yield False
        return
    if not image.exists():
        subprocess.run(["truncate", "-s", f"{DISK_MB}M", str(image)], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    if (
        not os.path.ismount(folder)
        and subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=False).returncode
    ):
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def summary(results: list[dict[str, Any]]) -> str:
    """The figures of all sweeps as Markdown."""
    by = Counter((f["victim"], f["what"]) for r in results for f in r["faults"])
    whats = sorted({what for _, what in by})
    lines = [f"| victim | {' | '.join(whats)} |", f"|---|{'---|' * len(whats)}"]
    for victim in sorted({v for v, _ in by}):
        lines.append(f"| {victim} | {' | '.join(str(by[victim, w] or '') for w in whats)} |")
    codes = Counter(str(c) for r in results for c in r["codes"])
    hit = sum(by.values())
    lost = sum(r["seconds_lost"] for r in results)
    lines += [
        "",
        f"{hit} faults in {len(results)} sweeps and {sum(r['launches'] for r in results)} launches (exit codes: "
        + ", ".join(f"{n} x {code}" for code, n in sorted(codes.items()))
        + f"); {lost / max(1, hit):.0f} s lost a fault. Hangs: {sum(r['hangs'] for r in results)}. "
        f"Sweeps with other bits: {sum(bool(r['different']) for r in results)}. "
        f"Processes left: {sum(len(r['processes_left']) for r in results)}. "
        f"Files left: {sum(len(r['files_left']) for r in results)}. "
        f"Ends without a reason: {sum(len(r.get('unexplained', [])) for r in results)}.",
    ]
    return "\n".join(lines)


def options(description: str | None, kills: int, folder: str) -> argparse.ArgumentParser:
    """What is asked of random faults, wherever they are made."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / folder)
    return parser


def run_all(sweeps: Any, what: str, results: Path, kills: int, minutes: float) -> int:
    """Run sweeps until so many faults were met; 1 if one ended wrongly, or no fault was made."""
    began, mine = time.monotonic(), list[dict[str, Any]]()
    want, seconds = sweeps.reference()
    print(f"an undisturbed {what.format(f'{seconds:.0f} s')}", flush=True)
    while sum(len(r["faults"]) for r in mine) < kills and time.monotonic() - began < 60 * minutes:
        mine.append(sweeps.sweep(len(mine), want, seconds))
        with results.open("a") as f:
            f.write(json.dumps(mine[-1]) + "\n")
        print(json.dumps({k: v for k, v in mine[-1].items() if k != "faults"}), flush=True)
    print(summary(mine))
    if not any(r["faults"] for r in mine):
        print("no fault was made in the time given, so nothing was shown: raise --minutes")
        return 1
    return int(any(r[k] for r in mine for k in WRONG))


def main() -> int:
    """Run sweeps on this machine, or print the figures of those that were run."""
    parser = options(__doc__, 20, "chaos")
    parser.add_argument("--summary", action="store_true", help="print the figures of all results so far")
    a = parser.parse_args()
    out = a.out.resolve()
    results = out / "results.jsonl"
    if a.summary:
        print(summary([json.loads(line) for line in results.read_text().splitlines()]))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    with _file_system(out) as disk:
        what = "sweep takes {}" + ("" if disk else "; no root, so no faults of the disk")
        return run_all(Sweeps(out, a.seed, disk), what, results, a.kills, a.minutes)


if __name__ == "__main__":
    sys.exit(main())
