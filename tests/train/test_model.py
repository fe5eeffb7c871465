"""The forward pass: logits exist at the answer's positions only."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.spec.condition import Condition
from wlsweep.train.model import AnswerModel, collate, run_forward
from wlsweep.train.packed import packed_attention
from wlsweep.train.patches import Setup, onednn

ANSWER = AnswerTokens(prefix=(5,), accept=7, reject=8, suffix=(6,))


def made(vocab=4096, prompt=200, rows=4, attention="sdpa"):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = attention
    model = AnswerModel(Qwen2ForCausalLM(config), Condition("accept", 2.0, 2), ANSWER)
    prompts = [np.arange(10, 10 + prompt - 30 * i, dtype=np.int32) for i in range(rows)]
    accept = [i % 2 == 0 for i in range(rows)]
    batch = collate(prompts, ANSWER, accept, (2.0, 1.0), rows, torch.device("cpu"), attention == "packed")
    return model, batch


SPLIT = ANSWER._replace(reject_suffix=(9, 9, 6))
"""Answers of different lengths; the decision is the second token."""


def split_batch(rows=range(4), attention="sdpa", samples=4):
    """Rows whose labels are of one and of three tokens; the row with the short answer is the longest."""
    prompts = [np.arange(10, 60 - 9 * i, dtype=np.int32) for i in rows]
    accept = [i % 2 == 0 for i in rows]
    return collate(prompts, SPLIT, accept, (2.0, 1.0), samples, torch.device("cpu"), attention == "packed")


@pytest.mark.parametrize("attention", ["sdpa", "packed"])
def test_at_gamma_1_the_loss_is_token_cross_entropy_of_answers_of_different_lengths(attention):
    model, _ = made(attention=attention)
    batch = split_batch(attention=attention)._replace(weights=torch.ones(4))
    exact = []
    model.lm.set_attn_implementation("sdpa")
    for i in range(4):
        prompt, answer = list(range(10, 60 - 9 * i)), SPLIT.ids(i % 2 == 0)
        logits = model.lm(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        exact.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
    model.lm.set_attn_implementation(attention)
    out = run_forward(model, batch, 1.0)
    assert out.loss.item() == pytest.approx(torch.stack(exact).mean().item(), rel=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "packed"])
def test_answers_of_different_lengths_in_one_micro_batch_give_the_gradient_of_one_row_each(attention):
    (together, _), (single, _) = made(attention=attention), made(attention=attention)
    out = run_forward(together, split_batch(attention=attention), 1.0)
    out.loss.backward()
    losses, labels = [], []
    for i in range(4):
        one = run_forward(single, split_batch([i], attention), 1.0)
        one.loss.backward()
        losses.append(one.loss.item())
        labels.append(one.label_logprobs[0])
    assert out.loss.item() == pytest.approx(sum(losses), rel=1e-6)
    assert torch.allclose(out.label_logprobs, torch.stack(labels), atol=1e-6)
    for (name, a), (_, b) in zip(together.named_parameters(), single.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-7), name


def test_answers_of_one_length_are_not_filled_up():
    assert made()[1].counted is None
    assert split_batch().counted.tolist() == [[1, 1, 1, 0, 0], [1] * 5] * 2


def test_logits_are_computed_at_the_answer_positions_only():
    model, batch = made()
    shapes = []
    model.lm.lm_head.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    run_forward(model, batch, 1.0).loss.backward()
    assert shapes == [(4, 3, 4096)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "packed"])
def test_the_last_layer_at_the_answers_alone_gives_the_loss_and_gradient_of_the_whole_layer(attention, checkpointing):
    (short, batch), (whole, _) = made(attention=attention), made(attention=attention)
    del whole.lm.model.layers[-1].forward
    whole.short = False
    widths = []
    short.lm.model.layers[-1].mlp.register_forward_hook(lambda module, args, out: widths.append(tuple(out.shape)))
    losses = []
    for model in (short, whole):
        if checkpointing:
            model.lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        out = run_forward(model.train(), batch, 1.0)
        out.loss.backward()
        losses.append(out.loss.item())
    assert set(widths) == {(4, 3, 16)} and losses[0] == pytest.approx(losses[1], rel=1e-6)
    for (name, a), (_, b) in zip(short.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-7), name


def test_linear_layers_through_onednn_differ_by_rounding_alone(monkeypatch):
    (model, batch), (fast, _) = made(), made()
    monkeypatch.setattr(onednn, "pays", lambda: True)
    assert onednn.apply(fast, Setup(gpu=False))
    for m in (model, fast):
        run_forward(m, batch, 1.0).loss.backward()
    plain, other = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (model, fast))
    assert (plain - other).norm() / plain.norm() < 1e-6
    head, to_head = fast.lm.lm_head, torch.ones(1, fast.lm.config.hidden_size)
    assert "_Linear" in head(to_head).grad_fn.name()  # and not PyTorch's own, so there was something to compare


def test_packed_rows_give_the_loss_and_gradient_of_padded_ones():
    (model, batch), (packing, packed) = made(), made(attention="packed")
    tokens = sum(range(113, 204, 30))
    assert packed.input_ids.shape == (1, tokens + -tokens % 64) and batch.input_ids.shape == (4, 203)
    padded, out = run_forward(model, batch, 1.0), run_forward(packing, packed, 1.0)
    assert torch.allclose(out.label_logprobs, padded.label_logprobs, atol=1e-6)
    (padded.loss + out.loss).backward()
    for (name, a), (_, b) in zip(model.named_parameters(), packing.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-7), name


def test_a_packed_row_does_not_see_the_others():
    model, batch = made(attention="packed")
    scores = run_forward(model, batch, 1.0).label_logprobs
    end = int(batch.boundaries[1])
    batch.input_ids[:, :end] += 100
    changed = run_forward(model, batch, 1.0).label_logprobs
    assert torch.equal(scores[1:], changed[1:]) and not torch.allclose(scores[0], changed[0])


def test_on_a_cpu_without_bf16_products_packed_attention_computes_in_float32(monkeypatch):
    monkeypatch.setattr("wlsweep.train.packed.bf16_pays", lambda: False)
    q, k, v = (torch.randn(1, heads, 90, 32, dtype=torch.bfloat16) for heads in (4, 2, 2))
    form = {"scaling": 0.2, "boundaries": torch.tensor([0, 40, 41, 90], dtype=torch.int32), "longest": 49}
    found, _ = packed_attention(torch.nn.Identity(), q, k, v, None, **form)
    exact, _ = packed_attention(torch.nn.Identity(), q.float(), k.float(), v.float(), None, **form)
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.to(torch.bfloat16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention's variable-length kernel needs a GPU")
def test_on_a_gpu_packed_attention_is_the_variable_length_kernel_with_the_same_result():
    q, k, v = (torch.randn(1, heads, 90, 64, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2))
    boundaries = torch.tensor([0, 40, 41, 90], dtype=torch.int32, device="cuda")
    form = {"scaling": 0.125, "boundaries": boundaries, "longest": 49}
    kernel, _ = packed_attention(torch.nn.Identity(), q, k, v, None, **form)
    each, _ = packed_attention(torch.nn.Identity(), q.float(), k.float(), v.float(), None, **form)
    assert torch.allclose(kernel.float(), each, atol=0.02)


def test_the_scores_are_those_of_a_full_forward_pass_row_by_row():
    model, batch = made()
    out = run_forward(model, batch, 1.0)
    for row in range(4):
        n = int(batch.prompt_lengths[row])
        logits = model.lm(input_ids=batch.input_ids[row : row + 1, : n + 3]).logits[0, n].float()
        assert torch.allclose(out.label_logprobs[row], logits.log_softmax(-1)[[7, 8]], atol=1e-5)
        assert torch.allclose(out.scores.log_odds[row], logits[7] - logits[8], atol=1e-5)
