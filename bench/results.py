"""What every benchmark does with its figures: one table on the screen, and the same as JSON in runs/bench/NAME.json."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wlsweep.run.layout import write_json

BENCH = Path("runs/bench")
"""Where results lie, and the runs that they were measured on."""
WLSWEEP = [sys.executable, "-m", "wlsweep"]
"""The command as users type it, in this environment."""


def publish(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], record: Any) -> None:
    """Print the table; write `record`, with the machine that it was measured on."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    to = BENCH / f"{name}.json"
    # A load above the number of CPUs makes absolute times worthless.
    machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    write_json(to, {"bench": name, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **machine, **record})
    console = Console()
    console.print(table)
    console.print(f"JSON: {to}\n", highlight=False)


def empty_folder(folder: Path) -> Path:
    """The folder, made empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def small_space(folder: Path, name: str, conditions: int, changed: str) -> Path:
    """A search space of at least so many small conditions: bench/small.toml, and what `changed` says beside it."""
    small = Path(__file__).with_name("small.toml")
    proportions = ["1/2", "1/3", "1/4", "1/8"]
    seeds = list(range(-(-conditions // len(proportions))))
    grid = f'[[grid]]\nproportion = {proportions}\nvariant = ["accept"]\ngamma = [2.0]\nseed = {seeds}\n'
    folder.mkdir(parents=True, exist_ok=True)
    (path := folder / f"{name}.toml").write_text(f'extends = "{small}"\nname = "{name}"\n{changed}\n{grid}')
    return path


def timed(command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> float:
    """Wall seconds of a command that must succeed; what it says goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with log.open("w") as out:
        code = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        ).returncode
    if code:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {code}; see {log}")
    return time.perf_counter() - began


def measured(program: str) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak resident MiB) of a Python program in a process of its own, imports included."""
    asked = "import resource; u = resource.getrusage(resource.RUSAGE_SELF)"
    code = f"{program}\n{asked}\nprint(u.ru_utime + u.ru_stime, u.ru_maxrss / 1024)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    wall = time.perf_counter() - start
    cpu, memory = map(float, done.stdout.splitlines()[-1].split())
    return wall, cpu, memory
