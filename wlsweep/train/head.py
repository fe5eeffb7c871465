"""The LM head of a bf16 model, in float32 and without a float32 copy of its weight.

Log-odds of bf16 logits would lie on a grid of 1/8, so the head multiplies in float32. Written plainly, autograd keeps a
float32 copy of the weight and makes a float32 gradient of it: 8 bytes a parameter of the head (545 million parameters of a
7B model: 4.4 GB), beside the gathered weight. The head sees the answers' positions alone, so its products are small whatever
the vocabulary: here they are made from some rows of the weight at a time, and each piece of the gradient is rounded once,
into the weight's dtype. 2 bytes a parameter are left, those of the gradient itself.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn

from wlsweep.spec.cost import PIECE


class _Head(torch.autograd.Function):
    """hidden [..., width] and weight [vocabulary, width] -> float32 logits [..., vocabulary]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        rows = hidden.flatten(0, -2).float()
        logits = rows.new_empty(len(rows), len(weight))
        for begin, end in _pieces(weight):
            logits[:, begin:end] = rows @ weight[begin:end].float().t()
        return logits.view(*hidden.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (hidden, weight) = gradients, ctx.saved_tensors
        gradient, rows = gradient.flatten(0, -2), hidden.flatten(0, -2).float()
        to_hidden = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        # Of a frozen head (LoRA) no gradient is wanted.
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for begin, end in _pieces(weight):
            part = gradient[:, begin:end]
            if to_hidden is not None:
                to_hidden.addmm_(part, weight[begin:end].float())
            if to_weight is not None:
                to_weight[begin:end] = part.t() @ rows
        return None if to_hidden is None else to_hidden.view(hidden.shape).to(hidden.dtype), to_weight


def _pieces(weight: Tensor) -> list[tuple[int, int]]:
    """(first row, row after the last) of each piece."""
    step = max(1, PIECE // weight.shape[1])
    return [(begin, min(begin + step, len(weight))) for begin in range(0, len(weight), step)]


def _forward(self: nn.Linear, hidden: Tensor) -> Tensor:
    return _Head.apply(hidden, self.weight)  # type: ignore[no-untyped-call, no-any-return]


def compute_in_float32(head: nn.Linear) -> None:
    """Make an LM head multiply in float32.

    Its own `forward` is replaced, so that ZeRO's hooks on the module still gather the weight first, forward and backward.
    """
    head.forward = types.MethodType(_forward, head)  # type: ignore[method-assign]
