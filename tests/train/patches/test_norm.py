"""Norms in few passes: the same values and gradients as transformers' own, rounded no more than those."""

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from wlsweep.train.patches import Setup
from wlsweep.train.patches.norm import NORMS, apply

WIDTH, TOKENS = 48, 70


def passed(norm, x, gradient):
    """Output and gradients in float64."""
    x = x.clone().requires_grad_()
    out = norm(x)
    out.backward(gradient)
    return [t.detach().double() for t in (out, x.grad, norm.weight.grad)]


def norms(dtype, kind=Qwen2RMSNorm):
    """The module of transformers and ours, with the same weights."""
    torch.manual_seed(1)
    weight = 1 + 0.3 * torch.randn(WIDTH, dtype=torch.float64)
    made = [kind(WIDTH, eps=1e-6).to(dtype) for _ in range(2)]
    for norm in made:
        norm.weight.data = weight.to(dtype)
    assert apply(nn.ModuleList(made[1:]), Setup(gpu=False))
    return made


@pytest.mark.parametrize("shape", [(2, TOKENS, WIDTH), (TOKENS, WIDTH)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", NORMS)
def test_it_is_no_further_from_the_exact_values_than_transformers(kind, dtype, shape):
    theirs, ours = norms(dtype, kind)
    x = (torch.randn(shape, dtype=torch.float64) * torch.logspace(-3, 2, TOKENS, dtype=torch.float64)[:, None]).to(
        dtype
    )
    gradient = torch.randn(shape, dtype=torch.float64).to(dtype)
    exact_x, weight = x.double().requires_grad_(), ours.weight.detach().double().requires_grad_()
    exact = weight * exact_x * (exact_x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    exact.backward(gradient.double())
    for got, other, true in zip(
        passed(ours, x, gradient),
        passed(theirs, x, gradient),
        (exact.detach(), exact_x.grad, weight.grad),
        strict=True,
    ):
        error, allowed = (got - true).norm() / true.norm(), (other - true).norm() / true.norm()
        assert error <= 1.2 * allowed and error < (1e-6 if dtype == torch.float32 else 1e-2)


def test_the_gradient_is_that_of_finite_differences():
    (_, ours), x = norms(torch.float32), torch.randn(5, WIDTH)
    gradient = torch.randn(5, WIDTH)
    _, to_x, _ = passed(ours, x, gradient)
    direction = torch.randn(5, WIDTH)

    def scalar(at):
        return ((ours(x + at * direction)).double() * gradient).sum().item()

    slope = (scalar(1e-2) - scalar(-1e-2)) / 2e-2
    assert slope == pytest.approx((to_x * direction).sum().item(), rel=1e-3)


def test_every_norm_of_a_qwen2_model_takes_part_and_keeps_its_hooks():
    config = Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    lm = Qwen2ForCausalLM(config)
    apply(lm, Setup(gpu=False))
    heard = []
    for name, module in lm.named_modules():
        if isinstance(module, Qwen2RMSNorm):
            module.register_forward_hook(lambda m, a, out, name=name: heard.append((name, out.grad_fn.name())))
    lm(torch.arange(8)[None]).logits.sum().backward()
    assert len(heard) == 5 and {kind for _, kind in heard} == {"_NormBackward"}
