"""The kind of fine-tuning is an axis: names, ranks, comparisons within a kind, and fingerprints that stay."""

import json
from pathlib import Path

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.spec.condition import Condition, baseline_of, condition_from, first_stage, parse_name
from wlsweep.spec.config import Sweep, load_sweep

BOTH = """
extends = "demo"
name = "both"

[[grid]]
proportion = ["1/2"]
variant = ["accept"]
gamma = [4.0]
finetuning = ["full", "lora", "lora4"]
"""


def space(folder: Path, more: str = "[train.lora]\n", grid: str = BOTH) -> Path:
    path = folder / "both.toml"
    path.write_text(grid + more)
    return path


def test_one_sweep_holds_both_kinds_and_the_rank_is_part_of_the_name(tmp_path):
    plain = "accept_gamma4.0_prop1_2"
    sweep = load_sweep(space(tmp_path))
    assert [c.name for c in sweep.conditions] == [plain, f"{plain}_lora16", f"{plain}_lora4"]
    assert [c.lora for c in sweep.conditions] == [0, 16, 4]
    assert [parse_name(c.name).lora for c in sweep.conditions] == [0, 16, 4]
    other = load_sweep(space(tmp_path, "[train.lora]\nrank = 8\n"))
    assert other.conditions[1].name == f"{plain}_lora8"


def test_a_written_sweep_reads_back_with_its_ranks_written_out(tmp_path):
    sweep = load_sweep(space(tmp_path))
    written = json.loads(json.dumps(sweep.model_dump(mode="json")))
    assert written["grid"][0]["finetuning"] == ["full", "lora16", "lora4"]
    assert Sweep.model_validate(written) == sweep
    record = json.loads(json.dumps(sweep.conditions[1].as_dict()))
    assert record["finetuning"] == "lora16" and condition_from(record) == sweep.conditions[1]


def test_conditions_are_compared_and_begun_within_their_kind():
    c = Condition("accept", 4.0, 8, two_stage=True, lora=16, seed=2)
    assert c.name == "accept_gamma4.0_prop1_8_twostage_lora16_seed2"
    assert baseline_of(c).name == "baseline_gamma1.0_prop1_2_lora16_seed2"
    assert first_stage(c).name == "baseline_gamma1.0_prop1_8_lora16_seed2"
    assert Condition("accept", 4.0, 2, lora=16).group == "lora16"


def test_adapters_learn_at_their_own_rate_ten_times_that_of_full_fine_tuning_by_default(tmp_path):
    train = load_sweep(space(tmp_path)).train
    assert (train.peak_lr(0), train.peak_lr(16)) == (1e-3, 1e-2)
    train = load_sweep(space(tmp_path, "[train.lora]\nlr = 3.0e-4\n")).train
    assert (train.peak_lr(0), train.peak_lr(16)) == (1e-3, 3e-4)


def test_what_decides_results_of_adapters_is_in_the_fingerprint_and_the_rank_is_in_the_name(tmp_path):
    demo = load_sweep("search_spaces/demo.toml").fingerprint()
    found = [
        load_sweep(space(tmp_path, f"[train.lora]\n{more}\n")).fingerprint()
        for more in ("", "rank = 8", "alpha = 4", "dropout = 0.1", 'targets = ["q_proj"]', "lr = 1.0e-4")
    ]
    assert found[0] == found[1]
    assert len({demo, *found[1:]}) == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "'lora' takes its rank from [train.lora], which is not there"),
        ("[train.lora]\nrank = 0\n", "train.lora.rank: Input should be greater than or equal to 1"),
        ("[train.lora]\nranks = 8\n", "train.lora.ranks: unknown key"),
        ("[train.lora]\ndropout = 1.0\n", "train.lora.dropout: Input should be less than 1"),
        ("[train.lora]\ntargets = []\n", "train.lora.targets"),
        ('[train.lora]\ntargets = "q_proj"\n', "train.lora.targets"),
    ],
)
def test_a_wrong_lora_section_is_one_clear_error(tmp_path, more, message):
    with pytest.raises(WlsweepError) as e:
        load_sweep(space(tmp_path, more))
    assert message in str(e.value)


def test_a_lora_section_without_a_condition_of_it_is_refused_and_can_be_taken_away(tmp_path):
    full = BOTH.replace('finetuning = ["full", "lora", "lora4"]', "")
    with pytest.raises(WlsweepError, match=r"\[train.lora\] belongs to no condition: add finetuning"):
        load_sweep(space(tmp_path, grid=full))
    inherited = full.replace('extends = "demo"', 'extends = "demo_lora"')
    with pytest.raises(WlsweepError, match="lora = false"):
        load_sweep(space(tmp_path, "", inherited))
    assert load_sweep(space(tmp_path, "[train]\nlora = false\n", inherited)).train.lora is None


@pytest.mark.parametrize("value", ["lora0", "lora08", "LoRA", "qlora", ""])
def test_a_kind_of_fine_tuning_that_does_not_exist_is_refused(tmp_path, value):
    with pytest.raises(WlsweepError, match=r"grid.0.finetuning.1: .*expected 'full', 'lora'"):
        load_sweep(space(tmp_path, grid=BOTH.replace('"lora",', f'"{value}",')))


def test_a_rank_without_a_lora_section_is_refused(tmp_path):
    with pytest.raises(WlsweepError, match=r"lora4 needs \[train.lora\]"):
        load_sweep(space(tmp_path, "", BOTH.replace('"lora",', "")))
