"""How much energy this process's GPUs have used, by NVML: optional, and never an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wlsweep.run.nvml import visible_cards


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
