"""Validation: what it says is what other implementations say of the saved model, and it changes nothing of the training."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from scipy.stats import mannwhitneyu
from transformers import AutoModelForCausalLM

from tests.train.made_rows import drawn_rows, make_base
from tests.train.validated import CASES, STOPPED_AT, split
from wlsweep.run.layout import RunDir
from wlsweep.spec.condition import Condition
from wlsweep.spec.train_section import LONGEST_SHARE, Train, validation_share_of_training, validation_steps
from wlsweep.train.loss import AnswerScores
from wlsweep.train.validation import validation_metrics


def judged(log_odds, accept, condition=Condition("baseline", 1.0, 2), weights=(1.0, 1.0), other=0.0):
    z = torch.tensor(log_odds, dtype=torch.float64)
    rest = torch.full_like(z, other)
    return validation_metrics(AnswerScores(z, rest, rest), torch.tensor(accept).double(), condition, weights, 0.5)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_the_auc_is_mann_whitneys_u_with_ties_counted_half(papers):
    z, accept = np.array([float(p[0]) for p in papers]), np.array([p[1] for p in papers])
    if accept.all() or not accept.any():
        return
    pairs = accept.sum() * (~accept).sum()
    found = judged(z, accept)["validation_auc"]
    assert found == pytest.approx(mannwhitneyu(z[accept], z[~accept]).statistic / pairs)
    assert found == pytest.approx(np.mean([(a > r) + (a == r) / 2 for a in z[accept] for r in z[~accept]]))


def test_loss_cross_entropy_accuracy_and_accept_rate_are_those_of_the_closed_forms():
    log_odds, accept = [math.log(3), math.log(3), -math.log(3), math.log(1 / 4)], [True, False, False, True]
    found = judged(log_odds, accept, weights=(8.0, 1.0), other=0.1)
    right, wrong, worse = -math.log(3 / 4), -math.log(1 / 4), -math.log(1 / 5)
    assert found["validation_bce"] == pytest.approx((right + wrong + right + worse) / 4)
    assert found["validation_loss"] == pytest.approx((8 * right + wrong + right + 8 * worse) / 4 + 0.5 * 0.2)
    assert (found["validation_accuracy"], found["validation_accept_rate"]) == (0.5, 0.5)
    assert found["validation_auc"] == pytest.approx(1.5 / 4)  # of four pairs one is won and one is a tie


def test_the_weighted_loss_is_of_the_conditions_own_kind_and_the_cross_entropy_is_not():
    papers = [0.3, -0.7, 1.1], [True, False, True]
    plain = judged(*papers)
    for other in (Condition("accept", 4.0, 2, focal=2.0), Condition("accept", 4.0, 2, smoothing=0.1)):
        found = judged(*papers, condition=other)
        assert (
            found["validation_bce"] == plain["validation_bce"] and found["validation_loss"] != plain["validation_loss"]
        )


def test_a_score_that_is_no_number_gives_no_number_and_no_error():
    assert math.isnan(judged([0.1, math.nan], [True, False])["validation_auc"])


@given(
    epochs=st.integers(1, 4),
    rows=st.integers(1, 3000),
    papers=st.integers(1, 900),
    log_every=st.sampled_from([1, 5, 10]),
    lora=st.sampled_from([0, 16]),
)
def test_validations_are_part_of_log_lines_end_with_the_training_and_cost_a_tenth_or_are_one(
    epochs, rows, papers, log_every, lora
):
    train = Train(lr=1e-3, workers=1, epochs=epochs, log_every=log_every, checkpoint_every=log_every)
    total = epochs * math.ceil(rows / train.global_batch)
    steps = validation_steps(train, rows, papers, lora)
    share = 1 / 2 if lora else 1 / 3  # of 4 or 6 FLOPs a parameter, 2 are forward
    assert steps[-1] == total and list(steps) == sorted(set(steps))
    assert all(step % log_every == 0 for step in steps[:-1])
    assert len(steps) == 1 or share * len(steps) * papers / (rows * epochs) <= LONGEST_SHARE + 1e-9
    assert validation_share_of_training(train, rows, papers, lora) == pytest.approx(
        share * len(steps) * papers / (rows * epochs)
    )
    assert validation_steps(train, rows, 0) == ()
    own = train.model_copy(update={"validate_every": 2 * log_every})
    assert set(validation_steps(own, rows, papers, lora)) == {*range(2 * log_every, total, 2 * log_every), total}


def test_an_interval_that_no_line_of_the_log_can_hold_is_refused():
    with pytest.raises(ValueError, match="validate_every 15 is no multiple of log_every 10"):
        Train(lr=1e-3, validate_every=15)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """Folders of what 1 and 2 ranks trained."""
    folders = {}
    for world in (1, 2):
        folders[world] = tmp_path_factory.mktemp("validated")
        command = ["-m", "torch.distributed.run", "--nproc-per-node", str(world), "--standalone"]
        command += ["-m", "tests.train.validated", str(base), str(folders[world])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


def run_of(trained, world, case, kind):
    condition, _ = CASES[case]
    run = RunDir(trained[world] / case / kind)
    lines = [json.loads(line) for line in run.metric_log(condition.name).read_text().splitlines()]
    record = json.loads(run.trained(condition.name).read_text())
    return run.model(condition.name), [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines], record


def without_validation(lines):
    return [{k: v for k, v in line.items() if not k.startswith("validation_")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", [1, 2])
def test_a_training_that_is_validated_has_the_bits_of_one_that_is_not(trained, world, case):
    _, plain_log, plain = run_of(trained, world, case, "without")
    _, log, record = run_of(trained, world, case, "with")
    assert record["model"]["fingerprint"] == plain["model"]["fingerprint"] and record["probe"] == plain["probe"]
    assert without_validation(log) == plain_log
    assert [line["step"] for line in log if "validation_loss" in line] == [4, 8, 12]
    assert record["final"]["validation_auc"] == log[-1]["validation_auc"] and plain["final"]["validation_auc"] is None
    assert 0 < record["seconds"]["validation"] < record["seconds"]["steps"] and plain["seconds"]["validation"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", [1, 2])
def test_a_stopped_training_that_goes_on_writes_the_same_log_and_model(trained, world, case):
    _, log, record = run_of(trained, world, case, "with")
    _, again, resumed = run_of(trained, world, case, "stopped")
    assert again == log and resumed["model"]["fingerprint"] == record["model"]["fingerprint"]
    assert any(line["step"] == STOPPED_AT for line in log)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", [1, 2])
def test_the_last_validation_is_what_a_plain_forward_pass_of_the_saved_model_says(base, trained, world, case):
    condition, _ = CASES[case]
    folder, log, _ = run_of(trained, world, case, "with")
    _, validation = split(drawn_rows(base))
    lm = AutoModelForCausalLM.from_pretrained(base if condition.lora else folder, dtype=torch.float32)
    if condition.lora:
        lm = PeftModel.from_pretrained(lm, folder)
    weights = {"Accept": condition.gamma, "Reject": 1.0}
    if condition.variant == "reject":
        weights = {"Accept": 1.0, "Reject": condition.gamma}
    answer, losses, bce, odds = validation.answer, [], [], []
    for prompt, label in zip(validation.prompts, validation.labels, strict=True):
        ids = torch.tensor([[*prompt.tolist(), *answer.ids(label == "Accept")]])
        with torch.no_grad():
            logits = lm(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()
        token = torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="none")
        labels = logits[len(answer.prefix), [answer.accept, answer.reject]]
        decided = -labels.log_softmax(-1)[0 if label == "Accept" else 1]
        bce.append(decided.item())
        odds.append((labels[0] - labels[1]).item())
        weighted = token.sum() if condition.loss == "sequence" else decided
        losses.append((weights[label] * weighted + (token.sum() - weighted)).item())
    accept = validation.accept
    near = 0.02 if "bf16" in case else 1e-4
    last = log[-1]
    assert last["validation_loss"] == pytest.approx(np.mean(losses), rel=near)
    assert last["validation_bce"] == pytest.approx(np.mean(bce), rel=near)
    odds = np.array(odds)
    u = mannwhitneyu(odds[accept], odds[~accept]).statistic / (accept.sum() * (~accept).sum())
    assert last["validation_auc"] == pytest.approx(u, abs=0.08 if "bf16" in case else 1e-9)
    if "bf16" not in case:
        assert last["validation_accept_rate"] == np.mean(odds > 0)
        assert last["validation_accuracy"] == np.mean((odds > 0) == accept)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_say_of_the_same_model_what_one_says(trained, case):
    """The first validation: the models have taken the same four steps, but for rounding."""
    one, two = (
        next(line for line in run_of(trained, world, case, "with")[1] if "validation_bce" in line) for world in (1, 2)
    )
    near = 0.02 if "bf16" in case else 1e-4
    for key in ("validation_loss", "validation_bce"):
        if "dropout" not in case:  # which rows lose what depends on the layout
            assert two[key] == pytest.approx(one[key], rel=near)
