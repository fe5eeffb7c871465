"""Costs from configuration alone, against the models and the estimator themselves."""

import weakref
from functools import partial

import numpy as np
import pytest
import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2ForCausalLM

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import load_sweep
from wlsweep.spec.cost import (
    GIB,
    GPUS,
    activation_bytes,
    assumed,
    executed_flops,
    layouts_that_fit,
    logit_bytes,
    time_of_recomputing,
    training_flops,
    training_memory,
    ways_to_fit,
)
from wlsweep.spec.plan import make_plan
from wlsweep.train import live_memory
from wlsweep.train.model import AnswerModel, collate, run_forward
from wlsweep.train.patches import Setup, apply
from wlsweep.train.tiny_base_model import qwen2_config
from wlsweep.train.zero3 import recompute_layers


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
@pytest.mark.parametrize("checkpointing", [False, True, 2])
def test_the_memory_of_activations_and_logits_is_what_a_training_pass_takes(dtype, checkpointing):
    a = Architecture(vocab=2048, width=256, mlp=768, layers=4, heads=4, kv_heads=2, tied=False)
    rows, cutoff, answer = 4, 512, AnswerTokens((1, 2, 3), 10, 11, (4, 5))
    demo = load_sweep("search_spaces/demo.toml")
    train = {"micro_batch": rows, "gradient_checkpointing": checkpointing, "dtype": dtype}
    sweep = demo.model_copy(
        update={"train": demo.train.model_copy(update=train), "data": demo.data.model_copy(update={"cutoff": cutoff})}
    )
    lm = Qwen2ForCausalLM(qwen2_config(a)).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    recompute_layers(lm, int(checkpointing))
    apply("model", Setup(gpu=False), lm)
    model = AnswerModel(lm.train(), Condition("accept", 4.0, 2), answer)
    prompts = [np.full(cutoff - answer.length, 7, dtype=np.int32)] * rows
    batch = collate(prompts, answer, [True] * rows, (1.0, 1.0), rows, torch.device("cpu"))
    known = [t for t in batch if isinstance(t, torch.Tensor)]
    with PeakBytes(*model.parameters(), *known) as counted:
        out = run_forward(model, batch, 1.0)
        after_forward = sum(counted.live.values())
        out.loss.backward()
    gradients = sum(p.grad.nbytes for p in model.parameters())
    # Recomputing a layer peaks in the backward pass, beside the gradients, which count as model states.
    measured = counted.peak - gradients if checkpointing else after_forward
    expected = sum(activation_bytes(a, sweep)) + logit_bytes(a, sweep, answer.length)
    assert expected == pytest.approx(measured, rel=0.1)


def test_the_parameters_of_qwen_7b_are_the_published_number():
    assert architecture(load_sweep("search_spaces/iclr19.toml").model).parameters == 7_615_616_512


@pytest.mark.parametrize("space", ["demo", "abstracts", "iclr19"])
def test_the_parameter_formula_counts_what_the_model_has(space):
    a = architecture(load_sweep(f"search_spaces/{space}.toml").model)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(qwen2_config(a))
    assert a.parameters == sum(p.numel() for p in model.parameters())


def test_model_states_agree_with_deepspeeds_own_estimator():
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    sweep = load_sweep("search_spaces/iclr19.toml")
    a = architecture(sweep.model)
    largest = max(a.layer_parameters, a.vocab * a.width)
    _, gpu, _ = estimate_zero3_model_states_mem_needs(
        a.parameters, largest, num_gpus_per_node=4, num_nodes=1, cpu_offload=False
    )
    gathered = 4 * largest  # which is part of `working` here
    assert training_memory(a, sweep).model_states + gathered == pytest.approx(gpu, rel=0.01)


def seven_b(**changes):
    sweep = load_sweep("search_spaces/iclr19.toml")
    return sweep.model_copy(update={"train": sweep.train.model_copy(update=changes)})


@pytest.mark.parametrize(("workers", "low", "high"), [(4, 38, 40), (2, 70, 73), (8, 22, 24)])
def test_seven_billion_parameters_need_what_reading_deepspeed_says(workers, low, high):
    a = architecture(seven_b().model)
    assert low < training_memory(a, seven_b(workers=workers)).total / 2**30 < high


def test_a_way_to_fit_is_named_only_if_it_fits():
    memory = partial(training_memory, architecture(seven_b().model))
    ways = ways_to_fit(seven_b(), 0.9 * 40 * 2**30, memory)
    assert ways and ways[0].startswith("train.workers = 8 (23 GiB)")
    assert any("offload_optimizer" in w for w in ways) and not any("cutoff" in w for w in ways)
    assert ways_to_fit(seven_b(), 1 * 2**30, memory) == []


def test_the_kind_of_gpu_sets_memory_peak_and_price_and_a_given_number_wins():
    budget = load_sweep("search_spaces/iclr19.toml").budget
    a100 = assumed(budget.model_copy(update={"gpu": "a100-40"}))
    assert a100 == GPUS["a100-40"] and a100.peak_tflops == 312
    assert assumed(budget.model_copy(update={"mfu": 0.3})) == GPUS["h100-80"]._replace(mfu=0.3)


def test_attention_is_a_third_of_the_arithmetic_at_16k_tokens_and_little_at_4k():
    a = architecture(seven_b().model)
    products = training_flops(a, 1)
    assert training_flops(a, 1, 4096) / products == pytest.approx(1.065, abs=0.02)
    assert training_flops(a, 1, 16384) / products == pytest.approx(1.26, abs=0.05)


def test_the_attention_of_a_row_is_its_causal_products_counted_one_by_one():
    a = Architecture(vocab=64, width=32, mlp=64, layers=3, heads=2, kv_heads=1, tied=True)
    rows = 50
    # Scores and weighted values: two products of 2 x head size FLOPs a pair, forward, and twice that backward.
    by_hand = sum(3 * 2 * 2 * 16 * 2 * seen for seen in range(rows)) * (a.layers - 1)
    assert (training_flops(a, rows, rows) - training_flops(a, rows)) == pytest.approx(by_hand, rel=0.03)


def with_layout(cutoff=4096, **train):
    sweep = load_sweep("search_spaces/iclr19.toml")
    update = {"cutoff": cutoff}
    return sweep.model_copy(
        update={"train": sweep.train.model_copy(update=train), "data": sweep.data.model_copy(update=update)}
    )


@pytest.mark.parametrize("recomputed", [False, True, 2, 3])
@pytest.mark.parametrize("layers", [5, 18])
def test_the_flops_that_training_executes_are_what_pytorch_counts(monkeypatch, recomputed, layers):
    a = Architecture(vocab=64, width=128, mlp=352, layers=layers, heads=4, kv_heads=2, tied=False)
    rows, cutoff, answer = 2, 96, AnswerTokens((1, 2, 3), 10, 11, (4, 5))
    monkeypatch.setattr(torch.nn.functional, "linear", zero3_linear_wrap)  # as in a partitioned model
    config = qwen2_config(a)
    config._attn_implementation = "eager"  # plain products, which the counter knows; it counts the masked half, too
    lm = Qwen2ForCausalLM(config)
    recompute_layers(lm, int(recomputed))
    apply("model", Setup(gpu=False), lm)
    model = AnswerModel(lm.train(), Condition("accept", 4.0, 2), answer)
    prompts = [np.full(cutoff - answer.length, 7, dtype=np.int32)] * rows
    batch = collate(prompts, answer, [True] * rows, (1.0, 1.0), rows, torch.device("cpu"))
    with FlopCounterMode(display=False) as counted:
        run_forward(model, batch, 1.0).loss.backward()
    whole = with_layout(
        2 * cutoff, gradient_checkpointing=recomputed
    )  # whose rows attend to `cutoff` tokens on average
    assert executed_flops(a, whole, rows * cutoff) == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_what_is_not_recomputed_shortens_the_time_and_an_mfu_of_ones_own_is_taken_as_it_is():
    a = architecture(with_layout().model)
    times = [time_of_recomputing(a, with_layout(gradient_checkpointing=n)) for n in (True, 2, 4, False)]
    # 28 layers, 3 passes each, and 28, 14, 7 or none of them once more.
    assert times == pytest.approx([1.0, 98 / 112, 91 / 112, 84 / 112])

    def hours(*settings):
        return make_plan(load_sweep("iclr19", settings=settings))["gpu_hours"]

    second = "train.gradient_checkpointing=2"
    assert hours(second) == pytest.approx(hours() * 98 / 112, abs=0.1)
    assert hours(second, "budget.mfu=0.38") == hours("budget.mfu=0.38") == hours()


def layouts_of(sweep, there):
    a = architecture(sweep.model)
    return layouts_that_fit(a, sweep, there, partial(training_memory, a), 3)


def test_a_layout_that_fits_is_the_largest_that_does_with_the_formulas_memory():
    a, there = architecture(with_layout().model), 0.9 * 80 * GIB
    for_rows, for_layers = layouts_of(with_layout(), there)
    four, off = (
        training_memory(a, with_layout(**{k: v})) for k, v in (("micro_batch", 4), ("gradient_checkpointing", 0))
    )
    # Two gathers of 15.2 GB for each of four micro-batches, three quarters of them from the other ranks.
    assert f"train.micro_batch = 4 fits, too ({four.total / GIB:.0f} GiB): 2 gathers" in for_rows
    assert for_rows.endswith("23 GB to each rank in place of 91")
    assert for_layers.startswith(
        f"train.gradient_checkpointing = false fits, too ({off.total / GIB:.0f} GiB): 25% less"
    )
    # With two rows: the fewest recomputed layers that fit, and with one layer fewer it would not fit.
    *_, line = layouts_of(with_layout(micro_batch=2), there)
    assert line.startswith("train.gradient_checkpointing = 5 fits, too (71 GiB): 20% less")
    assert training_memory(a, with_layout(micro_batch=2, gradient_checkpointing=5)).total <= there
    assert training_memory(a, with_layout(micro_batch=2, gradient_checkpointing=6)).total > there


def test_nothing_is_said_of_layouts_that_change_nothing_or_do_not_fit():
    assert layouts_of(with_layout(micro_batch=4, gradient_checkpointing=False), 0.9 * 141 * GIB) == []
    assert layouts_of(with_layout(), 39 * GIB) == []  # the present layout fills it
    (alone,) = layouts_of(with_layout(workers=1), 0.9 * 200 * GIB)
    assert "gradient_checkpointing" in alone, "a single rank has nobody to gather from"


MEASURED = [
    # workers, dtype, rows and their tokens, layers recomputed, rank of adapters, vocabulary, peak of live bytes:
    # python -m wlsweep.train.live_memory, two cores, 2026-11-26; adapters in bf16 2026-11-27
    (1, "bf16", (2, 256), True, 0, 16384, 817.3e6),
    (1, "fp32", (2, 256), True, 0, 16384, 873.4e6),
    (2, "bf16", (2, 256), True, 0, 16384, 694.8e6),
    (2, "bf16", (2, 256), True, 0, 131072, 2072.4e6),
    (1, "bf16", (8, 1024), 2, 0, 16384, 1072.4e6),
    (1, "fp32", (8, 1024), False, 0, 16384, 1759.5e6),
    (1, "bf16", (2, 256), True, 16, 16384, 306.5e6),
    (1, "fp32", (2, 256), True, 16, 16384, 352.7e6),
    (2, "bf16", (2, 256), True, 16, 16384, 362.7e6),
    (1, "bf16", (8, 1024), True, 16, 16384, 591.5e6),
    (1, "bf16", (8, 1024), False, 16, 16384, 876.3e6),
]


@pytest.mark.parametrize(("workers", "dtype", "rows", "recomputed", "lora", "vocab", "peak"), MEASURED)
def test_the_formula_is_within_5_percent_of_what_a_real_zero_3_rank_held(
    workers, dtype, rows, recomputed, lora, vocab, peak
):
    sweep = live_memory.sweep_for(workers, dtype, recomputed, *rows, gpu=False)
    found = live_memory.formula(live_memory.SHAPE._replace(vocab=vocab), sweep, lora)
    assert found.tensors == pytest.approx(peak, rel=0.05)
