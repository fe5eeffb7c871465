"""Adapters on a frozen base: gradients by the chain rule, any layout, resumed bits, the artifact in PEFT's format."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from tests.train.made_rows import LORA, LORA_CONDITION, LR, STEPS, drawn_rows, make_adapter, make_base
from tests.train.test_zero3 import LAYOUTS, apart, whole_batch
from wlsweep.errors import SharedFailure, WlsweepError
from wlsweep.run.adapter import base_of, is_adapter, refuse_other_base
from wlsweep.spec.train_section import Lora
from wlsweep.train.batches import global_batch_rows
from wlsweep.train.lora import add_adapters, seed_dropout, without_dropout
from wlsweep.train.model import AnswerModel, run_forward

SCALE = 2.0
LINEARS = 7


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def start(base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def found(base, start, folder):
    out = {}
    for world in (1, 2):
        path = folder / "found.pt"
        command = ["-m", "torch.distributed.run", "--nproc-per-node", str(world), "--standalone"]
        command += ["-m", "tests.train.lora_layouts", str(base), str(start), str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        out |= torch.load(path)
    return out


def adapters_of(folder):
    """(A, B) of each linear layer, as PEFT's file has them."""
    found = load_file(folder / "adapter_model.safetensors")
    names = sorted({n.removeprefix("base_model.model.").partition(".lora_")[0] for n in found})
    return {n: tuple(found[f"base_model.model.{n}.lora_{x}.weight"].clone() for x in "AB") for n in names}


def answer_model(base, rows, dtype=torch.float32):
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return AnswerModel(lm, LORA_CONDITION, rows.answer)


def merged(base, rows, adapters):
    """The plain model whose weights are W + (alpha / rank) B A."""
    model = answer_model(base, rows)
    with torch.no_grad():
        for name, (a, b) in adapters.items():
            model.lm.get_submodule(name).weight += SCALE * b @ a
    return model


def by_the_chain_rule(model, adapters):
    """Gradients of A and B from those of the merged weights: dB = s dW A', dA = s B' dW."""
    found = {}
    for name, (a, b) in adapters.items():
        to_weight = model.lm.get_submodule(name).weight.grad
        found[f"{name}.lora_A.default.weight"] = SCALE * b.t() @ to_weight
        found[f"{name}.lora_B.default.weight"] = SCALE * to_weight @ a.t()
    return found


CASES = ["", ", ragged, checkpointing", ", packed", ", partitioned, checkpointing"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_adapters_gradient_of_the_whole_batch(base, start, found, layout, case):
    rows, adapters = drawn_rows(base), adapters_of(start)
    model = merged(base, rows, adapters)
    out = run_forward(model, whole_batch(rows, np.arange(5 if "ragged" in case else 8)), 1.0)
    out.loss.backward()
    result = found[layout + case]
    assert result["loss"].item() == pytest.approx(out.loss.item(), rel=1e-6)
    assert len(adapters) == LINEARS * len(model.lm.model.layers)
    assert apart(result["gradients"], by_the_chain_rule(model, adapters)) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("case", [", bf16", ", partitioned, bf16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_base_in_bf16_keeps_its_dtype_and_float32_adapters_get_gradients_off_by_its_rounding(
    base, start, found, layout, case
):
    rows, adapters = drawn_rows(base), adapters_of(start)
    model = merged(base, rows, adapters)
    run_forward(model, whole_batch(rows, np.arange(8)), 1.0).loss.backward()
    result = found[layout + case]
    assert result["dtypes"] == {(False, "torch.bfloat16"), (True, "torch.float32")}
    assert apart(result["gradients"], by_the_chain_rule(model, adapters)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_20_steps_end_where_a_plain_optimizer_of_plain_factors_ends(base, found, layout):
    rows, result = drawn_rows(base), found[f"{layout}, trajectory"]
    first = result["first"]
    names = sorted({n.partition(".lora_")[0] for n in first})
    factors = {n: [first[f"{n}.lora_{x}.default.weight"].clone().requires_grad_() for x in "AB"] for n in names}
    assert all((b == 0).all() and (a != 0).any() for a, b in factors.values())
    optimizer = torch.optim.AdamW([f for pair in factors.values() for f in pair], lr=LR, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.1 * STEPS), STEPS)
    model = answer_model(base, rows)
    frozen = {n: model.lm.get_submodule(n).weight.detach().clone() for n in names}
    for step in range(STEPS):
        batch = global_batch_rows(step, len(rows.labels), 8, 0)
        detached = {n: tuple(f.detach() for f in pair) for n, pair in factors.items()}
        for n, (a, b) in detached.items():
            model.lm.get_submodule(n).weight.data = frozen[n] + SCALE * b @ a
        model.zero_grad()
        run_forward(model, whole_batch(rows, batch), 1.0).loss.backward()
        gradients = by_the_chain_rule(model, detached)
        for n, pair in factors.items():
            for factor, x in zip(pair, "AB", strict=True):
                factor.grad = gradients[f"{n}.lora_{x}.default.weight"]
        torch.nn.utils.clip_grad_norm_([f for pair in factors.values() for f in pair], 1.0)
        optimizer.step()
        schedule.step()
    expected = {f"{n}.lora_{x}.default.weight": f for n, p in factors.items() for f, x in zip(p, "AB", strict=True)}
    assert apart(result["parameters"], {k: v.detach() for k, v in expected.items()}) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_a_killed_training_goes_on_from_a_checkpoint_of_adapters_alone_and_ends_with_the_same_bits(
    folder, found, layout
):
    whole, resumed = (folder / layout.replace(" ", "") / kind for kind in ("whole", "resumed"))
    assert (whole / "model/adapter_model.safetensors").read_bytes() == (
        resumed / "model/adapter_model.safetensors"
    ).read_bytes()
    assert (whole / "model/adapter_config.json").read_bytes() == (resumed / "model/adapter_config.json").read_bytes()
    trained = sum(p.numel() for p in found[f"{layout}, trajectory"]["parameters"].values())
    (checkpoint,) = (resumed / "checkpoints").iterdir()
    tensors = 0
    for file in checkpoint.rglob("*.pt"):
        tensors += sum(t.numel() for t in tensors_of(torch.load(file, weights_only=False)))
    assert 3 * trained <= tensors < 3.2 * trained  # float32 values and both moments, and no part of the base


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_artifact_loads_with_peft_and_says_what_the_trained_model_said(base, folder, found, layout):
    model = folder / layout.replace(" ", "") / "whole" / "model"
    assert sorted(p.name for p in model.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "base.json"]
    rows = drawn_rows(base)
    reloaded = answer_model(base, rows)
    peft_model = PeftModel.from_pretrained(reloaded.lm, model)
    reloaded.lm = peft_model.base_model.model
    said = found[f"{layout}, trajectory"]["said"]
    rows_said = run_forward(reloaded, whole_batch(rows, np.arange(8)), 1.0).label_logprobs
    plain = run_forward(answer_model(base, rows), whole_batch(rows, np.arange(8)), 1.0).label_logprobs
    nearest = (said[:, None] - rows_said[None]).abs().amax(-1).min(1).values  # a rank has its own rows, by length
    assert nearest.max() < 1e-4
    assert (rows_said - plain).abs().max() > 0.01


def test_all_conditions_of_a_seed_start_from_the_same_adapters_and_from_the_base(base):
    found = []
    for condition in (LORA_CONDITION, LORA_CONDITION, LORA_CONDITION.__class__("accept", 4.0, 2, lora=4, seed=1)):
        rows = drawn_rows(base)
        model = answer_model(base, rows)
        before = run_forward(model, whole_batch(rows, np.arange(4)), 1.0).label_logprobs
        torch.rand(3)  # whatever was drawn before
        add_adapters(model.lm, condition, LORA)
        assert torch.equal(before, run_forward(model, whole_batch(rows, np.arange(4)), 1.0).label_logprobs)
        found.append({n: p.detach() for n, p in model.lm.named_parameters() if p.requires_grad})
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    assert any(not torch.equal(found[0][n], found[2][n]) for n in found[0])


def test_targets_may_be_named_and_one_that_names_nothing_is_refused_with_those_that_exist(base):
    lm = AutoModelForCausalLM.from_pretrained(base)
    add_adapters(lm, LORA_CONDITION, Lora(rank=4, targets=["q_proj", "v_proj"]))
    trained = {n.partition(".lora_")[0].rpartition(".")[2] for n, p in lm.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "v_proj"}
    with pytest.raises(
        SharedFailure, match="no linear layer is called w_pack, lm_head; there are down_proj, gate_proj"
    ):
        add_adapters(
            AutoModelForCausalLM.from_pretrained(base),
            LORA_CONDITION,
            Lora(rank=4, targets=["q_proj", "w_pack", "lm_head"]),
        )


def test_a_start_of_another_rank_or_scale_is_refused(base, start):
    lm = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(WlsweepError, match="another rank, scale or other targets"):
        add_adapters(lm, LORA_CONDITION, Lora(rank=4, alpha=1), start)
    other = LORA_CONDITION.__class__("accept", 4.0, 2, lora=8)
    with pytest.raises(WlsweepError, match="another rank, scale or other targets"):
        add_adapters(AutoModelForCausalLM.from_pretrained(base), other, Lora(rank=8), start)


def test_an_adapter_names_its_base_and_one_of_other_weights_is_refused(base, start, tmp_path):
    assert is_adapter(start) and not is_adapter(base)
    assert (base_of(str(start)), base_of(str(base))) == (str(base), str(base))
    refuse_other_base(start, str(base))
    other = make_base(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    from safetensors.torch import save_file

    save_file(
        {n: t + (n == "lm_head.weight") for n, t in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(WlsweepError, match=r"is an adapter of .*base \(weights .*and the base model here is .*other"):
        refuse_other_base(start, str(other))


def test_dropout_is_drawn_anew_by_step_and_off_where_scores_are_kept(base):
    rows = drawn_rows(base)
    model = answer_model(base, rows)
    add_adapters(model.lm, LORA_CONDITION, Lora(rank=4, dropout=0.5))
    for name, p in model.lm.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.05, generator=torch.Generator().manual_seed(3))
    model.train()

    def said(step=None):
        if step is not None:
            seed_dropout(0, step, 0, 0)
        return run_forward(model, whole_batch(rows, np.arange(4)), 1.0).label_logprobs

    assert torch.equal(said(1), said(1)) and not torch.equal(said(1), said(2))
    with without_dropout(model):
        assert torch.equal(said(), said())
    assert not torch.equal(said(), said())
