"""Conditions beyond the 19 on the real engines: two stages, other losses, seeds, packed rows, a task with other labels and
another form of the answer, and a run with --limit."""

import json

import pandas as pd
import pytest

from tests.end_to_end.launches import SMALL, finish, start
from wlsweep.run.layout import RunDir
from wlsweep.run.records import PlanRecord
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import load_sweep
from wlsweep.spec.plan import make_plan

TASK = """
[task]
positive = "Clearly relevant"
negative = "Not relevant"
answer = "Answer: LABEL"
item = "abstract"

"""
GRID = """
[[grid]]
proportion = ["1/2"]
variant = ["baseline"]
gamma = [1.0]
seed = [0, 1]

[[grid]]
proportion = ["1/2"]
variant = ["accept"]
gamma = [4.0]
loss = ["sequence", "decision_token"]

[[grid]]
proportion = ["1/2"]
variant = ["accept"]
gamma = [4.0]
focal = [2.0]

[[grid]]
proportion = ["1/8"]
variant = ["reject"]
gamma = [4.0, 8.0]
balance = ["inverse"]
smoothing = [0.1]
two_stage = [true]
"""


SHIPPED = "iclr19 evidence full36 extended demo oracle oracle_losses noise iclr19_lora demo_lora".split()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_search_space_can_be_planned(name):
    sweep = load_sweep(f"search_spaces/{name}.toml")
    plan = make_plan(sweep)
    assert len(plan["conditions"]) == {"full36": 36, "extended": 31, "oracle_losses": 9, "noise": 4}.get(name, 19)
    assert all(c["steps"] > 0 for c in plan["conditions"]) and plan["parameters"] > 0
    assert [parse_name(c["name"]).name for c in plan["conditions"]] == [c.name for c in sweep.conditions]
    assert PlanRecord(made_at="now", plan=plan).plan == json.loads(json.dumps(plan)), "a run keeps it as JSON"


@pytest.mark.slow
def test_a_limited_run_of_every_kind_of_condition_ends_complete_in_a_folder_of_its_own(tmp_path):
    space = tmp_path / "kinds.toml"
    text = SMALL.read_text()
    text = text[: text.index("[[grid]]")].replace("base_rows = 3200", "base_rows = 1600")
    space.write_text(text.replace("[model.tiny]", '[model]\nattention = "packed"\n[model.tiny]') + TASK + GRID)
    finish(start(tmp_path / "kinds", "--limit", "64", space=space))
    run = RunDir(tmp_path / "kinds")
    record = json.loads(run.sweep_json.read_text())
    assert record["sweep"]["name"] == "small-limit64" and record["sweep"]["data"]["limit"] == 64
    first, started = "baseline_gamma1.0_prop1_8", run.model("baseline_gamma1.0_prop1_8").stat().st_mtime
    for gamma in ("4.0", "8.0"):  # both start from the one first stage, which was made before either of them and once
        second = f"reject_gamma{gamma}_prop1_8_smooth0.10_inverse_twostage"
        assert json.loads(run.trained(second).read_text())["base"] == str(run.model(first).resolve())
        assert started < run.metric_log(second).stat().st_mtime
    for c in record["conditions"]:
        predicted = pd.read_parquet(run.prediction(c["name"]))
        assert predicted["row_id"].nunique() == 64
        assert set(predicted["label"]) == {"Clearly relevant", "Not relevant"} >= set(predicted["parsed"].dropna())
        assert predicted["parsed"].notna().mean() > 0.9, "the base was taught the form of the answer"
        certain = predicted[predicted["parsed"].notna()]
        assert certain["text"].str.startswith("Answer: ").all()
        trained = json.loads(run.trained(c["name"]).read_text())
        assert trained["samples"] == 64
        expected = parse_name(c["name"])
        if expected.balance == "none":
            assert (trained["proof"]["accept"], trained["proof"]["reject"]) == pytest.approx(expected.weights)
    seeds = [json.loads(run.trained(f"baseline_gamma1.0_prop1_2{s}").read_text()) for s in ("", "_seed1")]
    assert seeds[0]["model"]["fingerprint"] != seeds[1]["model"]["fingerprint"]
    assert "The predicted share of clearly relevant abstracts ran from" in run.report.read_text()
    assert not run.prediction(first).exists(), "a first stage that is no condition of the sweep is not predicted"
