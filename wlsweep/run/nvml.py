"""What NVML, the driver's own library, says of this process's GPUs: optional, and never an error.

It is asked instead of CUDA, since asking CUDA takes half a gigabyte of the GPU for a context that stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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


def gpu_energy(uuids: Sequence[str] | None = None) -> Callable[[], float | None]:
    """A function that tells the joules which some GPUs have used since their driver was loaded.

    It tells None where that cannot be told: without `nvidia-ml-py`, without a GPU, on cards before Volta, on a share of a
    card (MIG). The energy is the board's, so a card that two processes share would be counted twice: ask for whole cards.

    Args:
        uuids: as NVML names the cards (`GPU-...`); None for those in `CUDA_VISIBLE_DEVICES`.
    """
    try:
        import pynvml

        cards = visible_cards(uuids)

        def joules() -> float | None:
            try:
                return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(card) for card in cards)) / 1000
            except Exception:  # noqa: BLE001 - a measurement that is not to be had
                return None

    except Exception:  # noqa: BLE001 - no module, no driver, no such card, a share of a card
        return lambda: None
    return joules if cards and joules() is not None else lambda: None
