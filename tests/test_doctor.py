"""doctor names what would stop a sweep here, and waits for nothing."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from wlsweep import doctor
from wlsweep.install_check import Gpu
from wlsweep.report import png
from wlsweep.spec.config import load_sweep


def levels(found, what):
    return {f.level for f in found if f.what.startswith(what)}


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_machine_that_can_run_the_demo_has_nothing_that_stops_it(offline):
    found = doctor.examine(load_sweep("demo"))
    assert [f for f in found if f.level == "stop"] == [] and doctor.exit_code(found) == 0
    known = {"wlsweep", "Python", "ray", "GPU", "CPUs", "shared memory", "scratch", "open files", "SLURM", "Ray", "hub"}
    assert {f.what for f in found} >= known | {"images", "sweep demo: room", "sweep demo: disk"}
    assert doctor.summary(found) == "nothing here would stop a sweep"


def test_a_sweep_that_does_not_fit_is_stopped_by_its_model_room_and_rows(offline, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "gpus", list)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = doctor.examine(load_sweep("iclr19"))
    assert levels(found, "sweep iclr19: model") == {"stop"} and levels(found, "sweep iclr19: room") == {"stop"}
    assert doctor.exit_code(found) == 1 and "would stop a sweep" in doctor.summary(found)
    lost = doctor.examine(load_sweep("demo", data=str(tmp_path / "none.json")))
    assert "stop" in levels(lost, "sweep demo: rows")


def test_missing_engines_stop_and_come_with_their_installation(offline, monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name.startswith("vllm") else "1.0")
    (stop,) = [f for f in doctor._engines() if f.level == "stop"]
    assert "not installed: vllm" in stop.detail and "pip install --no-deps -r" in stop.detail


def test_another_version_than_the_lock_is_a_note_and_of_a_patched_library_a_stop(monkeypatch):
    from wlsweep.train import patches

    monkeypatch.setattr(patches, "_installed", lambda patch, installed: (patch.distribution[0], "0.0.1"))
    monkeypatch.setattr(doctor, "installed_version", lambda name: "0.0.1" if name == "ray" else "2.13.0")
    found = list(doctor._engines())
    assert levels(found, "ray") == {"note"} and levels(found, "torch") == {"ok"}
    assert "pip install" in next(f.detail for f in found if f.level == "stop")


def test_a_driver_that_is_too_old_for_torch_stops(monkeypatch):
    old, new = Gpu("NVIDIA A100", "535.1", 8.0, 81920), Gpu("NVIDIA A100", "580.9", 8.0, 81920)
    monkeypatch.setattr(doctor, "_cuda", lambda: "13.0")
    monkeypatch.setattr(doctor, "gpus", lambda: [old] * 4)
    assert levels(doctor._gpus(), "GPU") == {"ok", "stop"}
    monkeypatch.setattr(doctor, "gpus", lambda: [new] * 4)
    (only,) = doctor._gpus()
    assert only.level == "ok" and only.detail.startswith("4 x NVIDIA A100, driver 580.9, 80 GiB")


def test_the_cuda_version_is_that_which_torch_says_itself():
    import torch

    assert doctor._cuda() == torch.version.cuda


@pytest.mark.parametrize(("folder", "message"), [("missing", "cannot be written to"), ("a" * 40, "need at most 30")])
def test_scratch_that_ray_cannot_use_stops(tmp_path, monkeypatch, folder, message):
    path = tmp_path / folder
    if folder != "missing":
        path.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(path))
    assert any(f.level == "stop" and message in f.detail for f in doctor._scratch())


def test_little_shared_memory_and_a_renderer_that_fails_are_notes(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 20))
    (shm,) = doctor._shared_memory()
    assert shm.level == "note" and "--shm-size" in shm.detail
    monkeypatch.setattr(png, "_command", lambda: (["/nowhere/renderer"], {}, None))
    (images,) = doctor._images()
    assert images.level == "note" and "no PNGs" in images.detail


def test_the_command_answers_in_seconds_without_an_engine_where_no_hub_can_be_reached():
    # An address that answers nothing: the look must not wait for the system's own two minutes.
    environment = {**os.environ, "HF_ENDPOINT": "http://192.0.2.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    began = time.monotonic()
    command = [sys.executable, "-m", "wlsweep", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert time.monotonic() - began < 20 and done.returncode == 0, done.stderr
    assert [f["level"] for f in json.loads(done.stdout) if f["what"] == "hub"] == ["note"]


def test_deep_runs_real_parts_and_what_fails_would_stop_a_sweep(monkeypatch):
    from wlsweep import self_check

    real = self_check.in_a_process
    monkeypatch.setattr(self_check, "PARTS", {"kernels": self_check.kernels, "memory": self_check.memory})

    def one_real(name, command, out, log, limit_s):
        if name == "kernels":
            return real(name, command, out, log, limit_s)
        failed = self_check.judged("memory formula against live bytes", "within 5%", "+9.0%", False)
        return [failed, self_check.unmeasured("proof of the weighted loss", "not done after 250 s")]

    monkeypatch.setattr(self_check, "in_a_process", one_real)
    found = doctor.examine_deeply()
    assert [f.level for f in found] == ["ok", "ok", "stop", "note"], found
    assert found[0].what == "deep: sdpa on the flash kernel" and "goal: error < " in found[0].detail
    assert found[2].detail == "+9.0% (goal: within 5%)" and doctor.exit_code(found) == 1
