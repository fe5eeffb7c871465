"""Gradients of CPU ranks go straight to the rank that keeps them.

Gloo's reduce-scatter is an all-reduce of which each rank keeps its share: twice the bytes, and a third of the speed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.comm import coalesced_collectives

from wlsweep.train.patches import Setup


def reduce_scatter(buffer: torch.Tensor, own: torch.Tensor, group: Any = None, **_: Any) -> None:
    """Sum each rank's share of `buffer` into its `own`."""
    if own.numel() == buffer.numel():  # one rank
        if own.data_ptr() != buffer.data_ptr():
            own.copy_(buffer)
        return
    received = torch.empty_like(buffer)
    dist.all_to_all_single(received, buffer, group=group)
    torch.sum(received.view(-1, own.numel()), dim=0, out=own)


def apply(_target: None, _setup: Setup) -> bool:
    """For the whole process."""
    coalesced_collectives._torch_reduce_scatter_fn = reduce_scatter
    return True
