"""Costs from configuration alone, against the models and the estimator themselves."""

import pytest

from wlsweep.config import load_sweep
from wlsweep.cost import architecture, training_memory


def test_the_parameters_of_qwen_7b_are_the_published_number():
    assert architecture(load_sweep("search_spaces/iclr19.toml").model).parameters == 7_615_616_512


@pytest.mark.parametrize("space", ["demo", "abstracts", "iclr19"])
def test_the_parameter_formula_counts_what_the_model_has(space):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    a = architecture(load_sweep(f"search_spaces/{space}.toml").model)
    config = Qwen2Config(
        vocab_size=a.vocab,
        hidden_size=a.width,
        intermediate_size=a.mlp,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        tie_word_embeddings=a.tied,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    assert a.parameters == sum(p.numel() for p in model.parameters())


def test_model_states_agree_with_deepspeeds_own_estimator():
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    sweep = load_sweep("search_spaces/iclr19.toml")
    a = architecture(sweep.model)
    _, gpu, _ = estimate_zero3_model_states_mem_needs(
        a.parameters, a.largest_layer, num_gpus_per_node=4, num_nodes=1, cpu_offload=False
    )
    assert training_memory(a, sweep).model_states == pytest.approx(gpu, rel=0.01)
