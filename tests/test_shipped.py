"""Shipped files are found by name from any folder; a copy to edit is never taken for the shipped file."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wlsweep import __version__
from wlsweep.errors import WlsweepError
from wlsweep.shipped import SEARCH_SPACES, SITES, copy_here, find_file
from wlsweep.slurm.site import load_site
from wlsweep.spec.config import load_sweep


def wlsweep(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "wlsweep", *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["demo", "demo.toml"])
def test_a_shipped_search_space_is_found_by_name_from_an_empty_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep(name).name == "demo"
    assert load_site("gpu-4").gpus_per_node == 4


def test_a_path_works_and_a_wrong_one_is_never_taken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.toml"
    shutil.copy(find_file(SEARCH_SPACES, "demo"), mine)
    assert find_file(SEARCH_SPACES, mine) == mine and find_file(SEARCH_SPACES, "mine.toml") == Path("mine.toml")
    for wrong in ("dmo", "elsewhere/demo.toml", "mine"):
        with pytest.raises(WlsweepError, match=r"no such search space; .* shipped one: abstracts, demo"):
            load_sweep(wrong)
    with pytest.raises(WlsweepError, match=r"no such site file; .* shipped one: cpu, gpu-4"):
        load_site("gpu-8")


def test_an_edited_copy_is_run_by_its_file_name_and_the_bare_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = copy_here("demo")
    assert copy.read_bytes() == (SEARCH_SPACES.folder / "demo.toml").read_bytes()
    assert find_file(SEARCH_SPACES, "demo.toml") == copy
    with pytest.raises(WlsweepError, match=r"write demo.toml for the file here"):
        find_file(SEARCH_SPACES, "demo")
    with pytest.raises(WlsweepError, match="left as it is"):
        copy_here("demo")


def test_init_copies_search_spaces_and_sites_and_lists_them(tmp_path):
    listed = wlsweep("init", cwd=tmp_path).stdout
    assert all(f"  {name} " in listed for name in (*SEARCH_SPACES.names, *SITES.names))
    assert wlsweep("init", "gpu-4", cwd=tmp_path).returncode == 0
    assert (tmp_path / "gpu-4.toml").is_file()
    wrong = wlsweep("init", "gpu-5", cwd=tmp_path)
    assert wrong.returncode == 2 and "nothing of that name" in wrong.stderr


def test_the_version_is_written_once_and_shown(tmp_path):
    assert wlsweep("--version", cwd=tmp_path).stdout.split() == ["wlsweep", __version__]
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert "version" not in project and project["dynamic"] == ["version"]


def test_a_shell_completes_names_of_shipped_files(tmp_path):
    environment = {"_WLSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "wlsweep plan evi", "COMP_CWORD": "2"}
    code = "import sys; sys.argv[0] = 'wlsweep'; from wlsweep.command_line import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["evidence"]
