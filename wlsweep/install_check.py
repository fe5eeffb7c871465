"""Whether an environment can run sweeps: the last step of `make`, and to be run again on a GPU node.

    python -m wlsweep.install_check gpu

It imports the engines, so a torch that was built for something else, or a driver that is too old, is found before a job is.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

DRIVER_OF_CUDA = {12: 525, 13: 580}
"""Oldest driver of each major version of CUDA (NVIDIA's table of minor-version compatibility)."""
ENGINES = ("torch", "transformers", "deepspeed", "ray", "vllm")


class Gpu(NamedTuple):
    """One GPU, as the driver reports it."""

    name: str
    driver: str
    capability: float
    memory_mib: int


def gpus() -> list[Gpu]:
    """GPUs of this machine; none where there is no driver."""
    fields = "name,driver_version,compute_cap,memory.total"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> list[Gpu]:
    """GPUs from the lines of `nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv`."""
    found = []
    for line in text.splitlines():
        cells = [c.strip() for c in line.split(",")]
        if len(cells) == 4 and re.fullmatch(r"\d+(\.\d+)?", cells[2]) and cells[3].isdigit():
            found.append(Gpu(cells[0], cells[1], float(cells[2]), int(cells[3])))
    return found


def build_problem(version: str, cuda: str | None) -> str | None:
    """Why a torch cannot use a GPU; None if it can."""
    if cuda is not None:
        return None
    return (
        f"torch {version} is built without CUDA. pip takes a local CPU build where its configuration offers one (pip config "
        "list; PIP_INDEX_URL, PIP_FIND_LINKS): point it to an index with the CUDA build, such as PyPI, then make clean "
        "EXTRA=gpu and make again"
    )


def device_problems(found: Sequence[Gpu], cuda: str) -> list[str]:
    """What is wrong with the GPUs and their driver for a torch that is built with this version of CUDA."""
    problems = []
    need = DRIVER_OF_CUDA.get(int(cuda.split(".")[0]))
    for gpu in dict.fromkeys(found):
        major = int(gpu.driver.split(".")[0]) if gpu.driver.split(".")[0].isdigit() else 0
        if need and major < need:
            problems.append(
                f"driver {gpu.driver} of {gpu.name} is too old for CUDA {cuda}: {need} or newer is needed; see "
                "docs/cluster.md, CUDA versions"
            )
        if gpu.capability < 8.0:
            problems.append(
                f"{gpu.name} has compute capability {gpu.capability:g}; bf16 and the attention kernels need 8.0 or newer "
                "(A100, A40, L40S, H100, ...)"
            )
    return problems


def import_problems(names: Sequence[str] = ENGINES) -> list[str]:
    """Engines that cannot be imported, with their own words."""
    problems = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as e:  # noqa: BLE001 - whatever an engine raises while it is imported
            first = (str(e).splitlines() or [""])[0]
            problems.append(f"{name} cannot be imported: {type(e).__name__}: {first}")
    return problems


def check(extra: str) -> tuple[list[str], list[str]]:
    """(problems, what was found) of this environment for `cpu` or `gpu`."""
    import torch

    version, cuda = str(torch.__version__), torch.version.cuda
    if extra == "gpu" and (problem := build_problem(version, cuda)):
        return [problem], []  # vllm would only say that an operator does not exist
    problems, found = import_problems(), [f"torch {version}, {'CUDA ' + cuda if cuda else 'no CUDA'}"]
    if extra == "gpu" and cuda:
        here = gpus()
        problems += device_problems(here, cuda)
        found += [f"{g.name}, driver {g.driver}, compute capability {g.capability:g}, {g.memory_mib} MiB" for g in here]
        if not here:
            found.append(
                "no GPU on this machine: driver and compute capability were not checked; run this again on a GPU node: "
                "python -m wlsweep.install_check gpu"
            )
    return problems, found


def main(arguments: Sequence[str]) -> int:
    """Print what was found; 1 if something is wrong."""
    extra = arguments[0] if arguments else "cpu"
    if extra not in ("cpu", "gpu"):
        sys.stderr.write(f"error: {extra!r}: expected cpu or gpu\n")
        return 2
    problems, found = check(extra)
    for line in found:
        print(f"installed: {line}")
    for line in problems:
        sys.stderr.write(f"error: {line}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
