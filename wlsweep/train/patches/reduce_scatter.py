"""Gradients of CPU ranks go straight to the rank that keeps them, and those of a single rank nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.comm import coalesced_collectives
from deepspeed.runtime.zero import stage3

from wlsweep.train.patches import Setup


def reduce_scatter(buffer: torch.Tensor, own: torch.Tensor, group: Any = None, **_: Any) -> None:
    """Sum each rank's share of `buffer` into its `own`."""
    received = torch.empty_like(buffer)
    dist.all_to_all_single(received, buffer, group=group)
    torch.sum(received.view(-1, own.numel()), dim=0, out=own)


def keep_all(gradients: Sequence[torch.Tensor], _group: Any = None) -> list[torch.Tensor]:
    """A single rank's shares of its gradients: the gradients. What DeepSpeed does next copies them."""
    return [g.reshape(-1) for g in gradients]


def apply(_target: None, setup: Setup) -> bool:
    """For the whole process."""
    if setup.world == 1:
        stage3.reduce_scatter_coalesced = keep_all
    else:
        coalesced_collectives._torch_reduce_scatter_fn = reduce_scatter
    return True
