"""What NVML, the driver's own library, says of this process's GPUs: optional, and never an error.

It is asked instead of CUDA, since asking CUDA takes half a gigabyte of the GPU for a context that stays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple


class GpuMemory(NamedTuple):
    """Bytes of one GPU."""

    free: int
    total: int


def visible_cards(uuids: Sequence[str] | None = None) -> list[Any]:
    """NVML's handles of some GPUs; of those in `CUDA_VISIBLE_DEVICES` without names.

    Raises:
        Exception: without `nvidia-ml-py`, without a driver, for a card that does not exist.
    """
    import pynvml

    names = uuids if uuids is not None else [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n]
    pynvml.nvmlInit()
    return [
        pynvml.nvmlDeviceGetHandleByIndex(int(n)) if n.strip().isdigit() else pynvml.nvmlDeviceGetHandleByUUID(n)
        for n in names
    ]


def gpu_memory() -> list[GpuMemory]:
    """Memory of the GPUs in `CUDA_VISIBLE_DEVICES`; empty where it cannot be told."""
    try:
        import pynvml

        found = [pynvml.nvmlDeviceGetMemoryInfo(card) for card in visible_cards()]
    except Exception:  # noqa: BLE001 - no module, no driver, no such card
        return []
    return [GpuMemory(int(m.free), int(m.total)) for m in found]
