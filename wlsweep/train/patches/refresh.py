"""A step writes new values into the parameters that stay gathered, where they are.

DeepSpeed frees each of them before a step and gathers it again after it. Of a small model that is more Python than
arithmetic. Here the ranks' shares, which are in one buffer, are gathered at once and copied. Should a parameter not be
gathered when a step begins, the step is DeepSpeed's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

from wlsweep.train.patches import Setup


def apply(engine: Any, _setup: Setup) -> bool:
    """For an engine whose parameters all stay gathered."""
    optimizer = engine.optimizer
    (parameters,), (shares,) = optimizer.fp16_groups, optimizer.fp16_partitioned_groups_flat
    first = optimizer.persistent_parameters[0]  # DeepSpeed asks it to gather all
    world, step, gather = dist.get_world_size(), optimizer.step, first.all_gather
    gathered = shares if world == 1 else shares.new_empty(world * shares.numel())
    where: list[int] = []
    to: list[torch.Tensor] = []
    what: list[torch.Tensor] = []

    def find_pieces() -> None:
        """Each rank's piece of each parameter; again only when parameters have moved."""
        if where == (found := [p.data_ptr() for p in parameters]):
            return
        where[:] = found
        to.clear()
        what.clear()
        at = 0
        for p in parameters:
            share = p.ds_tensor.ds_numel
            for rank, piece in enumerate(p.data.view(-1).split(share)):
                to.append(piece)
                what.append(gathered[rank * shares.numel() + at :][: piece.numel()])
            at += share

    def refresh(*_: Any, **__: Any) -> None:
        if world > 1:
            dist.all_gather_into_tensor(gathered, shares)
        find_pieces()
        torch._foreach_copy_(to, what)

    def step_in_place(closure: Any = None) -> None:
        if any(p.ds_status != ZeroParamStatus.AVAILABLE for p in parameters):
            step(closure)
            return
        for p in parameters:
            p.ds_active_sub_modules.clear()
        optimizer._partition_all_parameters, first.all_gather = (lambda: None), refresh
        try:
            step(closure)
        finally:
            del optimizer._partition_all_parameters
            first.all_gather = gather

    optimizer.step = step_in_place
    return True
