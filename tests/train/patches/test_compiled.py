"""Compiled gate and norms: the values and gradients of transformers' own, rounded no more than those, and less kept.

That ZeRO-3's hooks see nothing of it: `tests/train/test_zero3.py`.
"""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from wlsweep.train.kernels import has_compiler
from wlsweep.train.patches import Setup, suspended
from wlsweep.train.patches.compiled import apply

pytestmark = pytest.mark.skipif(not has_compiler(), reason="PyTorch's compiler needs g++")

WIDTH, TOKENS = 48, 70
COMPILED = Setup(gpu=False, compiled=True)


def mlp(dtype):
    torch.manual_seed(5)
    return LlamaMLP(LlamaConfig(hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_attention_heads=4)).to(dtype)


def norm(dtype):
    torch.manual_seed(6)
    made = Qwen2RMSNorm(WIDTH, eps=1e-6).to(dtype)
    made.weight.data = (1 + 0.3 * torch.randn(WIDTH, dtype=torch.float64)).to(dtype)
    return made


def passed(module, x, gradient):
    """Output, and gradients of input and weights, in float64."""
    x = x.clone().requires_grad_()
    out = module(x)
    out.backward(gradient)
    return [t.detach().double() for t in (out, x.grad, *(p.grad for p in module.parameters()))]


class Holder(torch.nn.Module):
    """Patches look for modules inside a model."""

    def __init__(self, module):
        super().__init__()
        self.inner = module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [mlp, norm])
def test_it_is_no_further_from_the_exact_values_than_transformers(kind, dtype):
    ours, theirs = kind(dtype), kind(dtype)
    exact = kind(dtype).double()
    assert apply(Holder(ours), COMPILED)
    x, gradient = (torch.randn(2, TOKENS, WIDTH, dtype=torch.float64).to(dtype) for _ in range(2))
    # transformers' norm computes in float32 whatever its dtype: the exact one is written out.
    if kind is norm:
        wide, weight = x.double().requires_grad_(), exact.weight
        out = weight * wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        out.backward(gradient.double())
        true = [out.detach(), wide.grad, weight.grad]
    else:
        true = passed(exact, x.double(), gradient.double())
    found = list(zip(passed(ours, x, gradient), passed(theirs, x, gradient), true, strict=True))
    for i, (got, other, value) in enumerate(found):
        error, allowed = (got - value).norm() / value.norm(), (other - value).norm() / value.norm()
        # The gradient of a norm's weight is a sum over all tokens, one after another.
        assert error <= (3 if kind is norm and i == 2 else 1.2) * allowed + 1e-7
        assert error < (1e-6 if dtype == torch.float32 else 1e-2)


def test_the_gate_keeps_its_two_inputs_alone():
    kept = {}
    for name, patched in (("theirs", False), ("ours", True)):
        module, shapes = mlp(torch.bfloat16), []
        assert not patched or apply(Holder(module), COMPILED)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=shapes: s.append(t.shape) or t, lambda t: t):
            module(torch.randn(1, TOKENS, WIDTH).bfloat16())
        kept[name] = sum(shape == (1, TOKENS, 3 * WIDTH) for shape in shapes)
    # Down's own input is one of either; silu, silu(x) and up are three of theirs, x and up two of ours.
    assert kept["theirs"] > kept["ours"] >= 2


def test_another_number_of_tokens_is_the_same_kernel_and_suspended_it_is_transformers_own():
    ours, theirs = mlp(torch.float32), mlp(torch.float32)
    assert apply(Holder(ours), COMPILED)
    for tokens in (3, 64, 200):
        x = torch.randn(1, tokens, WIDTH)
        assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
        with suspended(ours):
            assert torch.equal(ours(x), theirs(x))
    assert apply(torch.nn.Linear(2, 2), COMPILED) is False
