"""The forward pass: logits exist at the answer's positions only."""

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from wlsweep.conditions import Condition
from wlsweep.train.model import AnswerModel, collate, run_forward


def made(vocab=4096, prompt=200, rows=4):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = AnswerModel(Qwen2ForCausalLM(config), Condition("accept", 2.0, 2), 1, 7, 8)
    prompts = [np.arange(10, 10 + prompt - i, dtype=np.int32) for i in range(rows)]
    accept = [i % 2 == 0 for i in range(rows)]
    batch = collate(
        prompts, [[5, 7 if a else 8, 6] for a in accept], accept, (2.0, 1.0), [True] * rows, rows, torch.device("cpu")
    )
    return model, batch


def test_logits_are_computed_at_the_answer_positions_only():
    model, batch = made()
    shapes = []
    model.lm.lm_head.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    run_forward(model, batch, 1.0).loss.backward()
    assert shapes == [(4, 3, 4096)]


def test_the_scores_are_those_of_a_full_forward_pass_row_by_row():
    model, batch = made()
    out = run_forward(model, batch, 1.0)
    for row in range(4):
        n = int(batch.prompt_lengths[row])
        logits = model.lm(input_ids=batch.input_ids[row : row + 1, : n + 3]).logits[0, n].float()
        assert torch.allclose(out.label_logprobs[row], logits.log_softmax(-1)[[7, 8]], atol=1e-5)
        assert torch.allclose(out.scores.log_odds[row], logits[7] - logits[8], atol=1e-5)
