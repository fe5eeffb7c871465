"""On CPUs `plan` and `run` say which layout is the fast one, and choose nothing by themselves."""

import platform
from pathlib import Path

import pytest

from wlsweep.spec import processor
from wlsweep.spec.config import load_sweep
from wlsweep.spec.plan import make_plan
from wlsweep.spec.processor import cpu_advice, multiplies_bf16

AVX2 = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma\nbugs\t\t: spectre_v1\n"
ON_CPUS = ["train.gpu=false", "predict.gpus_per_engine=0"]


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AVX2, False),
        (AVX2.replace("avx2", "avx512f avx512_bf16"), True),
        (AVX2.replace("avx2", "amx_bf16 amx_tile"), True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\n", None),
        (None, None),
    ],
)
def test_linux_says_which_products_a_processor_has(cpuinfo, text, says):
    if text is not None:
        cpuinfo.write_text(text)
    assert multiplies_bf16() is says


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file() or platform.machine() != "x86_64", reason="a Linux on x86")
def test_this_machine_says_what_pytorch_finds_in_it():
    torch = pytest.importorskip("torch")
    assert multiplies_bf16() is bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def test_bf16_on_a_processor_without_it_is_said_in_plan_with_the_setting_and_changes_nothing(cpuinfo):
    cpuinfo.write_text(AVX2)
    sweep = load_sweep("smollm2", settings=["model.path=Qwen/Qwen2.5-0.5B-Instruct"])
    (said,) = cpu_advice(sweep)
    assert "--set train.dtype=fp32 --set predict.dtype=float32" in said and said in make_plan(sweep)["warnings"]
    assert sweep.train.dtype == "bf16"
    changed = load_sweep("smollm2", settings=["train.dtype=fp32", "predict.dtype=float32"])
    assert cpu_advice(changed) == [] and changed.fingerprint() != load_sweep("smollm2").fingerprint()
    cpuinfo.write_text(AVX2.replace("avx2", "avx512_bf16"))
    assert cpu_advice(sweep) == []


def test_several_ranks_of_a_large_model_are_said_to_be_slower_than_one(cpuinfo):
    two = [*ON_CPUS, "train.workers=2", "train.cpus_per_worker=4", "train.dtype=fp32"]
    (said,) = cpu_advice(load_sweep("iclr19", settings=two))
    assert "--set train.workers=1 --set train.cpus_per_worker=8" in said and "7,616M" in said
    assert cpu_advice(load_sweep("demo")) == [], "the demo's model is tiny"


def test_two_conditions_at_a_time_are_said_to_be_faster_than_one_with_all_threads(cpuinfo):
    one = [*ON_CPUS, "train.workers=1", "train.cpus_per_worker=8", "train.dtype=fp32"]
    (said,) = cpu_advice(load_sweep("iclr19", settings=one))
    assert "--set train.groups=2 --set train.cpus_per_worker=4" in said
    two = [*one, "train.groups=2", "train.cpus_per_worker=4"]
    assert cpu_advice(load_sweep("iclr19", settings=two)) == []
    assert cpu_advice(load_sweep("demo", settings=["train.workers=1", "train.cpus_per_worker=2"])) == [], "it is tiny"


def test_where_gpus_train_nothing_is_said(cpuinfo):
    cpuinfo.write_text(AVX2)
    assert cpu_advice(load_sweep("iclr19")) == []
