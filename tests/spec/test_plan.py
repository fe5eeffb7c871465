"""The plan that a user reads before paying."""

import json
import subprocess
import sys

from wlsweep.spec.config import load_sweep
from wlsweep.spec.plan import make_plan, plan_text


def test_the_plan_of_iclr19_holds_the_published_counts():
    plan = make_plan(load_sweep("search_spaces/iclr19.toml"))
    counts = {c["proportion"]: (c["accepts"], c["rejects"]) for c in plan["conditions"]}
    assert counts == {"1/2": (8553, 8548), "1/3": (5702, 11399), "1/4": (4276, 12825), "1/8": (2135, 14966)}
    assert {c["steps"] for c in plan["conditions"]} == {1069}  # ceil(17,101 / 16)


def test_plan_json_lists_selected_conditions_for_machines():
    command = [sys.executable, "-m", "wlsweep.cli", "plan", "search_spaces/demo.toml", "--only", "7-10", "--json"]
    plan = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert plan["sweep"] == "demo"
    assert [c["index"] for c in plan["conditions"]] == [7, 8, 9, 10]
    assert {"index", "name", "variant", "gamma", "proportion", "accepts", "rejects"} <= set(plan["conditions"][0])


def test_a_model_that_does_not_fit_is_warned_of():
    sweep = load_sweep("search_spaces/iclr19.toml")
    small = sweep.model_copy(update={"budget": sweep.budget.model_copy(update={"gpu_memory_gib": 24.0})})
    (warning,) = [w for w in make_plan(small)["warnings"] if "one worker needs" in w]
    assert "41 GiB, more than 90% of a GPU's 24" in warning and "set train.workers = 16 (17 GiB)" in warning
    assert not any("one worker needs" in w for w in make_plan(sweep)["warnings"])


def test_the_storage_of_a_sweep_counts_two_checkpoints_while_one_replaces_the_other():
    storage = make_plan(load_sweep("search_spaces/iclr19.toml"), "0")["storage_gb"]
    assert storage["resume_checkpoint_each"] == 91.39  # 12 bytes for each of 7,615,616,512 parameters
    assert storage["peak"] == round(15.23 + 2 * 91.39 + 15.23, 2)


def test_a_wrong_command_line_is_one_clear_error():
    command = [sys.executable, "-m", "wlsweep.cli", "plan", "search_spaces/demo.toml", "--only", "nothing_*"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "matches no condition name" in done.stderr and "Traceback" not in done.stderr


def test_what_a_plan_quotes_is_printed_as_it_is_also_in_brackets(capsys):
    plan = make_plan(load_sweep("search_spaces/demo.toml"))
    plan_text(plan | {"notes": ["not read: 'id' (read are text; [data.columns] names them)"]})
    assert "(read are text; [data.columns] names them)" in capsys.readouterr().out
