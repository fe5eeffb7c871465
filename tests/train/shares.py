"""Run by torchrun: what passes between ranks that share parameters of awkward sizes, against sums and steps made here.

torchrun --nproc-per-node 3 -m tests.train.shares
"""

import torch
import torch.distributed as dist

from tests.train.made_rows import train_config
from wlsweep.train import patches
from wlsweep.train.patches import large_gradients
from wlsweep.train.zero3 import deepspeed, join_group, zero3_config

SIZES = (4, 7, 1, 30)
"""Elements of the gradients: shares of unequal length, an empty one, and one that comes out even."""


def gradient(rank, size):
    return torch.randn(size, generator=torch.Generator().manual_seed(100 * rank + size))


def reduced(place):
    from deepspeed.runtime.comm.coalesced_collectives import reduce_scatter_coalesced

    for sizes in (SIZES, SIZES[-1:]):  # one gradient alone is reduced where it lies
        shares = reduce_scatter_coalesced([gradient(place.rank, n) for n in sizes])
        for share, n in zip(shares, sizes, strict=True):
            whole = torch.stack([gradient(r, n) for r in range(place.world)]).mean(dim=0)
            length = -(-n // place.world)
            torch.testing.assert_close(share, whole[place.rank * length : (place.rank + 1) * length])


def in_pieces(place):
    """A large gradient's share, made piece by piece, has the bits of one reduction."""
    from deepspeed.runtime.comm.coalesced_collectives import reduce_scatter_coalesced

    for dtype in (torch.float32, torch.bfloat16):
        for size in (*SIZES, 1000):
            whole = gradient(place.rank, size).to(dtype)
            large_gradients.PIECE = 8 * place.world
            share = large_gradients.scatter_in_pieces(whole, torch.float32)
            (at_once,) = reduce_scatter_coalesced([whole.float().clone()])
            assert torch.equal(share, at_once) and torch.equal(whole, gradient(place.rank, size).to(dtype))


class Products(torch.nn.Module):
    """A loss whose gradient is its input."""

    def __init__(self):
        super().__init__()
        self.all = torch.nn.ParameterList(torch.nn.Parameter(gradient(9, n)) for n in SIZES)

    def forward(self, step, rank):
        return sum((p * gradient(10 * step + rank, n)).sum() for p, n in zip(self.all, SIZES, strict=True))


def stepped(place):
    """Parameters after some steps, refreshed where they lie, against a plain optimizer's of the mean gradient."""
    plain = Products()
    train = train_config(1, 8, False).model_copy(update={"workers": place.world, "global_batch": 8 * place.world})
    model = Products()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.01) for m in (plain, model)]
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizers[1], config=zero3_config(train, 42) | {"gradient_clipping": 0.0}
    )
    assert patches.apply("engine", patches.Setup(gpu=False, world=place.world, gathered=True), engine) == ["refresh"]
    places = []
    for step in range(4):
        engine.backward(engine(step, place.rank))
        engine.step()
        sum(plain(step, r) for r in range(place.world)).div(place.world).backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
        for mine, exact in zip(model.all, plain.all, strict=True):
            torch.testing.assert_close(mine.data, exact.data)
        places.append([p.data_ptr() for p in model.all])
    assert places[1:] == places[:-1], "parameters were freed and gathered anew"


def main():
    dist.init_process_group("gloo")
    place = join_group()
    reduced(place)
    in_pieces(place)
    stepped(place)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
