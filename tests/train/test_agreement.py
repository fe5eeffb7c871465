"""The forward pass that is trained is transformers' own, for every family; one that is not is found out before a step."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.smollm2 import FOLDER
from tests.real_model import needs_smollm2
from tests.train.families import FAMILIES, SIZES, attention_of, tiny
from wlsweep.data.tokenise import AnswerTokens
from wlsweep.errors import SharedFailure
from wlsweep.spec.condition import Condition
from wlsweep.train import model as model_module
from wlsweep.train import patches
from wlsweep.train.head import compute_in_float32
from wlsweep.train.model import AnswerModel, collate
from wlsweep.train.proof import measure_agreement, refuse_disagreement

PACKED = [f for f in FAMILIES if attention_of(f) == "sdpa" and "sliding_window" not in FAMILIES[f][1]]
ANSWER = AnswerTokens(prefix=(5,), accept=7, reject=8, suffix=(6,), reject_suffix=(9, 6))


def answer_model(lm, attention):
    lm.set_attn_implementation(attention)
    patches.apply("model", patches.Setup(gpu=False), lm)
    return AnswerModel(lm, Condition("accept", 2.0, 2), ANSWER)


def batch(packed=False):
    """Rows of different lengths; the second answer is longer."""
    prompts = [np.arange(10, 70, dtype=np.int32), np.arange(20, 60, dtype=np.int32)]
    return collate(prompts, ANSWER, [True, False], (1.0, 1.0), 2, torch.device("cpu"), packed)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_forward_pass_of_each_family_is_that_of_transformers(family):
    model = answer_model(tiny(family, 256, 2), attention_of(family))
    found = measure_agreement(model, batch())
    assert found.head < 1e-6 and found.body < 1e-4
    refuse_disagreement(found, "base", family, "fp32")


@pytest.mark.parametrize("family", PACKED)
def test_packed_rows_have_the_forward_pass_of_transformers(family):
    model = answer_model(tiny(family, 256, 2), "packed")
    found = measure_agreement(model, batch(packed=True))
    assert found.head < 1e-6 and found.body < 1e-4
    assert model.lm.config._attn_implementation == "packed"


@pytest.mark.parametrize("family", ["Qwen2", "Gemma 2"])
def test_comparing_leaves_the_model_as_it_was(family):
    model = answer_model(tiny(family, 256, 2), attention_of(family))
    forwards = {name: vars(m).get("forward") for name, m in model.lm.named_modules()}
    measure_agreement(model, batch())
    assert {name: vars(m).get("forward") for name, m in model.lm.named_modules()} == forwards
    assert not model.plain and not model.lm.lm_head._forward_hooks


SCALED = {
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3},
    "cohere": {"logit_scale": 0.25},
}


@pytest.mark.parametrize("kind", SCALED)
def test_logits_that_a_family_scales_are_scaled_in_training_too(kind):
    sizes = {**SIZES, "vocab_size": 256, "eos_token_id": 2, "bos_token_id": 1, **SCALED[kind]}
    torch.manual_seed(0)
    found = measure_agreement(
        answer_model(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)), "sdpa"), batch()
    )
    assert found.head < 1e-6 and found.body < 1e-4


@pytest.mark.parametrize("family", ["Gemma 2"])
def test_a_transform_of_logits_that_is_not_known_is_refused_before_a_step(family, monkeypatch):
    model = answer_model(tiny(family, 256, 2), attention_of(family))
    monkeypatch.setattr(model_module, "after_head", lambda config, logits: logits)
    with pytest.raises(SharedFailure, match=r"do something to the logits .*docs/models\.md"):
        refuse_disagreement(measure_agreement(model, batch()), "base", "gemma2", "bf16")


def test_a_body_that_is_not_the_one_of_transformers_is_refused_before_a_step():
    """A patch of the last layer that forgets the residual."""
    model = answer_model(tiny("Qwen2", 256, 2), "sdpa")
    last = model.lm.model.layers[-1]
    right = last.forward

    def wrong(hidden, *args, places=None, **more):
        out = right(hidden, *args, places=places, **more)
        return out if places is None else out - hidden.flatten(0, 1)[places.token]

    wrong.__func__ = type("_", (), {"__module__": "wlsweep.train.patches.last_layer"})
    last.forward = wrong
    with pytest.raises(SharedFailure, match="is not the one of transformers"):
        refuse_disagreement(measure_agreement(model, batch()), "base", "qwen2", "fp32")


@needs_smollm2
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_forward_pass_of_a_real_pretrained_model_is_that_of_transformers(dtype):
    lm = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=dtype)
    if dtype == torch.bfloat16:
        compute_in_float32(lm.lm_head)
    found = measure_agreement(answer_model(lm, "packed"), batch(packed=True))
    assert found.head < 1e-6 and found.body < (1e-3 if dtype == torch.float32 else 0.5)
    refuse_disagreement(found, str(FOLDER), "llama", "fp32" if dtype == torch.float32 else "bf16")
