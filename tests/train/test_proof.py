"""The proof at start lets a right loss through and stops every way in which gamma has been lost before."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.train.made_rows import drawn_rows, make_base
from wlsweep.run.layout import RunDir
from wlsweep.spec.condition import Condition, parse_name
from wlsweep.spec.config import load_sweep
from wlsweep.train import model
from wlsweep.train.batcher import Batcher
from wlsweep.train.job import ConditionFailed, Job
from wlsweep.train.loss import global_loss, sample_weights
from wlsweep.train.proof import prove_weights
from wlsweep.train.zero3 import Place

NAMES = [
    "baseline_gamma1.0_prop1_2",
    "accept_gamma4.0_prop1_8",
    "reject_gamma2.0_prop1_3",
    "accept_gamma0.5_prop1_2_sequence",
]


def ignored(parts, weights, present, samples, format_weight):
    return global_loss(parts, torch.ones_like(weights), present, samples, format_weight)


def normalised_by_weights(parts, weights, present, samples, format_weight):
    return global_loss(parts, weights, present, samples, format_weight) * samples / (weights * present).sum()


def applied_twice(parts, weights, present, samples, format_weight):
    return global_loss(parts, weights * weights, present, samples, format_weight)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def proof_of(base, condition: Condition):
    rows = drawn_rows(base)
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    engine = model.AnswerModel(lm, condition, rows.answer)
    job = Job(load_sweep("search_spaces/demo.toml"), condition, RunDir(Path("unused")), str(base))
    return prove_weights(engine, Batcher(job, rows, Place(0, 1, torch.device("cpu"))))


@pytest.mark.parametrize("name", NAMES)
def test_a_right_loss_is_proved_with_its_measured_ratios(base, name):
    condition = parse_name(name)
    assert proof_of(base, condition) == pytest.approx(
        dict(zip(("accept", "reject"), condition.weights, strict=True)), rel=1e-5
    )


def test_class_weights_are_part_of_what_is_proved(base):
    condition = Condition("reject", 2.0, 4, balance="inverse")
    rows = drawn_rows(base)
    accepts = int(rows.accept.sum())
    expected = sample_weights(condition, accepts, len(rows.accept) - accepts, 0.999)
    assert proof_of(base, condition) == pytest.approx(dict(zip(("accept", "reject"), expected, strict=True)), rel=1e-5)


@pytest.mark.parametrize("mutant", [ignored, normalised_by_weights, applied_twice])
@pytest.mark.parametrize("name", NAMES[1:])
def test_a_gamma_that_was_lost_is_stopped(base, name, mutant, monkeypatch):
    monkeypatch.setattr(model, "global_loss", mutant)
    with pytest.raises(ConditionFailed, match="nothing was trained"):
        proof_of(base, parse_name(name))


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_gamma_on_the_wrong_class_is_stopped(base, name, monkeypatch):
    def swapped(prompts, answers, accept, weights, *rest):
        return collate(prompts, answers, accept, weights[::-1], *rest)

    from wlsweep.train import batcher

    collate = batcher.collate
    monkeypatch.setattr(batcher, "collate", swapped)
    with pytest.raises(ConditionFailed, match="declared is"):
        proof_of(base, parse_name(name))
