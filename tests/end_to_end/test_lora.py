"""LoRA sweeps on the real engines: both kinds in one sweep, two stages, killed and gone on with, merged."""

import json
import shutil
import signal

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.end_to_end.launches import SMALL, finish, results_of, results_of_training, start, trained_in, wait_until
from wlsweep.errors import WlsweepError
from wlsweep.run.adapter import is_adapter
from wlsweep.run.layout import RunDir
from wlsweep.spec.config import load_sweep
from wlsweep.train.merge import export_merged

pytestmark = pytest.mark.slow
GRID = """
[train.lora]
rank = 4

[[grid]]
proportion = ["1/2"]
variant = ["baseline"]
gamma = [1.0]
finetuning = ["lora", "full"]

[[grid]]
proportion = ["1/8"]
variant = ["reject"]
gamma = [4.0]
finetuning = ["lora"]
two_stage = [false, true]
"""
FULL, PLAIN = "baseline_gamma1.0_prop1_2", "reject_gamma4.0_prop1_8_lora4"
TWO_STAGE, FIRST = "reject_gamma4.0_prop1_8_twostage_lora4", "baseline_gamma1.0_prop1_8_lora4"


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "kinds.toml"
    text = SMALL.read_text()
    text = text[: text.index("[[grid]]")].replace('name = "small"', 'name = "kinds"')
    path.write_text(text.replace("[data]\n", "[data]\nvalidation_share = 0.1\n") + GRID)
    return path


@pytest.fixture(scope="module")
def names(space):
    return [c.name for c in load_sweep(space).conditions]


@pytest.fixture(scope="module")
def undisturbed(space, together):
    out = together / "lora"
    finish(start(out, space=space))
    return RunDir(out)


def bytes_of(folder):
    return sum(p.stat().st_size for p in folder.iterdir())


def test_one_sweep_trains_and_predicts_both_kinds_and_keeps_adapters_of_a_tenth_of_the_bytes(undisturbed, names):
    assert names == [f"{FULL}_lora4", FULL, PLAIN, TWO_STAGE]
    for name in names:
        assert pd.read_parquet(undisturbed.prediction(name))["row_id"].nunique() == 80
        assert is_adapter(undisturbed.model(name)) == (name != FULL)
    assert 10 * bytes_of(undisturbed.model(PLAIN)) < bytes_of(undisturbed.model(FULL))
    proof = json.loads(undisturbed.trained(PLAIN).read_text())["proof"]
    assert (proof["accept"], proof["reject"]) == pytest.approx((1.0, 4.0))
    assert undisturbed.report.is_file()


def test_rows_of_validation_are_scored_while_each_condition_trains(undisturbed, names):
    for name in names:
        last = results_of_training(undisturbed, name)["log"][-1]
        assert 0 < last["validation_bce"] < 2 and 0.4 < last["validation_auc"] <= 1
    assert "validation" in undisturbed.report.read_text()


def test_a_second_stage_starts_from_the_first_stages_adapter(undisturbed):
    record = json.loads(undisturbed.trained(TWO_STAGE).read_text())
    assert record["base"] == str(undisturbed.model(FIRST).resolve())
    bases = {json.loads((undisturbed.model(n) / "base.json").read_text())["fingerprint"] for n in (FIRST, TWO_STAGE)}
    assert len(bases) == 1
    first, second = (results_of_training(undisturbed, n)["log"][0]["p_accept_on_reject"] for n in (FIRST, TWO_STAGE))
    assert first != second


def test_a_lora_sweep_that_is_killed_and_gone_on_with_ends_with_the_same_bits(undisturbed, space, names):
    """The driver is killed in the first of two adapters that are left; the other starts from a first stage that is there."""
    out = undisturbed.root.with_name("lora-killed")
    shutil.copytree(undisturbed.root, out)
    run, left = RunDir(out), (PLAIN, TWO_STAGE)
    for name in left:
        shutil.rmtree(run.condition(name))
        shutil.rmtree(run.prediction(name))
    process, _ = start(out, space=space)
    wait_until(lambda: any(run.checkpoints(PLAIN).glob("step_*/training.json")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not run.trained(PLAIN).exists()
    assert trained_in(finish(start(out, space=space))) == [*left]
    for name in names:
        assert results_of_training(run, name) == results_of_training(undisturbed, name)
        if name != FULL:
            weights = [(r.model(name) / "adapter_model.safetensors").read_bytes() for r in (run, undisturbed)]
            assert weights[0] == weights[1]
        mine, other = (pd.DataFrame(results_of(r, name)) for r in (run, undisturbed))
        assert (mine["text"] == other["text"]).all()
        # Rows are batched with those of other adapters: sums of the same numbers in another order.
        assert (mine["p_accept"] - other["p_accept"]).abs().max() < 1e-5


def test_a_merged_model_says_what_base_and_adapter_say(undisturbed, tmp_path):
    (folder,) = export_merged(undisturbed, PLAIN, tmp_path)
    base = json.loads(undisturbed.sweep_json.read_text())["base"]
    ids = torch.arange(3, 60).unsqueeze(0)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), undisturbed.model(PLAIN))
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(input_ids=ids).logits, atol=1e-4)
    with pytest.raises(WlsweepError, match="is a whole model already"):
        export_merged(undisturbed, FULL, tmp_path)
