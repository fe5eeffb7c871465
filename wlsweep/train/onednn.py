"""Float32 linear layers on CPUs through oneDNN instead of the BLAS that PyTorch was built with.

MKL, which PyTorch's x86 wheels carry, runs a generic kernel on AMD processors; oneDNN generates one for the instructions
that the processor has, AVX-512 included: twice as fast there, about as fast as MKL on an Intel one (`docs/log.md`). It adds
up in another order, so results differ by float32 rounding.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear`, its three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        return _times_transposed(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        (gradient,), (inputs, weight) = gradients, ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        to_inputs = _times_transposed(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        to_weight = _times_transposed(rows.t(), inputs.flatten(0, -2).t())
        return to_inputs, to_weight, rows.sum(0) if ctx.has_bias else None


def _times_transposed(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return out


def _forward(self: nn.Linear, inputs: Tensor) -> Tensor:
    out: Tensor = _Linear.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call]
    return out


def use_onednn(model: nn.Module) -> None:
    """Make every linear layer of a float32 model on a CPU compute with oneDNN; nothing where PyTorch has none.

    Their `forward` is replaced, so that hooks on the modules (ZeRO's) still run.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = types.MethodType(_forward, module)  # type: ignore[method-assign]
