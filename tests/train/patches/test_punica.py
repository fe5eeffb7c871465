"""Products of adapters by runs of tokens: each token goes through its own adapter, and tokens without one through none."""

from types import SimpleNamespace

import pytest
import torch

from wlsweep.train.patches.punica import SHORT, _add_lora_linear, runs

ADAPTERS, RANK, INPUTS, SLICES = 3, 4, 20, (6, 10)


@pytest.mark.parametrize(
    "adapters",
    [
        [0] * 40,
        [0] * 40 + [1] * 30 + [-1] * 5 + [2] * 20,
        [0, 1, 2, 0, 1, 2, -1, 0],  # answers are being written: one token a row
        [2] * 40 + [0, 1, 2, -1, 1] + [1] * (SHORT - 1),
        [-1, -1],
    ],
)
def test_every_token_goes_through_its_own_adapter(adapters):
    torch.manual_seed(1)
    x = torch.randn(len(adapters), INPUTS)
    a = tuple(torch.randn(ADAPTERS, 1, RANK, INPUTS) for _ in SLICES)
    b = tuple(torch.randn(ADAPTERS, 1, size, RANK) for size in SLICES)
    before = torch.randn(len(adapters), sum(SLICES))
    found = before.clone()
    _add_lora_linear(SimpleNamespace(runs=runs(torch.tensor(adapters))), found, x, a, b, 0.5, SLICES)
    for token, number in enumerate(adapters):
        change = [0.5 * b_[number, 0] @ a_[number, 0] @ x[token] for a_, b_ in zip(a, b, strict=True)]
        expected = before[token] + (torch.cat(change) if number >= 0 else 0)
        assert torch.allclose(found[token], expected, atol=1e-5)


def test_there_are_no_more_products_than_long_runs_and_adapters():
    interleaved = torch.tensor([0, 1, 2] * 50 + [1] * 100)
    found = runs(interleaved)
    assert sorted(number for _, number in found) == [0, 1, 1, 2]
    assert sum(where.stop - where.start if isinstance(where, slice) else len(where) for where, _ in found) == 250
