"""What an engine is started with, without starting one: its share of a GPU's memory, and processes for a split model."""

import ast
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.predict.stage import engine_resources
from wlsweep.predict.vllm_engine import share_of_free, tensor_parallel
from wlsweep.run import nvml
from wlsweep.run.nvml import GpuMemory
from wlsweep.spec.config import Predict
from wlsweep.spec.cost import OUTSIDE

GIB = 1 << 30


def card(free, total=80):
    return GpuMemory(int(free * GIB), total * GIB)


def test_an_empty_card_gives_the_wanted_share_and_an_unknown_one_too():
    assert share_of_free(0.9, [card(79.2)]) == 0.9
    assert share_of_free(0.9, []) == 0.9


@pytest.mark.parametrize("free", [45.0, 20.0, 70.0])
def test_beside_others_an_engine_takes_what_is_free_less_its_own_context(free):
    share = share_of_free(0.9, [card(79.0), card(free)])  # a split model: its fullest card decides
    # vLLM refuses to start if less is free than share x total, counted once its own context is there.
    assert share * 80 * GIB <= free * GIB - OUTSIDE < (share + 0.001) * 80 * GIB
    assert share_of_free(0.2, [card(free)]) == min(0.2, share)


def test_a_card_that_others_fill_is_one_clear_error():
    with pytest.raises(WlsweepError, match=r"other processes hold 74\.0 of a GPU's 80\.0 GiB"):
        share_of_free(0.9, [card(6.0)])
    assert share_of_free(0.05, [card(6.0)]) == 0.05, "as little as was asked for is there"


def test_memory_is_that_of_the_cards_of_the_process(monkeypatch):
    sizes = {"0": (10, 80), "GPU-b": (70, 80)}
    driver = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=str,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetMemoryInfo=lambda c: SimpleNamespace(free=sizes[c][0], total=sizes[c][1], used=0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    assert nvml.gpu_memory() == [GpuMemory(10, 80), GpuMemory(70, 80)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert nvml.gpu_memory() == [], "a card that cannot be asked"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.gpu_memory() == [], "no module"


@pytest.mark.parametrize("gpus", [2, 4])
def test_a_split_model_books_as_many_gpus_and_runs_in_processes_of_its_actor(gpus):
    config = Predict(gpus_per_engine=gpus, cpus_per_engine=3)
    assert engine_resources(config) == {"num_cpus": 3, "num_gpus": gpus}
    assert tensor_parallel(gpus) == {"tensor_parallel_size": gpus, "distributed_executor_backend": "mp"}
    assert tensor_parallel(1) == {} and engine_resources(Predict(gpus_per_engine=0)) == {"num_cpus": 2}


def test_the_runner_that_gpus_take_has_all_that_a_reload_asks_of_it():
    """vLLM's V2 runner lends itself to V1's `reload_weights`; what that asks of `self` must be there."""
    worker = Path(find_spec("vllm").origin).parent / "v1" / "worker"

    def of_class(file, name):
        tree = ast.parse((worker / file).read_text())
        return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)

    def of_self(node, context):
        return {
            n.attr
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute)
            and isinstance(n.value, ast.Name)
            and n.value.id == "self"
            and isinstance(n.ctx, context)
        }

    def methods(node):
        return {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}

    asked = of_self(methods(of_class("gpu_model_runner.py", "GPUModelRunner"))["reload_weights"], ast.Load)
    second = of_class("gpu/model_runner.py", "GPUModelRunner")
    lora = of_class("lora_model_runner_mixin.py", "LoRAModelRunnerMixin")
    assert [base.id for base in second.bases] == [lora.name]
    there = of_self(second, ast.Store) | set(methods(second)) | set(methods(lora))
    assert {"get_model", "reload_weights"} <= set(methods(second)), "what `SwapWorker` calls"
    assert asked and asked <= there, asked - there
