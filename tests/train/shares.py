"""Run by torchrun: each rank's share of summed gradients, as DeepSpeed's ZeRO-3 asks for it, against sums made here.

torchrun --nproc-per-node 3 -m tests.train.shares
"""

import torch
import torch.distributed as dist

from wlsweep.train.engine import join_group

SIZES = (4, 7, 1, 30)
"""Elements of the gradients: shares of unequal length, an empty one, and one that comes out even."""


def gradient(rank, size):
    return torch.randn(size, generator=torch.Generator().manual_seed(100 * rank + size))


def main():
    dist.init_process_group("gloo")
    place = join_group()
    from deepspeed.runtime.comm.coalesced_collectives import reduce_scatter_coalesced

    for sizes in (SIZES, SIZES[-1:]):  # one gradient alone is reduced where it lies
        shares = reduce_scatter_coalesced([gradient(place.rank, n) for n in sizes])
        for share, n in zip(shares, sizes, strict=True):
            whole = torch.stack([gradient(r, n) for r in range(place.world)]).mean(dim=0)
            length = -(-n // place.world)
            torch.testing.assert_close(share, whole[place.rank * length : (place.rank + 1) * length])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
