"""The engine's arithmetic: any layout gives the gradient of the whole batch, and ZeRO-3 walks a plain optimizer's path."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from tests.train.made_rows import LR, STEPS, WEIGHTS, drawn_rows, make_base, train_config
from wlsweep.spec.condition import Condition
from wlsweep.train.batches import global_batch_rows
from wlsweep.train.kernels import has_compiler
from wlsweep.train.model import AnswerModel, collate, run_forward

pytestmark = pytest.mark.slow
LAYOUTS = ["1x8", "8x1", "2 ranks, 2x2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def found(base, tmp_path_factory):
    out = {}
    for world in (1, 2):
        path = tmp_path_factory.mktemp("layouts") / "found.pt"
        command = ["-m", "torch.distributed.run", "--nproc-per-node", str(world), "--master-port", "0"]
        command += ["--standalone", "-m", "tests.train.layouts", str(base), str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        out |= torch.load(path)
    return out


def plain_model(base):
    rows = drawn_rows(base)
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return rows, AnswerModel(lm, Condition("accept", 4.0, 2), rows.answer)


def whole_batch(rows, numbers):
    return collate(
        [rows.prompt(i) for i in numbers],
        rows.answer,
        [bool(rows.accept[i]) for i in numbers],
        WEIGHTS,
        len(numbers),
        torch.device("cpu"),
    )


def apart(a, b):
    """Relative distance of two sets of tensors."""
    assert a.keys() == b.keys()
    difference = sum(((a[k].double() - b[k].double()) ** 2).sum() for k in a)
    return float((difference / sum((b[k].double() ** 2).sum() for k in b)).sqrt())


CASES = [
    "",
    ", ragged",
    ", padded",
    ", checkpointing",
    ", every second layer",
    ", packed",
    ", ragged, packed, checkpointing",
]


COMPILED = [", compiled, packed, checkpointing", ", partitioned, compiled, checkpointing"]


@pytest.mark.parametrize("case", [*CASES, ", partitioned, checkpointing", *COMPILED])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_gradient_of_the_whole_batch(base, found, layout, case):
    if "compiled" in case and not has_compiler():
        pytest.skip("PyTorch's compiler needs g++")
    rows, model = plain_model(base)
    out = run_forward(model, whole_batch(rows, np.arange(5 if "ragged" in case else 8)), 1.0)
    out.loss.backward()
    expected = {n.removeprefix("lm."): p.grad for n, p in model.named_parameters()}
    result = found[layout + case]
    assert result["loss"].item() == pytest.approx(out.loss.item(), rel=1e-6)
    assert apart(result["gradients"], expected) < 1e-6


@pytest.mark.parametrize("case", ["bf16", "bf16, partitioned"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16_gradients_differ_by_rounding_of_the_pass_and_not_of_the_sum(base, found, layout, case):
    rows, model = plain_model(base)
    run_forward(model, whole_batch(rows, np.arange(8)), 1.0).loss.backward()
    expected = {n.removeprefix("lm."): p.grad for n, p in model.named_parameters()}
    assert apart(found[f"{layout}, {case}"]["gradients"], expected) < 0.02


@pytest.mark.parametrize("kind", ["trajectory", "partitioned, trajectory"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_20_steps_of_zero3_end_where_a_plain_optimizer_ends(base, found, layout, kind):
    rows, model = plain_model(base)
    train = train_config(1, 8, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=train.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.1 * STEPS), STEPS)
    losses = []
    for step in range(STEPS):
        batch = global_batch_rows(step, len(rows.labels), train.global_batch, 0)
        loss = run_forward(model, whole_batch(rows, batch), 1.0).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    result = found[f"{layout}, {kind}"]
    assert result["losses"].tolist() == pytest.approx(losses, rel=2e-5)
    assert losses[-1] < losses[0]
    expected = {n.removeprefix("lm."): p.detach() for n, p in model.named_parameters()}
    assert apart(result["parameters"], expected) < 2e-5


@pytest.mark.parametrize("world", [1, 2])
def test_a_released_engine_leaves_neither_itself_nor_its_model_nor_its_optimizer(found, world):
    assert found[f"{world} ranks, left"] == []
    assert found[f"{world} ranks, left while held"] == []


def test_three_ranks_share_gradients_and_refresh_parameters_of_awkward_sizes():
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "3", "--standalone", "-m", "tests.train.shares"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_checkpoint_that_is_not_whole_or_of_another_training_is_not_resumed_from(base, tmp_path):
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "tests.train.checkpoints"]
    command += [str(base), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    *said, found = done.stdout.splitlines()
    resumed = {case: step for case, (step, _) in json.loads(found).items()}
    assert resumed == {
        "whole": 1,
        "another training": 0,
        "without sizes, as it was once written": 1,
        "cut short": 0,
        "a shard is missing": 0,
        "whole again": 1,
        "an empty record": 0,
    }
    assert json.loads(found)["whole"] == [1, {"rank": 0}]
    refused = [line.split("step_00000001 ")[1] for line in said if "begins at step 0" in line]
    assert [r.split(" (")[0] for r in refused] == [
        "is of another training",
        "is cut short",
        "is cut short",
        "is not whole",
    ]
    assert "(data)" in refused[0] and "has 0 of" in refused[2]
