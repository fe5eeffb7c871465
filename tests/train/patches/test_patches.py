"""The table of patches: each row has its file, its test and the version of the lock."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import deepspeed.ops
import pytest

from wlsweep.errors import WlsweepError
from wlsweep.train import patches
from wlsweep.train.patches import PATCHES, Setup, apply, check_versions

ROOT = Path(patches.__file__).parents[3]


def locked(lock):
    lines = (ROOT / "locks" / lock).read_text().splitlines()
    return dict(line.split(" ;")[0].split("==") for line in lines if "==" in line)


def test_every_file_of_the_folder_has_a_row_and_every_row_a_file():
    files = {p.stem for p in Path(patches.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {p.name for p in PATCHES} and len(files) == len(PATCHES)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: p.name)
def test_a_row_names_a_test_that_is_there_and_the_version_that_both_locks_install(patch):
    assert (ROOT / patch.test).is_file() and patch.why and patch.gain and patch.remove_when
    for lock in ("cpu.lock", "gpu.lock"):
        versions = locked(lock)
        assert patch.version in {versions.get(name) for name in patch.distribution}


def test_what_is_installed_here_is_what_the_patches_were_written_for():
    check_versions()


def test_another_version_is_refused_with_the_patches_that_stand_on_it():
    def installed(name):
        return "0.19.9" if name == "deepspeed" else locked("cpu.lock")[name] + "+cpu"

    with pytest.raises(WlsweepError, match=r"deepspeed 0\.19\.9 .*reduce_scatter.* need 0\.19\.8") as refusal:
        check_versions(installed=installed)
    assert "pip install deepspeed==0.19.8" in str(refusal.value) and "transformers" not in str(refusal.value)


def test_a_library_that_is_not_installed_is_no_wrong_version():
    def installed(name):
        raise PackageNotFoundError(name)

    check_versions(installed=installed)


def test_a_patch_whose_file_was_deleted_is_left_out_unless_results_need_it(monkeypatch):
    monkeypatch.setattr(patches, "find_spec", lambda name: None)
    assert apply("process", Setup(gpu=False, world=2)) == []
    assert apply("released", Setup(gpu=False)) == ["forget"]


def test_a_gpu_and_a_large_model_get_no_patch_that_serves_small_models_on_cpus():
    large = Setup(gpu=True, world=4, dtype="bf16", packed=True, gathered=False, layers=28)
    assert [p.name for p in PATCHES if p.wanted(large)] == ["norm", "adapter", "large_gradients", "forget"]


def test_the_shared_memory_all_reduce_is_not_compiled(monkeypatch):
    monkeypatch.setitem(deepspeed.ops.__compatible_ops__, "deepspeed_shm_comm", True)
    assert apply("process", Setup(gpu=False)) == ["shm_comm", "reduce_scatter"]
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
