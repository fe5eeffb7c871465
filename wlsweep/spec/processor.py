"""What this machine's processor is fast at: advice for sweeps that train on CPUs.

It is advice and nothing chooses by itself: `train.dtype` decides results and the number of ranks their last bits, and a
search space must give the same results on every machine.
"""

from __future__ import annotations

from pathlib import Path

from wlsweep.spec.architecture import architecture
from wlsweep.spec.config import Sweep

CPUINFO = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Instructions for bf16 products, as Linux calls them: AVX-512 and AMX on x86, the last on ARM."""
LARGE = 5_000_000
"""Parameters above which one rank with all threads is the faster layout: ranks exchange all of them in each micro-batch,
over gloo."""


def multiplies_bf16() -> bool | None:
    """Whether this machine's processor has instructions for bf16 products; None where the system does not say."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    return bool(_BF16 & set(lines[0].partition(":")[2].split())) if lines else None


def cpu_advice(sweep: Sweep) -> list[str]:
    """What would train faster on this machine's processor, a sentence each; nothing where GPUs train."""
    train, found = sweep.train, list[str]()
    if train.gpu:
        return []
    if train.dtype == "bf16" and multiplies_bf16() is False:
        predict = " --set predict.dtype=float32" if sweep.predict.dtype == "bfloat16" else ""
        found.append(
            "train.dtype is bf16, and this machine's processor has no bf16 products (avx512_bf16 or amx_bf16): PyTorch "
            f"emulates them, many times slower than float32. Faster here: --set train.dtype=fp32{predict} (results other "
            "than bf16's, so a run directory of its own)"
        )
    shape, cores = architecture(sweep.model), train.workers * train.cpus_per_worker
    if shape is None or shape.parameters <= LARGE:
        return found
    if train.workers > 1:
        found.append(
            f"{train.workers} ranks of {train.cpus_per_worker} threads exchange {shape.parameters / 1e6:,.0f}M parameters "
            "in each micro-batch over gloo. One rank with all threads is faster for models of more than a few million: "
            f"--set train.workers=1 --set train.cpus_per_worker={cores}"
        )
    if train.workers == 1 and train.cpus_per_worker > 1 and train.groups is None:
        found.append(
            f"one condition at a time on {train.cpus_per_worker} threads leaves them waiting for each other. Two at a time "
            "with half of the threads each train 1.4 times as many rows a second (SmolLM2-135M's adapters, two cores) and "
            f"take twice the memory: --set train.groups=2 --set train.cpus_per_worker={train.cpus_per_worker // 2}"
        )
    return found
