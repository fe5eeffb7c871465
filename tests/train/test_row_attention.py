"""Attention by bf16 products: as near to the exact values as PyTorch's float32 kernel is once its result is rounded."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from wlsweep.train import packed
from wlsweep.train.packed import bf16_pays, packed_attention, row_attention

pytestmark = pytest.mark.skipif(not bf16_pays(), reason="this processor has no bf16 products (avx512_bf16 or amx_bf16)")


def exact(q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.125, enable_gqa=True)


def kernel(q, k, v):
    return exact(q.float(), k.float(), v.float()).to(q.dtype)


def passed(attend, inputs, gradient):
    """Output and gradients, in float64."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = attend(*inputs)
    return [t.detach().double() for t in (out, *torch.autograd.grad(out, inputs, gradient.to(out.dtype)))]


@pytest.mark.parametrize("tokens", [1, 2, 37, 290])
@pytest.mark.parametrize("heads", [(9, 3), (4, 4), (2, 1)])
def test_it_is_as_near_to_the_exact_values_as_the_float32_kernel(tokens, heads):
    torch.manual_seed(tokens)
    inputs = [torch.randn(1, n, tokens, 64).bfloat16() for n in (heads[0], heads[1], heads[1])]
    gradient = torch.randn(1, heads[0], tokens, 64).bfloat16()
    true = passed(exact, [x.double() for x in inputs], gradient)
    theirs = passed(kernel, inputs, gradient)
    ours = passed(lambda q, k, v: row_attention(q, k, v, 0.125), inputs, gradient)
    for got, other, value in zip(ours, theirs, true, strict=True):
        if tokens == 1:  # one token attends to itself alone, whatever its query and key are
            assert (got - value).abs().max() < 0.02
        else:
            assert (got - value).norm() <= 1.3 * (other - value).norm()


def test_the_precision_of_other_products_is_left_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision
    row_attention(*(torch.randn(1, 2, 40, 16).bfloat16() for _ in range(3)), 0.25)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_long_rows_go_to_the_kernel_with_the_same_result_to_rounding(monkeypatch):
    q, k, v = (torch.randn(1, heads, 90, 32).bfloat16() for heads in (4, 2, 2))
    form = {"scaling": 0.2, "boundaries": torch.tensor([0, 40, 41, 90], dtype=torch.int32), "longest": 49}
    short, _ = packed_attention(torch.nn.Identity(), q, k, v, None, **form)
    monkeypatch.setattr(packed, "LONGEST", 0)
    long, _ = packed_attention(torch.nn.Identity(), q, k, v, None, **form)
    assert not torch.equal(short, long) and torch.allclose(short.float(), long.float(), atol=0.03)
