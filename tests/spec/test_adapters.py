"""What adapters cost and which cannot be, from configuration alone, held against real models and real passes."""

import gc

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from tests.spec.test_cost import PeakBytes
from wlsweep.data.tokenise import AnswerTokens
from wlsweep.errors import WlsweepError
from wlsweep.spec.adapters import (
    activation_bytes,
    adapter_bytes,
    adapter_parameters,
    adapter_problems,
    checkpoint_bytes,
    training_memory,
)
from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import load_sweep
from wlsweep.spec.cost import FULL, GIB, logit_bytes
from wlsweep.spec.plan import make_plan, smallest_gpu
from wlsweep.spec.train_section import Lora, Model
from wlsweep.train.lora import add_adapters
from wlsweep.train.model import AnswerModel, collate, run_forward
from wlsweep.train.patches import Setup, apply
from wlsweep.train.tiny_base_model import qwen2_config
from wlsweep.train.zero3 import recompute_layers

NAMED = ["q_proj", "down_proj"]
SIZES = ("0.5B", "1.5B", "3B", "7B", "14B")


@pytest.mark.parametrize("targets", ["all-linear", NAMED])
@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"])
def test_the_parameters_of_an_adapter_are_those_that_peft_makes(name, targets):
    a = architecture(Model(path=name))._replace(layers=2)
    with torch.device("meta"):
        lm = Qwen2ForCausalLM(qwen2_config(a))
        add_adapters(lm, Condition("accept", 2.0, 2, lora=16), Lora(targets=targets))
    train = load_sweep("demo_lora").train.model_copy(update={"lora": Lora(targets=targets)})
    sweep = load_sweep("demo_lora").model_copy(update={"train": train})
    assert adapter_parameters(a, sweep, 16) == sum(p.numel() for p in lm.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True, 2])
@pytest.mark.parametrize(
    "shape",
    [
        Architecture(vocab=2048, width=256, mlp=768, layers=4, heads=4, kv_heads=2, tied=False),
        Architecture(vocab=512, width=384, mlp=1536, layers=6, heads=6, kv_heads=2, tied=False),
    ],
)
def test_the_memory_of_activations_and_logits_is_what_a_pass_with_adapters_takes(shape, dtype, checkpointing):
    rows, cutoff, answer = 2, 512, AnswerTokens((1, 2, 3), 10, 11, (4, 5))
    space = load_sweep("search_spaces/demo_lora.toml")
    train = {"micro_batch": rows, "gradient_checkpointing": checkpointing, "dtype": dtype, "lora": Lora()}
    sweep = space.model_copy(
        update={"train": space.train.model_copy(update=train), "data": space.data.model_copy(update={"cutoff": cutoff})}
    )
    lm = Qwen2ForCausalLM(qwen2_config(shape)).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    condition = Condition("accept", 4.0, 2, lora=16)
    add_adapters(lm, condition, Lora())
    recompute_layers(lm, int(checkpointing))
    apply("model", Setup(gpu=False, dtype=dtype), lm)
    model = AnswerModel(lm.train(), condition, answer)
    prompts = [np.full(cutoff - answer.length, 7, dtype=np.int32)] * rows
    batch = collate(prompts, answer, [True] * rows, (1.0, 1.0), rows, torch.device("cpu"))
    known = [t for t in batch if isinstance(t, torch.Tensor)]
    gc.collect()
    with PeakBytes(*model.parameters(), *known) as counted:
        out = run_forward(model, batch, 1.0)
        after_forward = sum(counted.live.values())
        out.loss.backward()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    measured = counted.peak - gradients if checkpointing else after_forward
    kept = sum(activation_bytes(shape, sweep, 16)) + logit_bytes(shape, sweep, answer.length)
    assert kept == pytest.approx(measured, rel=0.12)


def test_a_7b_sweep_fits_one_gpu_of_24_gib_and_its_19_adapters_a_hundredth_of_the_bytes():
    lora, full = (make_plan(load_sweep(f"search_spaces/{name}.toml")) for name in ("iclr19_lora", "iclr19"))
    (kind,), (whole,) = (p["by_finetuning"].values() for p in (lora, full))
    assert (lora["resources"]["gpus"], full["resources"]["gpus"]) == (1, 4)
    assert kind["smallest_gpu_gib"] == 24
    assert 80 * kind["model_bytes"] < whole["model_bytes"]
    assert 100 * kind["resume_checkpoint_bytes"] < whole["resume_checkpoint_bytes"]
    assert kind["gpu_hours"] == pytest.approx(whole["gpu_hours"] * 2 / 3, rel=0.02)


def test_the_smallest_gpu_grows_with_the_model():
    sweep = load_sweep("search_spaces/iclr19_lora.toml")
    found = []
    for size in SIZES:
        shape = architecture(Model(path=f"Qwen/Qwen2.5-{size}-Instruct"))
        memory = training_memory(shape, sweep, 16)
        found.append(smallest_gpu(memory))
        assert found[-1] is None or memory.total < FULL * found[-1] * GIB
    assert found == [24, 24, 24, 24, 40]
    assert adapter_bytes(shape, sweep, 16) * 3 == checkpoint_bytes(shape, sweep, 16)


def space(tmp_path, section, rank='"lora"'):
    path = tmp_path / "space.toml"
    grid = f'[[grid]]\nproportion = ["1/2"]\nvariant = ["accept"]\ngamma = [2.0]\nfinetuning = [{rank}]\n'
    path.write_text(f'extends = "demo"\nname = "space"\n[train.lora]\n{section}\n{grid}')
    return load_sweep(path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("rank = 64", "finetuning lora64: the rank is above the smaller side of k_proj (64 x 32)"),
        ("rank = 1024", "vLLM serves adapters up to rank 512"),
        (
            'targets = ["q_proj", "w_pack"]',
            "train.lora.targets: w_pack: no linear layer of a qwen2 model; it has q_proj",
        ),
    ],
)
def test_adapters_that_cannot_be_are_refused_by_plan_before_anything_is_spent(tmp_path, section, message):
    sweep = space(tmp_path, section)
    assert any(message in p for p in adapter_problems(sweep))
    with pytest.raises(WlsweepError) as e:
        make_plan(sweep)
    assert message in str(e.value)


def test_a_rank_as_large_as_the_smallest_side_of_what_is_adapted_is_no_problem(tmp_path):
    assert adapter_problems(space(tmp_path, "rank = 32")) == []
    assert adapter_problems(space(tmp_path, 'rank = 64\ntargets = ["q_proj"]')) == []
    assert adapter_problems(load_sweep("search_spaces/demo.toml")) == []
