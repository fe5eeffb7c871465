"""Adapters in few passes: the values and gradients of PEFT's own, rounded no more than those, and less kept."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from wlsweep.train.patches import Setup, suspended
from wlsweep.train.patches.adapter import apply

INPUTS, OUTPUTS, TOKENS = 48, 80, 70


class Layer(nn.Module):
    """One linear layer, which PEFT can put an adapter beside."""

    def __init__(self, dtype):
        super().__init__()
        self.up = nn.Linear(INPUTS, OUTPUTS, bias=False, dtype=dtype)

    def forward(self, x):
        return self.up(x)


def layer(dtype, scale=2.0, dropout=0.0):
    """A layer with an adapter of rank 4 in float32, both factors random, as training makes it."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=int(4 * scale), lora_dropout=dropout, target_modules=["up"])
    made = inject_adapter_in_model(config, Layer(dtype))
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape)
    return made


def passed(model, x, gradient):
    """Output, and gradients of input, A and B, in float64."""
    x = x.clone().requires_grad_()
    out = model(x)
    out.backward(gradient)
    factors = [model.up.lora_A["default"].weight, model.up.lora_B["default"].weight]
    return [t.detach().double() for t in (out, x.grad, *(f.grad for f in factors))]


@pytest.mark.parametrize("shape", [(2, TOKENS), (1, TOKENS)])
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-6)])
def test_it_is_no_further_from_the_exact_values_than_peft(dtype, most, onednn, shape, monkeypatch):
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr("wlsweep.train.patches.adapter.pays", lambda: onednn)
    theirs, ours, exact = layer(dtype), layer(dtype), layer(dtype).double()
    assert apply(ours, Setup(gpu=False, dtype="bf16" if dtype == torch.bfloat16 else "fp32", packed=True))
    x, gradient = torch.randn(*shape, INPUTS).to(dtype), torch.randn(*shape, OUTPUTS).to(dtype)
    for got, other, true in zip(
        passed(ours, x, gradient),
        passed(theirs, x, gradient),
        passed(exact, x.double(), gradient.double()),
        strict=True,
    ):
        error, allowed = (got - true).norm() / true.norm(), (other - true).norm() / true.norm()
        assert error <= 1.1 * allowed + 1e-6 and error < most


def test_of_each_input_and_adapter_no_float32_copy_is_kept():
    ours = layer(torch.bfloat16)
    assert apply(ours, Setup(gpu=False, dtype="bf16"))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours(torch.randn(1, TOKENS, INPUTS).bfloat16().requires_grad_())
    assert kept and not [t.shape for t in kept if t.dtype == torch.float32 and t.shape[-1] == INPUTS and t.dim() == 3]


def test_beside_a_float32_layer_no_output_is_made_twice():
    """PEFT's own pass makes the layer's output, the adapter's, its scaled copy and the sum; here the product adds."""
    ours = layer(torch.float32)
    assert apply(ours, Setup(gpu=False))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        ours(torch.randn(1, TOKENS, INPUTS))
    done = [e.name for e in seen.events()]
    assert "aten::addmm" in done and not {"aten::add", "aten::add_"} & {*done}


def test_dropout_reaches_the_adapter_alone():
    ours = layer(torch.bfloat16, dropout=0.999999)
    assert apply(ours, Setup(gpu=False, dtype="bf16"))
    x = torch.randn(1, TOKENS, INPUTS).bfloat16()
    assert torch.equal(ours.train()(x), ours.up.base_layer(x)) and not torch.equal(
        ours.eval()(x), ours.up.base_layer(x)
    )


def test_suspended_it_is_pefts_own_forward_pass():
    theirs, ours = layer(torch.bfloat16), layer(torch.bfloat16)
    assert apply(ours, Setup(gpu=False, dtype="bf16"))
    x = torch.randn(1, TOKENS, INPUTS).bfloat16()
    with suspended(ours):
        assert torch.equal(ours(x), theirs(x))
    assert apply(nn.Linear(2, 2), Setup(gpu=False, dtype="bf16")) is False
