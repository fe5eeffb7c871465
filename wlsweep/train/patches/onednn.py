"""Float32 linear layers on CPUs through oneDNN where the BLAS that PyTorch was built with is slow.

MKL, which PyTorch's x86 wheels carry, runs a generic kernel on AMD processors; oneDNN generates one for the instructions
that the processor has, AVX-512 included: twice as fast there. On an Intel processor MKL is as fast and wants no transposed
copies, so a step takes a tenth less (`docs/log.md`). The two add up in another order, so results of the two kinds of
processors differ by float32 rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wlsweep.train.patches import Setup, replace_forward


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear`, its three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        return times_transposed(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (inputs, weight) = gradients, ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        to_inputs = times_transposed(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad  # not of a frozen layer's
        to_weight = times_transposed(rows.t(), inputs.flatten(0, -2).t()) if wanted[1] else None
        return to_inputs, to_weight, rows.sum(0) if ctx.has_bias and wanted[2] else None


def times_transposed(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs weight^T + bias by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _forward(self: nn.Linear, inputs: Tensor) -> Tensor:
    return _Linear.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call, no-any-return]


def pays() -> bool:
    """Whether oneDNN is there and faster than PyTorch's BLAS: on everything but Intel's processors."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    cpus = Path("/proc/cpuinfo")
    return not (cpus.is_file() and "GenuineIntel" in cpus.read_text())


def apply(model: nn.Module, _setup: Setup) -> bool:
    """Make every linear layer of a float32 model on a CPU compute with oneDNN, where that is faster."""
    return pays() and replace_forward((m for m in model.modules() if isinstance(m, nn.Linear)), _forward)
