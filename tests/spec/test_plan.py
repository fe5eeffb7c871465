"""The plan that a user reads before paying."""

import json
import subprocess
import sys

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.spec.config import load_sweep
from wlsweep.spec.plan import make_plan, plan_text


def test_the_plan_of_iclr19_holds_the_published_counts():
    plan = make_plan(load_sweep("search_spaces/iclr19.toml"))
    counts = {c["proportion"]: (c["accepts"], c["rejects"]) for c in plan["conditions"]}
    assert counts == {"1/2": (8553, 8548), "1/3": (5702, 11399), "1/4": (4276, 12825), "1/8": (2135, 14966)}
    assert {c["steps"] for c in plan["conditions"]} == {1069}  # ceil(17,101 / 16)


def test_plan_json_lists_selected_conditions_for_machines():
    command = [sys.executable, "-m", "wlsweep", "plan", "search_spaces/demo.toml", "--only", "7-10", "--json"]
    plan = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert plan["sweep"] == "demo"
    assert [c["index"] for c in plan["conditions"]] == [7, 8, 9, 10]
    assert {"index", "name", "variant", "gamma", "proportion", "accepts", "rejects"} <= set(plan["conditions"][0])


def test_a_model_that_does_not_fit_is_warned_of():
    sweep = load_sweep("search_spaces/iclr19.toml")
    small = sweep.model_copy(update={"budget": sweep.budget.model_copy(update={"gpu_memory_gib": 24.0})})
    (warning,) = [w for w in make_plan(small)["warnings"] if "one worker needs" in w]
    assert "39 GiB, more than 90% of a GPU's 24" in warning and "set train.workers = 16 (15 GiB)" in warning
    assert not any("one worker needs" in w for w in make_plan(sweep)["warnings"])


def test_layouts_that_the_card_allows_are_a_line_each_and_only_where_the_present_one_fits(capsys):
    plan = make_plan(load_sweep("iclr19"))
    plan_text(plan)
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("alone, train.micro_batch = 4 fits") for line in said) == 1
    assert sum(line.startswith("alone, train.gradient_checkpointing = false fits") for line in said) == 1
    assert "layouts_that_fit" not in make_plan(load_sweep("iclr19", settings=["budget.gpu=a10-24"]))
    assert "layouts_that_fit" not in make_plan(load_sweep("demo"))  # no GPU, no memory to compare with


def test_the_storage_of_a_sweep_counts_two_checkpoints_while_one_replaces_the_other():
    storage = make_plan(load_sweep("search_spaces/iclr19.toml"), "0")["storage_gb"]
    assert storage["resume_checkpoint_each"] == 91.39  # 12 bytes for each of 7,615,616,512 parameters
    assert storage["peak"] == round(15.23 + 2 * 91.39 + 15.23, 2)


def test_the_storage_of_small_adapters_is_not_said_to_be_nothing(capsys):
    plan_text(make_plan(load_sweep("demo_lora")))
    said = capsys.readouterr().out
    assert "storage: 136 kB of models (keep_models all/best/none: 136 kB / 7.17 kB / 0 bytes), 21.5 kB a resume" in said


def test_a_wrong_command_line_is_one_clear_error():
    command = [sys.executable, "-m", "wlsweep", "plan", "search_spaces/demo.toml", "--only", "nothing_*"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "matches no condition name" in done.stderr and "Traceback" not in done.stderr


def test_what_a_plan_quotes_is_printed_as_it_is_also_in_brackets(capsys):
    plan = make_plan(load_sweep("search_spaces/demo.toml"))
    plan_text(plan | {"notes": ["not read: 'id' (read are text; [data.columns] names them)"]})
    assert "(read are text; [data.columns] names them)" in capsys.readouterr().out


def test_the_plan_says_how_often_trainings_are_validated_and_what_that_adds(capsys):
    plan = make_plan(load_sweep("iclr19", settings=["data.validation_share=0.1", "train.epochs=2"]))
    found = plan["validation"]
    assert (found["accepts"], found["rejects"]) == (855, 855)
    rows, steps = plan["conditions"][0]["accepts"] + plan["conditions"][0]["rejects"], plan["conditions"][0]["steps"]
    assert rows == 17101 - 1711 and steps == 2 * 962  # nine tenths of the table, the rest to the row
    assert found["validations_each"] == 5 and found["every_steps"] == 390
    assert found["share_of_training"] == round(5 * 1710 / (3 * 2 * rows), 4) < 0.1
    assert found["gpu_hours"] == round(found["share_of_training"] * plan["gpu_hours"], 1)
    plan_text(plan)
    assert (
        "validation: 1,710 training papers held out (855 accepts, 855 rejects), judged every 390 steps and at the end (5 "
        f"times); adds about 9% to the time of training, {found['gpu_hours']} GPU-hours"
    ) in " ".join(capsys.readouterr().out.split())
    assert any("scaled by 0.9" in note for note in plan["notes"])


def test_too_small_a_share_for_validation_is_one_error_of_the_plan_and_off_is_no_word_of_it():
    with pytest.raises(WlsweepError, match=r"data\.validation_share = 0\.001 of 4,000 accepts"):
        make_plan(load_sweep("demo", settings=["data.validation_share=0.001"]))
    assert "validation" not in make_plan(load_sweep("demo"))


def test_of_adapters_a_validation_is_half_of_the_arithmetic():
    found = make_plan(load_sweep("demo_lora", settings=["data.validation_share=0.2", "train.validate_every=1000"]))
    assert found["validation"]["share_of_training"] == round(800 / (2 * 3200), 4)
