"""A gradient that is larger than DeepSpeed's bucket is reduced piece by piece, not turned to float32 as a whole first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.comm import coalesced_collectives
from torch import Tensor

from wlsweep.spec.cost import PIECE
from wlsweep.train.patches import Setup

_NAME = "_DeepSpeedZeroOptimizer_Stage3__avg_scatter_grads"


def scatter_in_pieces(gradient: Tensor, dtype: torch.dtype, group: Any = None) -> Tensor:
    """This rank's share of the mean of all ranks' gradients; collective.

    Args:
        gradient: of any shape and dtype; alike on every rank.
        dtype: in which it is summed, and of the result.
        group: the ranks.
    """
    world, rank, flat = dist.get_world_size(group), dist.get_rank(group), gradient.reshape(-1)
    share = -(-flat.numel() // world)
    own = flat.new_empty(share, dtype=dtype)
    step = max(1, PIECE // world)
    for begin in range(0, share, step):
        length = min(step, share - begin)
        piece = flat.new_zeros(world, length, dtype=dtype)
        for r in range(world):
            part = flat[r * share : (r + 1) * share][begin : begin + length]  # the last share may be shorter
            piece[r, : part.numel()] = part
        piece.div_(world)
        coalesced_collectives._torch_reduce_scatter_fn(piece.view(-1), own[begin : begin + length], group=group)
    return own[: max(0, min(share, flat.numel() - rank * share))]


def apply(engine: Any, _setup: Setup) -> bool:
    """For an engine of several ranks."""
    optimizer = engine.optimizer
    all_at_once: Callable[..., list[Tensor]] = getattr(optimizer, _NAME)

    def scattered(parameters: Sequence[Any], dtype: torch.dtype) -> list[Tensor]:
        if len(parameters) > 1 or parameters[0].ds_numel <= optimizer.reduce_bucket_size:
            return all_at_once(parameters, dtype)
        group = optimizer._get_param_partition_group(parameters[0])
        share = scatter_in_pieces(parameters[0].grad, dtype, group)
        return [share.to(optimizer.gradient_accumulation_dtype)]

    setattr(optimizer, _NAME, scattered)
    return True
