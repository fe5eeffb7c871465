"""Root-mean-square norms in few passes over memory.

Autograd writes Qwen2's norm, forward and backward, as 15 passes over the hidden states in float32 and 19 in bf16, and keeps
float32 copies of them. Written as one function it takes 9 and 14, keeps one copy in the model's own dtype, and rounds no
more than autograd's (`tests/train/patches/test_norm.py`). What it saves of a training step on a CPU is in `docs/log.md`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from wlsweep.train.patches import Setup, replace_forward

NORMS = (Qwen2RMSNorm, Qwen3RMSNorm, LlamaRMSNorm, MistralRMSNorm, Phi3RMSNorm)
"""Classes that compute the same: weight * (x / rms in float32, rounded). Gemma's multiply by 1 + weight, in float32."""


class _Norm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon), the mean over the last dimension and in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x32 = x.float()
        mean_square = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean_square.add_(epsilon).rsqrt_()
        normed = (x32 * inverse).to(x.dtype)
        ctx.save_for_backward(normed, weight, inverse)
        out: Tensor = normed * weight
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (gradient,), (normed, weight, inverse) = gradients, ctx.saved_tensors
        dtype, width = gradient.dtype, gradient.shape[-1]
        gradient, normed = gradient.float(), normed.float()
        products = (gradient * normed).flatten(0, -2)
        # Each row's gradient loses what only scales the row, which the norm undoes.
        along = torch.mv(products, weight.float()).view(inverse.shape).div_(-width)
        to_x = (gradient * weight).addcmul_(normed, along).mul_(inverse)
        return to_x.to(dtype), products.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None, None


def _forward(self: Any, hidden_states: Tensor) -> Tensor:
    return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call, no-any-return]


def apply(model: nn.Module, _setup: Setup) -> bool:
    """Make every norm of these classes compute in few passes; other architectures keep theirs."""
    return replace_forward((m for m in model.modules() if type(m) in NORMS), _forward)
