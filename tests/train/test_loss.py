"""Losses against closed forms, value and gradient, in float64 where the form is exact."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.spec.condition import Condition
from wlsweep.train.loss import (
    binary_loss,
    class_weights,
    global_loss,
    sample_loss,
    sample_weights,
    score_answers,
)

A, R, DECISION = 3, 7, 2
LABELS = AnswerTokens((0,) * DECISION, A, R, ())


def drawn(rows=6, width=5, vocab=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, vocab, generator=g, dtype=torch.float32)
    accept = torch.tensor([1.0, 0.0] * (rows // 2))
    answers = torch.randint(0, vocab, (rows, width), generator=g)
    answers[:, DECISION] = torch.where(accept.bool(), A, R)
    return logits, answers, accept


def loss_of(condition, logits, answers, accept, weights=None, format_weight=1.0):
    parts = sample_loss(score_answers(logits, answers, LABELS), accept, condition)
    w = torch.ones(len(accept)) if weights is None else torch.where(accept.bool(), *map(torch.tensor, weights))
    return global_loss(parts, w, torch.ones(len(accept)), len(accept), format_weight)


@pytest.mark.parametrize("kind", ["binary", "sequence", "decision_token"])
def test_without_weights_every_kind_is_token_cross_entropy(kind):
    logits, answers, accept = drawn()
    condition = Condition("baseline", 1.0, 2, loss=kind)
    for tensor in (ours := logits.clone().requires_grad_(), theirs := logits.clone().requires_grad_()):
        tensor.grad = None
    found = loss_of(condition, ours, answers, accept)
    expected = cross_entropy(theirs.flatten(0, 1), answers.flatten(), reduction="sum") / len(accept)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("weights", "y"), [((4.0, 1.0), 1.0), ((4.0, 1.0), 0.0), ((1.0, 4.0), 0.0), ((1.0, 4.0), 1.0)])
def test_the_weighted_binary_loss_is_the_published_formula(weights, y):
    """-[g_a y log p + g_r (1 - y) log(1 - p)], gradient in the log-odds w (p - y)."""
    z = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    accept = torch.tensor([y], dtype=torch.float64)
    w = weights[0] if y else weights[1]
    loss = w * binary_loss(z, accept).sum()
    loss.backward()
    p = 1 / (1 + math.exp(-0.7))
    assert loss.item() == pytest.approx(-w * (y * math.log(p) + (1 - y) * math.log(1 - p)), rel=1e-14)
    assert z.grad.item() == pytest.approx(w * (p - y), rel=1e-14)


def test_gamma_acts_on_the_decision_only_in_the_binary_loss():
    logits, answers, accept = drawn()
    logits.requires_grad_()
    condition = Condition("accept", 4.0, 2)
    (loss_of(condition, logits, answers, accept, (4.0, 1.0)) - loss_of(condition, logits, answers, accept)).backward()
    grad = logits.grad
    assert grad[:, [i for i in range(5) if i != DECISION]].abs().max() < 1e-7
    others = [i for i in range(11) if i not in (A, R)]
    assert grad[:, DECISION][:, others].abs().max() < 1e-7
    assert grad[1::2].abs().max() < 1e-7  # rejects
    assert (grad[0::2, DECISION, A] < 0).all()


@pytest.mark.parametrize("kind", ["binary", "sequence", "decision_token"])
def test_gamma_2_on_accepts_alone_doubles_the_weighted_gradient(kind):
    logits, answers, accept = drawn()
    answers[:, DECISION], accept = A, torch.ones_like(accept)
    condition = Condition("accept", 2.0, 2, loss=kind)
    grads = []
    for weights in ((1.0, 1.0), (2.0, 1.0)):
        x = logits.clone().requires_grad_()
        loss_of(condition, x, answers, accept, weights, format_weight=0.0).backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[1], 2 * grads[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("focal", [0.5, 2.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_focal_loss_is_its_closed_form(focal, y):
    """-(1 - p_t)^g log p_t; d/dz for y = 1: (1-p)^g (g p log p - (1 - p))."""
    z = torch.tensor([-0.4], dtype=torch.float64, requires_grad=True)
    loss = binary_loss(z, torch.tensor([y], dtype=torch.float64), focal=focal).sum()
    loss.backward()
    s = 1 if y else -1
    p = 1 / (1 + math.exp(0.4 * s))
    assert loss.item() == pytest.approx(-((1 - p) ** focal) * math.log(p), rel=1e-12)
    assert z.grad.item() == pytest.approx(s * (1 - p) ** focal * (focal * p * math.log(p) - (1 - p)), rel=1e-12)


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_label_smoothing_is_bce_to_the_softened_label(y):
    z = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    loss = binary_loss(z, torch.tensor([y], dtype=torch.float64), smoothing=0.1).sum()
    loss.backward()
    p, t = 1 / (1 + math.exp(-0.3)), y * 0.9 + 0.05
    assert loss.item() == pytest.approx(-t * math.log(p) - (1 - t) * math.log(1 - p), rel=1e-12)
    assert z.grad.item() == pytest.approx(p - t, rel=1e-12)


@pytest.mark.parametrize("balance", ["none", "inverse", "effective"])
def test_class_weights_have_mean_one_over_the_samples(balance):
    a, r = class_weights(300, 700, balance, beta=0.999)
    assert (300 * a + 700 * r) / 1000 == pytest.approx(1, rel=1e-12)


def test_class_weights_are_the_published_ones():
    assert class_weights(250, 750, "inverse", 0.9) == (2.0, pytest.approx(2 / 3))
    a, r = class_weights(250, 750, "effective", 0.99)
    assert a / r == pytest.approx((1 - 0.99**750) / (1 - 0.99**250), rel=1e-12)


def test_gamma_multiplies_the_class_weight():
    a, r = sample_weights(Condition("reject", 4.0, 4, balance="inverse"), 250, 750, 0.999)
    assert (a, r) == (2.0, pytest.approx(4 * 2 / 3))


def test_the_normaliser_is_the_number_of_samples_and_not_the_sum_of_weights():
    logits, answers, accept = drawn(rows=2)
    one = loss_of(Condition("accept", 8.0, 2), logits[:1], answers[:1], accept[:1], (8.0, 1.0), 0.0)
    plain = loss_of(Condition("accept", 8.0, 2), logits[:1], answers[:1], accept[:1], (1.0, 1.0), 0.0)
    assert one.item() == pytest.approx(8 * plain.item(), rel=1e-6)
