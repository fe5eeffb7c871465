"""The LM head of bf16 models: float32 products by pieces of its weight, against float64."""

import pytest
import torch

from wlsweep.train import head as head_module
from wlsweep.train.head import compute_in_float32
from wlsweep.train.live_memory import LiveBytes

VOCAB, WIDTH, ROWS, ANSWER = 1000, 48, 3, 5


def made(vocab=VOCAB, width=WIDTH, frozen=False):
    torch.manual_seed(0)
    head = torch.nn.Linear(width, vocab, bias=False, dtype=torch.bfloat16)
    head.weight.requires_grad_(not frozen)
    hidden = torch.randn(ROWS, ANSWER, width, dtype=torch.bfloat16, requires_grad=True)
    return head, hidden


def passed(head, hidden, weights):
    logits = head(hidden)
    (logits.log_softmax(-1) * weights).sum().backward()
    return logits.detach(), hidden.grad, head.weight.grad


@pytest.mark.parametrize("rows", [1, 7, 64, 5000])
def test_logits_and_gradients_are_those_of_float64_within_one_rounding(monkeypatch, rows):
    monkeypatch.setattr(head_module, "PIECE", rows * WIDTH)
    head, hidden = made()
    weights = torch.randn(ROWS, ANSWER, VOCAB)
    exact_hidden = hidden.detach().double().requires_grad_()
    exact_weight = head.weight.detach().double().requires_grad_()
    exact = exact_hidden @ exact_weight.t()
    (exact.log_softmax(-1) * weights.double()).sum().backward()
    compute_in_float32(head)
    logits, to_hidden, to_weight = passed(head, hidden, weights)
    assert logits.dtype == torch.float32 and to_weight.dtype == to_hidden.dtype == torch.bfloat16
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)
    # One rounding to bf16: half a unit of its 8 bits.
    for found, truth in ((to_hidden, exact_hidden.grad), (to_weight, exact_weight.grad)):
        torch.testing.assert_close(found.double(), truth, rtol=2**-8 * 1.01, atol=1e-4 * float(truth.abs().max()))


def test_a_frozen_head_gets_no_gradient_and_passes_one_on():
    head, hidden = made(frozen=True)
    compute_in_float32(head)
    _, to_hidden, to_weight = passed(head, hidden, torch.randn(ROWS, ANSWER, VOCAB))
    assert to_weight is None and to_hidden.abs().max() > 0


def test_the_head_holds_its_gradient_and_little_more(monkeypatch):
    head, hidden = made(vocab=60_000, width=128)
    compute_in_float32(head)
    monkeypatch.setattr(head_module, "PIECE", 1 << 18)
    with LiveBytes() as counted:
        logits = head(hidden)
        gradient = torch.ones_like(logits)
        before = counted.total
        logits.backward(gradient)
    held = (counted.peak - before) / head.weight.numel()
    assert 2.0 <= held < 2.6, "bytes a parameter of the head; written plainly 8 to 10"
