"""How small a difference a design finds, against simulated sweeps."""

import numpy as np
import pytest

from wlsweep.spec.condition import Condition
from wlsweep.spec.config import load_sweep
from wlsweep.spec.plan import make_plan, plan_text
from wlsweep.spec.power import (
    ACCEPT_RATE,
    FLIPS,
    fewest_seeds,
    power_of,
    seed_warning,
    seeds_needed,
    smallest_difference,
)


@pytest.mark.parametrize(("rows", "seeds", "sd"), [(2024, 1, 0.1), (1000, 4, 0.05), (500, 2, 0.0), (2024, 3, 0.4)])
def test_a_difference_of_that_size_is_found_in_four_sweeps_of_five(rows, seeds, sd):
    wanted = smallest_difference(rows, seeds, sd, ACCEPT_RATE)
    rng, sweeps = np.random.default_rng(0), 4000
    # papers: a share `wanted` changes sides for good, FLIPS / 2 more in each direction by chance, with each seed anew
    systematic = rng.binomial(rows, min(wanted, 1.0), sweeps) / rows
    chance = (rng.binomial(rows, FLIPS / 2, (sweeps, seeds)) - rng.binomial(rows, FLIPS / 2, (sweeps, seeds))).mean(
        1
    ) / rows
    trainings = ACCEPT_RATE * sd * (rng.normal(size=(sweeps, seeds)) - rng.normal(size=(sweeps, seeds))).mean(1)
    error = np.sqrt((FLIPS / seeds + wanted) / rows + 2 * (ACCEPT_RATE * sd) ** 2 / seeds)
    found = np.abs(systematic + chance + trainings) > 1.96 * error
    assert 0.76 <= found.mean() <= 0.84


def test_the_seeds_that_are_named_are_the_fewest_that_find_two_points():
    needed = seeds_needed(2024, 0.1, ACCEPT_RATE)
    assert smallest_difference(2024, needed, 0.1, ACCEPT_RATE) <= 0.02
    assert smallest_difference(2024, needed - 1, 0.1, ACCEPT_RATE) > 0.02


def test_too_few_papers_find_two_points_with_no_number_of_seeds():
    assert seeds_needed(300, 0.1, ACCEPT_RATE) is None
    (power,) = power_of(load_sweep("search_spaces/demo.toml", settings=["budget.training_sd=0.1"]), [], 300)
    assert power.seeds_for_two_points is None and "too few test papers" in power.sentence()


def test_a_measured_noise_takes_the_place_of_the_assumed_ones():
    plan = make_plan(load_sweep("search_spaces/iclr19.toml", settings=["budget.training_sd=0.3"]))
    (power,) = plan["power"]
    assert power["training_sd"] == 0.3 and not power["assumed"] and "budget.training_sd" in power["text"]
    assert power["accept_rate"] == pytest.approx(smallest_difference(2024, 1, 0.3, ACCEPT_RATE))


def test_iclr19_with_one_seed_is_warned_of_and_the_shipped_measurement_of_noise_is_not():
    iclr19, noise = load_sweep("search_spaces/iclr19.toml"), load_sweep("search_spaces/noise.toml")
    assert any("noise.toml" in line for line in make_plan(iclr19)["warnings"])
    assert "one seed" in seed_warning(iclr19, iclr19.conditions)
    assert seed_warning(noise, noise.conditions) is None and fewest_seeds(noise.conditions) == 4
    demo = load_sweep("search_spaces/demo.toml")
    assert seed_warning(demo, demo.conditions) is None, "its page measures the noise of a tiny model"


def test_seeds_are_counted_of_conditions_whose_names_have_other_suffixes_too():
    seeds = [Condition("accept", 2.0, 2, lora=16, seed=s) for s in range(3)]
    assert fewest_seeds(seeds) == 3
    assert fewest_seeds([*seeds, Condition("accept", 2.0, 2, lora=4)]) == 1, "another rank is another condition"
    assert fewest_seeds([]) == 1


def test_a_plan_without_data_says_that_its_number_of_papers_is_assumed(capsys):
    plan_text(make_plan(load_sweep("search_spaces/iclr19.toml")))
    said = capsys.readouterr().out
    assert "test rows unknown" in said and "with 1 seed and 2,024 papers assumed:" in said
    plan_text(make_plan(load_sweep("search_spaces/demo.toml")))
    assert "papers assumed" not in capsys.readouterr().out


def test_run_warns_of_one_seed_before_anything_is_spent(tmp_path):
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "wlsweep",
        "run",
        "iclr19",
        "--model",
        str(tmp_path),
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "warning: each condition has one seed" in done.stderr
