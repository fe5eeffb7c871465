"""vLLM's adapters on a CPU, one matrix product for each run of tokens of the same adapter.

vLLM's own torch version copies both factors of the adapter for every token: 2,048 copies for 2,048 tokens of a layer. And
a token without an adapter has the number -1, which picks the last adapter where a batch holds rows with and without one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wlsweep.train.patches import Setup


def _update_metadata(self: Any, *args: Any, **more: Any) -> None:
    """Called once a forward pass, before its layers."""
    _original(self, *args, **more)
    numbers, counts = torch.unique_consecutive(self.token_lora_indices, return_counts=True)
    self.runs = []
    at = 0
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        if number >= 0:
            self.runs.append((at, at + count, number))
        at += count


def _add_lora_linear(
    self: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: tuple[Tensor, ...],
    lora_b_stacked: tuple[Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **_: Any,
) -> None:
    """y += scale x A' B' of each token's adapter; the slices of a layer (query, key and value) side by side in y.

    Args:
        self: vLLM's `PunicaWrapperCPU`.
        y: [tokens, outputs], changed in place.
        x: [tokens, inputs].
        lora_a_stacked: of each slice [adapters, 1, rank, inputs].
        lora_b_stacked: of each slice [adapters, 1, outputs of the slice, rank].
        scale: 1; vLLM multiplies it into B when it loads an adapter.
        output_slices: outputs of each slice.
    """
    for begin, end, number in self.runs:
        tokens, out, at = x[begin:end], y[begin:end], 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            out[:, at : at + size].addmm_(tokens @ a[number, 0].t(), b[number, 0].t(), alpha=scale)
            at += size


_original: Any = None


def apply(_target: None, _setup: Setup) -> bool:
    """Once in each process that serves adapters on a CPU."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    global _original
    if _original is None:
        _original = PunicaWrapperCPU.update_metadata
        PunicaWrapperCPU.update_metadata = _update_metadata
        PunicaWrapperCPU.add_lora_linear = _add_lora_linear
    return True
