"""DeepSpeed forgets the models of engines that were destroyed.

The stack of modules of the forward pass keeps each model at its bottom, and its hooks hold the engine and the optimizer. A
method's cache, inside a decorator, keeps every module that was ever asked for. A worker that trains condition after
condition would keep them all.
"""

from __future__ import annotations

from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

from wlsweep.train.patches import Setup


def apply(_target: None, _setup: Setup) -> bool:
    """After an engine was destroyed; no other may be in use in this process."""
    FWD_MODULE_STACK.clear()
    for method in vars(PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()
    return True
