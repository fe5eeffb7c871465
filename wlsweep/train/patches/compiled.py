"""Elementwise parts of a decoder layer compiled into single kernels: `train.compile_elementwise`.

What stands between the matrix products - gate, norms - is read and written several times by PyTorch's own operations, and
the gate's inner value is kept for the backward pass. Here PyTorch's compiler (Inductor: Triton on a GPU, C++ on a CPU) makes
one kernel of each, forward and backward, and the gate keeps its two inputs alone. Only functions of plain tensors are
compiled, never modules, so that ZeRO's hooks see nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from wlsweep.train.patches import Setup, replace_forward
from wlsweep.train.patches.norm import NORMS


def gate(x: Tensor, up: Tensor) -> Tensor:
    """silu(x) up, in float32, rounded once."""
    x32 = x.float()
    return (x32 * torch.sigmoid(x32) * up.float()).to(x.dtype)


def gate_backward(gradient: Tensor, x: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of up."""
    g, x32 = gradient.float(), x.float()
    share = torch.sigmoid(x32)
    silu = x32 * share
    return (g * up.float() * (share + silu * (1 - share))).to(x.dtype), (g * silu).to(x.dtype)


def norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """weight x / rms, and 1 / rms in float32; rounded where transformers rounds."""
    x32 = x.float()
    inverse = torch.rsqrt(x32.square().mean(-1, keepdim=True) + epsilon)
    return weight * (x32 * inverse).to(x.dtype), inverse


def norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of x, and of the weight: summed over all tokens, in float32."""
    normed, g = x.float() * inverse, gradient.float()
    scaled = g * weight.float()
    along = (scaled * normed).mean(-1, keepdim=True)
    return ((scaled - normed * along) * inverse).to(x.dtype), (g * normed).flatten(0, -2).sum(0)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as one kernel for any number of tokens; made at its first call in a process, and kept on disk."""
    made: Callable[..., Any] = torch.compile(function, dynamic=True, fullgraph=True)
    return made


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(x, up)
        return compiled(gate)(x, up)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        to_x, to_up = compiled(gate_backward)(*gradients, *ctx.saved_tensors)
        return to_x, to_up


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out, inverse = compiled(norm)(x, weight.detach(), epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        to_x, to_weight = compiled(norm_backward)(*gradients, x, weight.detach(), inverse)
        return to_x, to_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None, None


def _gated(self: Any, x: Tensor) -> Tensor:
    gated = _Gate.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
    return self.down_proj(gated)  # type: ignore[no-any-return]


def _normed(self: Any, hidden_states: Tensor) -> Tensor:
    return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call, no-any-return]


def apply(model: nn.Module, _setup: Setup) -> bool:
    """Compile the gate of every gated MLP with SiLU, and the norms that `wlsweep.train.patches.norm` knows.

    The linear layers in them keep their `forward`, with ZeRO's hooks.
    """
    gates = replace_forward((m for m in model.modules() if _is_gated(m)), _gated)
    norms = replace_forward((m for m in model.modules() if type(m) in NORMS), _normed)
    return gates or norms


def _is_gated(module: nn.Module) -> bool:
    return isinstance(getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation)) and all(
        isinstance(getattr(module, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj")
    )
