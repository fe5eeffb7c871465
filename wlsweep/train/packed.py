"""Attention over rows that lie one after another without padding: `model.attention = "packed"`.

A micro-batch of rows of different lengths is one sequence [1, all tokens]; no token attends to another row. On a GPU in
half precision this is FlashAttention's variable-length kernel as PyTorch ships it (`torch.nn.attention.varlen`), which
reads the rows' boundaries. On a CPU it goes row by row: rows in bf16 by `wlsweep.train.row_attention` where the processor
multiplies bf16, anything else by `scaled_dot_product_attention` in float32: the backward pass of PyTorch's CPU kernel takes
two to three times as long in bf16.

Importing this module registers the name with transformers. No mask is registered, so none is built.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from wlsweep.train import row_attention

NAME = "packed"
MULTIPLE = 64
"""Filler makes the tokens of a micro-batch a multiple of this: kernels like that, and oneDNN makes one anew for each number
of tokens that it has not seen."""


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
    in_bf16 = query.dtype == torch.bfloat16 and not query.is_cuda and row_attention.pays()
    each = [
        row_attention.row_attention(q, k, v, scaling)
        if in_bf16 and q.shape[2] <= row_attention.LONGEST
        else _by_kernel(q, k, v, scaling)
        for q, k, v in rows
    ]
    return torch.cat(each, dim=2).transpose(1, 2), None


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    q, k, v = (as_kernel_likes(x) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True).to(query.dtype)


AttentionInterface.register(NAME, packed_attention)
