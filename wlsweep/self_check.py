"""What an installation can prove of itself on this machine: engines, attention kernels, weighted loss, memory formula.

    python -m wlsweep.self_check kernels OUT.json [--cpu]

`wlsweep doctor --deep` and `make gpu-check` run these parts, each in a process of its own with a time limit, since an engine
may crash, hang or take the GPU with it. A part gives lines with a verdict: pass, fail, or not measured with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psutil

LIMIT_S = 250.0
"""Longest time of a part."""
KERNEL_TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
"""Largest error against float32 arithmetic on the same inputs, relative to the largest value."""
MEMORY_TOLERANCE = 0.05


class Line(NamedTuple):
    """One verdict."""

    what: str
    goal: str
    measured: str
    verdict: str
    """pass, fail, not measured, or measured where there is no goal to judge by."""


def judged(what: str, goal: str, measured: str, good: bool | None) -> Line:
    """A line; `good` None where there is no goal to judge by."""
    return Line(what, goal, measured, "measured" if good is None else "pass" if good else "fail")


def unmeasured(what: str, why: str) -> Line:
    """A line of what could not be measured."""
    return Line(what, "", why, "not measured")


def environment(cpu: bool) -> list[Line]:
    """Engines that are there and can be imported, build of torch, driver, compute capability."""
    from wlsweep.install_check import ENGINES, device_problems, gpus, import_problems

    lacking = [name for name in ENGINES if find_spec(name) is None]
    lines = [judged("packages", "all engines", f"missing: {', '.join(lacking)}" if lacking else "all", not lacking)]
    broken = import_problems([name for name in ENGINES if name not in lacking])
    lines.append(judged("imports", "of all that is there", "; ".join(broken)[:200] or "all", not broken))
    if "torch" in lacking or any(text.startswith("torch ") for text in broken):
        return lines
    import torch

    if cpu:
        return [*lines, judged("torch", "any build", str(torch.__version__), None)]
    here, cuda = gpus(), torch.version.cuda
    problems = device_problems(here, cuda) if cuda else [f"torch {torch.__version__} is built without CUDA"]
    names = ", ".join(f"{g.name}, driver {g.driver}, capability {g.capability:g}" for g in dict.fromkeys(here))
    return [*lines, judged("GPU and driver", "CUDA build, driver, 8.0", "; ".join(problems) or names, not problems)]


def kernels(cpu: bool) -> list[Line]:
    """Attention as training calls it, against float32; and whether it really takes the flash kernel."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    from wlsweep.train import packed as packed_rows

    device, dtype = ("cpu", torch.float32) if cpu else ("cuda", torch.bfloat16)
    torch.manual_seed(0)
    lengths = [37, 90, 65] if cpu else [1024, 3000, 2072]
    heads, kv, size, tokens = 4, 2, 64, sum(lengths)
    q = torch.randn(1, heads, tokens, size, device=device, dtype=dtype)
    k, v = (torch.randn(1, kv, tokens, size, device=device, dtype=dtype) for _ in range(2))

    def exact(a: int, b: int) -> torch.Tensor:
        one, two, three = (
            x[:, :, a:b].float().repeat_interleave(n, dim=1) for x, n in ((q, 1), (k, heads // kv), (v, heads // kv))
        )
        scores = one @ two.transpose(-1, -2) / size**0.5
        mask = torch.ones(b - a, b - a, device=device, dtype=torch.bool).tril()
        out: torch.Tensor = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ three
        return out

    def error(found: torch.Tensor, right: torch.Tensor) -> float:
        return float((found.float() - right.float()).abs().max() / right.float().abs().max())

    tolerance = KERNEL_TOLERANCE[str(dtype).removeprefix("torch.")]
    goal, lines = f"error < {tolerance:g}", []
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            found = sdpa(q, k, v, is_causal=True, enable_gqa=True)
        e = error(found, exact(0, tokens))
        lines.append(judged("sdpa on the flash kernel", goal, f"{e:.1e}", e < tolerance))
    except RuntimeError as refused:
        lines.append(judged("sdpa on the flash kernel", "taken", str(refused).splitlines()[0][:80], False))
    ends = torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0).to(torch.int32)
    layer = torch.nn.Module()
    together, _ = packed_rows.packed_attention(
        layer, q, k, v, None, scaling=size**-0.5, boundaries=ends, longest=max(lengths)
    )
    rows = [exact(a, b) for a, b in itertools.pairwise(ends.tolist())]
    e = error(together, torch.cat(rows, dim=2).transpose(1, 2))
    lines.append(judged("packed rows against each row alone", goal, f"{e:.1e}", e < tolerance))
    return lines


def memory(cpu: bool) -> list[Line]:
    """A small model in a real ZeRO-3 rank: its live bytes against the formula of `plan`, on a GPU the allocator's too, and
    a proof that gamma multiplies the loss of its own class alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "memory.json"
        command = torchrun("wlsweep.train.live_memory", str(out))
        subprocess.run(command, env=process_environment(cpu), check=True)
        (found,) = json.loads(out.read_text())
    peaks = {"live bytes": max(found["peak_micro_batch"], found["peak_step"]), "the allocator": found["allocator_peak"]}
    lines = []
    for what, peak in peaks.items():
        if peak:
            off = found["formula_total"] / peak - 1
            good = abs(off) < MEMORY_TOLERANCE
            lines.append(
                judged(f"memory formula against {what}", f"within {MEMORY_TOLERANCE:.0%}", f"{off:+.1%}", good)
            )
    (accept, reject), (of_accept, of_reject) = found["proof"], found["weights"]
    good = abs(accept / of_accept - 1) < 1e-3 and abs(reject / of_reject - 1) < 1e-3
    goal = f"loss times {of_accept:g} and {of_reject:g}"
    return [*lines, judged("proof of the weighted loss", goal, f"{accept:.4f} and {reject:.4f}", good)]


PARTS: dict[str, Callable[[bool], list[Line]]] = {"environment": environment, "kernels": kernels, "memory": memory}
"""Each takes whether it runs on a CPU."""


def torchrun(*arguments: str) -> list[str]:
    """The command of one rank, without Ray."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", *arguments]


def process_environment(cpu: bool) -> dict[str, str]:
    """Environment of a rank."""
    on_cpu = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **(on_cpu if cpu else {})}


def in_a_process(name: str, command: Sequence[str], out: Path, log: Path, limit_s: float) -> list[Line]:
    """The lines that a command writes to `out`; whatever happens to it, there is a line."""
    out.unlink(missing_ok=True)
    with log.open("w") as to:
        process = subprocess.Popen(command, stdout=to, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            kill_with_all(process)
            return [unmeasured(name, f"not done after {limit_s:.0f} s; see {log}")]
    if code or not out.is_file():
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return [Line(name, "runs", f"{said[-1][:90] if said else code}; see {log}", "fail")]
    return [Line(*line) for line in json.loads(out.read_text())]


def kill_with_all(process: subprocess.Popen[Any]) -> None:
    """SIGKILL to a process and to all that it has started: torchrun's ranks have sessions of their own."""
    for one in (tree := psutil.Process(process.pid)).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    tree.kill()
    process.wait()


def main() -> None:
    """Run one part and write its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    arguments.out.write_text(json.dumps(PARTS[arguments.part](arguments.cpu)))


if __name__ == "__main__":
    main()
