"""An adapter beside a linear layer, in few passes over memory; in bf16 with half of what it keeps.

PEFT turns the layer's input to float32 once for each adapter and keeps that copy, scales and adds full-size float32
outputs, and rounds at the end: eight passes over the outputs, forward and backward, and 4 bytes an input and adapter. Here
the factor A is scaled, the sum is rounded as it is made, and what is kept is the bf16 input that the layers share. Values
stay float32 sums of float32 products. Beside a float32 layer nothing is rounded, and the adapter's product adds to the
layer's output. On CPUs the products are oneDNN's where PyTorch's BLAS is slow (`wlsweep.train.patches.onednn`).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from wlsweep.train.patches import Setup, replace_forward
from wlsweep.train.patches.onednn import pays, times_transposed


class _Down(torch.autograd.Function):
    """x [..., inputs], any dtype, and A [rank, inputs] -> scaling x A^T, float32 [..., rank]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scaling: float, onednn: bool) -> Tensor:
        scaled = weight * scaling  # of the three that could be scaled, the one whose size no token adds to
        ctx.save_for_backward(x, scaled)
        ctx.scaling, ctx.onednn = scaling, onednn
        return _times_transposed(x.to(weight.dtype), scaled, onednn)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (gradient,), (x, scaled) = gradients, ctx.saved_tensors
        rows, inputs = gradient.flatten(0, -2), x.flatten(0, -2).to(scaled.dtype)
        to_weight = _times_transposed(rows.t(), inputs.t(), ctx.onednn).mul_(ctx.scaling)
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None, None
        return _times_transposed(gradient, scaled.t(), ctx.onednn).to(x.dtype), to_weight, None, None


class _Up(torch.autograd.Function):
    """inner [..., rank], B [outputs, rank] and the layer's own output -> output + inner B^T, in the output's dtype."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, weight: Tensor, output: Tensor, onednn: bool) -> Tensor:
        ctx.save_for_backward(inner, weight)
        ctx.onednn = onednn
        if output.dtype == weight.dtype:
            return _plus_times_transposed(output, inner, weight, onednn)
        # Each pass in one dtype: a mixed sum takes up to ten times as long on CPUs.
        return output.to(weight.dtype).add(_times_transposed(inner, weight, onednn)).to(output.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,), (inner, weight) = gradients, ctx.saved_tensors
        exact = gradient.to(weight.dtype)
        # The small matrix first: oneDNN is seven times as fast so, at rank 16.
        to_weight = _times_transposed(inner.flatten(0, -2).t(), exact.flatten(0, -2).t(), ctx.onednn).t()
        return _times_transposed(exact, weight.t(), ctx.onednn), to_weight, gradient, None


def _times_transposed(rows: Tensor, weight: Tensor, onednn: bool) -> Tensor:
    return times_transposed(rows, weight) if onednn else nn.functional.linear(rows, weight)


def _plus_times_transposed(output: Tensor, rows: Tensor, weight: Tensor, onednn: bool) -> Tensor:
    if not onednn:
        return torch.addmm(output.flatten(0, -2), rows.flatten(0, -2), weight.t()).view_as(output)
    return torch.ops.mkldnn._linear_pointwise.binary(rows, output, weight, None, "add")  # type: ignore[no-any-return]


def _down(self: nn.Linear, x: Tensor, scaling: float, onednn: bool) -> Tensor:
    return _Down.apply(x, self.weight, scaling, onednn)  # type: ignore[no-untyped-call, no-any-return]


def _up(self: nn.Linear, inner: Tensor, output: Tensor, onednn: bool) -> Tensor:
    return _Up.apply(inner, self.weight, output, onednn)  # type: ignore[no-untyped-call, no-any-return]


def _adapted(self: Any, x: Tensor) -> Tensor:
    (name,) = self.active_adapters
    inner = self.lora_A[name](self.lora_dropout[name](x), self.scaling[name], self.by_onednn)
    return self.lora_B[name](inner, self.base_layer(x), self.by_onednn)  # type: ignore[no-any-return]


def apply(model: nn.Module, setup: Setup) -> bool:
    """Make every adapter of a linear layer compute so; the `forward` of the layer and of both factors is replaced."""
    # Padded micro-batches come in many sizes, and for each oneDNN first makes a kernel.
    onednn = not setup.gpu and (setup.packed or setup.dtype == "bf16") and pays()
    adapted: list[Any] = [module for module in model.modules() if type(module) is Linear]
    for module in adapted:
        module.by_onednn = onednn
        replace_forward(module.lora_A.values(), _down)
        replace_forward(module.lora_B.values(), _up)
    return replace_forward(adapted, _adapted)
