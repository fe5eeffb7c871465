"""Costs from configuration alone, against the models and the estimator themselves."""

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM

from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import load_sweep
from wlsweep.spec.cost import training_memory
from wlsweep.train.model import AnswerModel, collate, run_forward
from wlsweep.train.patches import Setup, apply


def configuration(a: Architecture) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=a.vocab,
        hidden_size=a.width,
        intermediate_size=a.mlp,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        tie_word_embeddings=a.tied,
    )


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made while it is entered, and the most that lived at once."""

    def __init__(self, *known):
        super().__init__()
        self.known, self.live, self.peak = {t.untyped_storage().data_ptr() for t in known}, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if storage.data_ptr() not in self.known and key not in self.live:
                    self.live[key] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return out


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_of_activations_and_logits_is_what_a_training_pass_takes(dtype, checkpointing):
    a = Architecture(vocab=2048, width=256, mlp=768, layers=4, heads=4, kv_heads=2, tied=False)
    rows, cutoff, answer = 4, 512, [1, 2, 3, 10, 4, 5]
    demo = load_sweep("search_spaces/demo.toml")
    train = {"micro_batch": rows, "gradient_checkpointing": checkpointing, "dtype": dtype}
    sweep = demo.model_copy(
        update={"train": demo.train.model_copy(update=train), "data": demo.data.model_copy(update={"cutoff": cutoff})}
    )
    lm = Qwen2ForCausalLM(configuration(a)).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    if checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    apply("model", Setup(gpu=False), lm)
    model = AnswerModel(lm.train(), Condition("accept", 4.0, 2), 3, 10, 11)
    prompts = [np.full(cutoff - len(answer), 7, dtype=np.int32)] * rows
    batch = collate(prompts, [answer] * rows, [True] * rows, (1.0, 1.0), [True] * rows, rows, torch.device("cpu"))
    known = [t for t in batch if isinstance(t, torch.Tensor)]
    with PeakBytes(*model.parameters(), *known) as counted:
        out = run_forward(model, batch, 1.0)
        after_forward = sum(counted.live.values())
        out.loss.backward()
    gradients = sum(p.grad.nbytes for p in model.parameters())
    # Recomputing a layer peaks in the backward pass, beside the gradients, which count as model states.
    measured = counted.peak - gradients if checkpointing else after_forward
    memory = training_memory(a, sweep, len(answer))
    assert memory.activations + memory.logits == pytest.approx(measured, rel=0.1)


def test_the_parameters_of_qwen_7b_are_the_published_number():
    assert architecture(load_sweep("search_spaces/iclr19.toml").model).parameters == 7_615_616_512


@pytest.mark.parametrize("space", ["demo", "abstracts", "iclr19"])
def test_the_parameter_formula_counts_what_the_model_has(space):
    a = architecture(load_sweep(f"search_spaces/{space}.toml").model)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(configuration(a))
    assert a.parameters == sum(p.numel() for p in model.parameters())


def test_model_states_agree_with_deepspeeds_own_estimator():
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    sweep = load_sweep("search_spaces/iclr19.toml")
    a = architecture(sweep.model)
    _, gpu, _ = estimate_zero3_model_states_mem_needs(
        a.parameters, a.largest_layer, num_gpus_per_node=4, num_nodes=1, cpu_offload=False
    )
    assert training_memory(a, sweep).model_states == pytest.approx(gpu, rel=0.01)
