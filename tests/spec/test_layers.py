"""What a search space extends and what --set changes: later layers win, and what is unknown is refused at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.slurm.site import load_site
from wlsweep.slurm.submit import SubmitOptions, submit
from wlsweep.spec.config import Sweep, load_sweep


def space(folder, text, name="mine"):
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\n{text}')
    return path


def test_an_extending_file_changes_what_it_names_and_inherits_the_rest(tmp_path):
    mine = load_sweep(space(tmp_path, 'extends = "iclr19"\n[train]\nlr = 2e-5\n'))
    base = load_sweep("iclr19")
    assert mine.train == base.train.model_copy(update={"lr": 2e-5})
    assert (mine.data, mine.model, mine.conditions) == (base.data, base.model, base.conditions)
    assert mine.name == "mine"


def test_a_grid_replaces_the_inherited_one_and_a_section_is_removed_by_false(tmp_path):
    grid = '[[grid]]\nproportion = ["1/2"]\nvariant = ["baseline"]\ngamma = [1.0]\n'
    mine = load_sweep(space(tmp_path, f'extends = "demo"\n[data]\nsynthetic = false\n{grid}'))
    assert [c.name for c in mine.conditions] == ["baseline_gamma1.0_prop1_2"]
    assert mine.data.synthetic is None and mine.data.resampling == "oversample"


def test_files_and_synthetic_papers_replace_each_other_as_do_a_model_and_a_tiny_base(tmp_path):
    mine = load_sweep(space(tmp_path, 'extends = "demo"\n[data]\nsource = "papers"\n[model]\npath = "base"\n'))
    assert (mine.data.source, mine.data.synthetic) == ("papers", None)
    assert (mine.model.path, mine.model.tiny) == ("base", None)
    both = space(tmp_path, 'extends = "demo"\n[data]\nsource = "papers"\n[data.synthetic]\nwords = 20\n')
    with pytest.raises(WlsweepError, match="exclude each other"):
        load_sweep(both)


def test_a_path_starts_at_the_file_that_extends_and_goes_over_several_files(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    space(tmp_path / "sub", 'extends = "demo"\n[train]\nlr = 5e-4\n', "first")
    second = space(tmp_path, 'extends = "sub/first.toml"\n[train]\nepochs = 2\n', "second")
    monkeypatch.chdir(tmp_path / "sub")
    found = load_sweep(second).train
    assert (found.lr, found.epochs) == (5e-4, 2)


def test_what_cannot_be_extended_is_named(tmp_path):
    space(tmp_path, 'extends = "b.toml"\n', "a")
    space(tmp_path, 'extends = "a.toml"\n', "b")
    with pytest.raises(WlsweepError, match="extends itself"):
        load_sweep(tmp_path / "a.toml")
    with pytest.raises(WlsweepError, match=r"mine.toml: extends = 'iclr18': iclr18: no such search space.*iclr19"):
        load_sweep(space(tmp_path, 'extends = "iclr18"\n'))
    without_name = tmp_path / "anonymous.toml"
    without_name.write_text('extends = "demo"\n')
    with pytest.raises(WlsweepError, match="name: Field required"):
        load_sweep(without_name)


@pytest.mark.parametrize(
    ("setting", "where", "value"),
    [
        ("train.lr=2e-5", ("train", "lr"), 2e-5),
        ("data.cutoff=8192", ("data", "cutoff"), 8192),
        ("train.gradient_checkpointing=true", ("train", "gradient_checkpointing"), True),
        ("train.dtype=bf16", ("train", "dtype"), "bf16"),
        ("keep_models=best", ("keep_models",), "best"),
        ("data.synthetic.words=30", ("data", "synthetic", "words"), 30),
        ("name=2024", ("name",), "2024"),
        ("model.path=models/7b", ("model", "path"), "models/7b"),
        ("data.synthetic=false", ("data", "synthetic"), None),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_key(setting, where, value):
    found = load_sweep("demo", settings=[setting])
    for key in where:
        found = getattr(found, key)
    assert found == value and type(found) is type(value)


def test_a_setting_reaches_tables_and_the_last_one_wins():
    table = load_sweep("iclr19", settings=["data.table.1/8=[10, 70]"]).data.table
    assert table["1/8"] == (10, 70) and table["1/2"] == (8553, 8548)
    assert load_sweep("demo", settings=["train.lr=1", "train.lr=0.5"]).train.lr == 0.5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.learning_rate=1", r"unknown key in \[train\]: learning_rate; keys: lr, epochs"),
        ("train.epoch=1", r"did you mean train.epochs\?"),
        ("trian.lr=1", r"unknown key: trian; did you mean train\?"),
        ("train.lr=fast", "--set train.lr=fast: Input should be a valid number"),
        ("train.lr=-1", "greater than 0"),
        ("train.dtype=fp8", "'bf16' or 'fp32'"),
        ("train.lr.peak=1", "train.lr holds a value"),
        ("grid.gamma=[2.0]", "grid is a list"),
        ("train.lr", "write KEY=VALUE"),
        ("settings=[]", "unknown key"),
        ("train.global_batch=31", "global_batch 31 is no multiple"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_text(setting, message):
    with pytest.raises(WlsweepError, match=message):
        load_sweep("demo", settings=[setting])


def test_settings_are_recorded_and_change_the_fingerprint_only_by_what_they_change():
    changed = load_sweep("demo", settings=["train.lr=2e-3"])
    assert changed.settings == ("train.lr=2e-3",)
    assert changed.fingerprint() != load_sweep("demo").fingerprint()
    same = load_sweep("demo", settings=["train.lr=1e-3"])
    assert same.fingerprint() == load_sweep("demo").fingerprint()
    assert Sweep.model_validate(json.loads(changed.model_dump_json())) == changed


def test_plan_takes_settings(tmp_path):
    command = [sys.executable, "-m", "wlsweep", "plan", "demo", "--json", "--set", "train.epochs=3"]
    steps = [
        json.loads(subprocess.run(c, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)["conditions"][0][
            "steps"
        ]
        for c in (command, command[:-2])
    ]
    assert steps[0] == 3 * steps[1]


def test_a_submitted_job_runs_the_resolved_search_space(tmp_path):
    mine = load_sweep(space(tmp_path, 'extends = "demo"\n'), data="papers.json", settings=["train.lr=2e-3"])
    with pytest.raises(WlsweepError, match=r"papers\.json: no such file"):  # said after the script was written
        submit(mine, load_site("cpu"), SubmitOptions(tmp_path / "run"), dry_run=True, say=lambda line: None)
    (resolved,) = (tmp_path / "run" / "slurm").glob("*.json")
    assert load_sweep(resolved) == mine and mine.settings == ("train.lr=2e-3",)
    (script,) = (tmp_path / "run" / "slurm").glob("*.sh")
    assert f"run {resolved} --out {tmp_path / 'run'}" in script.read_text()


def test_every_shipped_search_space_but_the_bases_says_only_what_differs():
    for path in Path("search_spaces").glob("*.toml"):
        assert path.stem in ("demo", "iclr19") or "\nextends = " in path.read_text()
