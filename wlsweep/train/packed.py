"""Attention over rows that lie one after another without padding: `model.attention = "packed"`.

A micro-batch of rows of different lengths is one sequence [1, all tokens]; no token attends to another row. On a GPU in
half precision this is FlashAttention's variable-length kernel as PyTorch ships it (`torch.nn.attention.varlen`), which
reads the rows' boundaries. On a CPU it goes row by row: rows in bf16 by `row_attention` where the processor multiplies
bf16, anything else by `scaled_dot_product_attention` in float32: the backward pass of PyTorch's CPU kernel takes
two to three times as long in bf16.

Importing this module registers the name with transformers. No mask is registered, so none is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from wlsweep.spec.processor import multiplies_bf16

NAME = "packed"
MULTIPLE = 64
"""Filler makes the tokens of a micro-batch a multiple of this: kernels like that, and oneDNN makes one anew for each number
of tokens that it has not seen."""
LONGEST = 1024
"""Tokens of a row in bf16 up to which the scores of all heads are made at once (9 heads: 38 MB); longer rows go to PyTorch's
kernel."""


def as_kernel_likes(x: Tensor) -> Tensor:
    """A query, key or value in the dtype that attention is fastest in: float32 on a CPU, its own on a GPU."""
    return x if x.is_cuda else x.float()


def packed_attention(
    _layer: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    boundaries: Tensor,
    longest: int,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row.

    Args:
        _layer: that asks; unused.
        query: [1, heads, tokens, head size].
        key: [1, key-value heads, tokens, head size].
        value: as `key`.
        attention_mask: none; the boundaries are the mask.
        scaling: of the scores.
        boundaries: int32, where each row begins, and the end of the last.
        longest: tokens of the longest row.
        dropout: of the attention weights.
        sliding_window: tokens that a token can look back on; none but unlimited is served.

    Returns:
        [1, tokens, heads, head size], and no weights.

    Raises:
        ValueError: if the model wants a mask, a sliding window or dropout.
    """
    if attention_mask is not None or sliding_window is not None or dropout:
        raise ValueError(
            "packed rows know neither masks nor sliding windows nor dropout of attention weights, and this model wants one: "
            'set model.attention = "sdpa"'
        )
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        out = varlen_attn(
            q, k, v, boundaries, boundaries, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
        )
        return cast(Tensor, out).unsqueeze(0), None
    sizes = boundaries.diff().tolist()
    rows = zip(*(torch.split(x, sizes, dim=2) for x in (query, key, value)), strict=True)
    in_bf16 = query.dtype == torch.bfloat16 and not query.is_cuda and bf16_pays()
    each = [
        row_attention(q, k, v, scaling) if in_bf16 and q.shape[2] <= LONGEST else _by_kernel(q, k, v, scaling)
        for q, k, v in rows
    ]
    return torch.cat(each, dim=2).transpose(1, 2), None


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    q, k, v = (as_kernel_likes(x) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True).to(query.dtype)


@cache
def bf16_pays() -> bool:
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

    PyTorch's own CPU kernel multiplies through the BLAS that its wheels carry, in float32, and its backward pass takes
    nearly three times its forward pass; a processor with bf16 products does them two to four times as fast. What is rounded
    is what FlashAttention rounds on a GPU: scores are float32 sums of bf16 products, their softmax is float32, and the
    weights and the gradients of the scores are rounded to bf16 as they enter the next product (Dao 2023). `docs/log.md` has
    what it gains.
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
    """Causal attention within one row on a CPU, its products by oneDNN in bf16 and everything else in float32.

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


AttentionInterface.register(NAME, packed_attention)
