"""vLLM's adapters on a CPU, one matrix product for each run of tokens of the same adapter, or for its short runs together.

vLLM's own torch version copies both factors of the adapter for every token: 2,048 copies for 2,048 tokens of a layer. And
a token without an adapter has the number -1, which picks the last adapter where a batch holds rows with and without one.
While answers are written each row has one token, and neighbours have other adapters: a product for each would take longer
than the layer itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wlsweep.train.patches import Setup

SHORT = 16
"""Tokens; below that a copy of them costs less than a product of their own."""


def _update_metadata(self: Any, *args: Any, **more: Any) -> None:
    """Called once a forward pass, before its layers."""
    _original(self, *args, **more)
    self.runs = runs(self.token_lora_indices)


def runs(adapters: Tensor) -> list[tuple[slice | Tensor, int]]:
    """Which tokens go through which adapter together, from each token's adapter (-1: none).

    A run of `SHORT` tokens or more stands alone, as a slice, which copies nothing; an adapter's shorter runs are one list of
    token numbers.
    """
    numbers, counts = torch.unique_consecutive(adapters, return_counts=True)
    long: list[tuple[slice | Tensor, int]] = []
    short: dict[int, list[int]] = {}
    at = 0
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        if number >= 0 and count >= SHORT:
            long.append((slice(at, at + count), number))
        elif number >= 0:
            short.setdefault(number, []).extend(range(at, at + count))
        at += count
    return long + [(torch.tensor(tokens), number) for number, tokens in short.items()]


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
    for where, number in self.runs:
        tokens, out, at = x[where], y[where], 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            out[:, at : at + size].addmm_(tokens @ a[number, 0].t(), b[number, 0].t(), alpha=scale)
            at += size
        if not isinstance(where, slice):  # a copy
            y[where] = out


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
