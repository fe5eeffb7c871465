"""Causal attention of one bf16 row on a CPU, its products by oneDNN in bf16 and everything else in float32.

PyTorch's own CPU kernel multiplies through the BLAS that its wheels carry, in float32, and its backward pass takes nearly
three times its forward pass; a processor with bf16 products does them two to four times as fast. What is rounded is what
FlashAttention rounds on a GPU: scores are float32 sums of bf16 products, their softmax is float32, and the weights and the
gradients of the scores are rounded to bf16 as they enter the next product (Dao 2023). `docs/log.md` has what it gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from wlsweep.spec.processor import multiplies_bf16

LONGEST = 1024
"""Tokens up to which the scores of all heads are made at once (9 heads: 38 MB); longer rows go to PyTorch's kernel."""


@cache
def pays() -> bool:
    """Whether this processor multiplies bf16 and PyTorch was built with oneDNN."""
    return bool(multiplies_bf16()) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@contextmanager
def _bf16_products() -> Iterator[None]:
    """Float32 matrices are rounded to bf16 as oneDNN multiplies them; the sums stay float32."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@lru_cache(maxsize=64)
def _future(tokens: int, times: int) -> Tensor:
    """[1, times x tokens, tokens]: minus infinity where a token would look ahead, for so many heads one below another."""
    return torch.full((tokens, tokens), float("-inf")).triu_(1).repeat(times, 1).unsqueeze(0)


class _RowAttention(torch.autograd.Function):
    """query [heads, n, size], key and value [key-value heads, n, size] -> [heads, n, size], all bf16.

    Nothing of the size of the scores is kept: the backward pass makes them again.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        with _bf16_products():
            weights = _weights(_grouped(query, key), key.float(), scaling)
            return torch.bmm(weights, value.float()).view(query.shape).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,), (query, key, value) = gradients, ctx.saved_tensors
        q, k, v, g = _grouped(query, key), key.float(), value.float(), _grouped(gradient, key)
        with _bf16_products():
            weights = _weights(q, k, ctx.scaling)
            to_value = torch.bmm(weights.transpose(1, 2), g)
            to_weights = torch.bmm(g, v.transpose(1, 2))
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, torch.float32).mul_(ctx.scaling)
            to_query = torch.bmm(to_scores, k).view(query.shape)
            to_key = torch.bmm(to_scores.transpose(1, 2), q)
        return to_query.to(query.dtype), to_key.to(key.dtype), to_value.to(value.dtype), None


def _grouped(x: Tensor, key: Tensor) -> Tensor:
    """[heads, n, size] as float32 [key-value heads, heads that share one x n, size]."""
    return x.float().reshape(len(key), -1, x.shape[-1])


def _weights(q: Tensor, k: Tensor, scaling: float) -> Tensor:
    """Softmax of the scores of grouped queries: [key-value heads, heads that share one x n, n], float32."""
    tokens = k.shape[1]
    future = _future(tokens, q.shape[1] // tokens).expand(len(k), -1, -1)
    return torch.baddbmm(future, q, k.transpose(1, 2), alpha=scaling).softmax(-1)


def row_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention within one row.

    Args:
        query: [1, heads, n, head size], bf16.
        key: [1, key-value heads, n, head size], bf16.
        value: as `key`.
        scaling: of the scores.

    Returns:
        [1, heads, n, head size], bf16.
    """
    out: Tensor = _RowAttention.apply(query[0], key[0], value[0], scaling)  # type: ignore[no-untyped-call]
    return out.unsqueeze(0)
