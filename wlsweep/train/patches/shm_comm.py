"""DeepSpeed's optional shared-memory all-reduce for CPU ranks is not compiled: half a minute at the first start."""

from __future__ import annotations

import deepspeed.ops

from wlsweep.train.patches import Setup


def apply(_target: None, _setup: Setup) -> bool:
    """For the whole process, before DeepSpeed looks for it."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return True
