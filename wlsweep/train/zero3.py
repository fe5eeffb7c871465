"""DeepSpeed ZeRO-3 around an `AnswerModel`: build and export. Only this, `checkpoint` and `patches` touch DeepSpeed.

Import it only in worker processes: it sets the accelerator that DeepSpeed will see, and imports take seconds.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.run.adapter import base_fingerprint, base_of
from wlsweep.spec.adapters import LIVE
from wlsweep.spec.condition import Condition
from wlsweep.spec.cost import BUCKET, SUB_GROUP
from wlsweep.spec.train_section import Train

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_SIZE", "1")  # otherwise it starts a process at every step, to ask for NUMA nodes
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", category=FutureWarning)

# Its autotuning, which is not used here, imports MLflow where that is installed: two seconds of each worker's start.
_hide = "mlflow" not in sys.modules
if _hide:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed  # noqa: E402

if _hide:
    del sys.modules["mlflow"]

import transformers  # noqa: E402
from deepspeed.utils import logger as deepspeed_logger  # noqa: E402
from deepspeed.utils import set_z3_leaf_module  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup  # noqa: E402
from transformers.integrations import HfDeepSpeedConfig  # noqa: E402

from wlsweep.train import lora, packed, patches  # noqa: E402
from wlsweep.train.head import compute_in_float32  # noqa: E402
from wlsweep.train.kernels import set_up_kernels  # noqa: E402
from wlsweep.train.model import AnswerModel  # noqa: E402

deepspeed_logger.setLevel(logging.ERROR)
transformers.utils.logging.disable_progress_bar()
SMALL = 50_000_000
"""Parameters below which every parameter stays gathered, and ZeRO's hooks see a layer as one module: partitioning saves
nothing there, and the hooks of each linear and norm would cost more than their arithmetic."""
ALONE = 1_000_000_000
"""The same for a single rank on CPUs, which holds the whole model anyway. Larger ones keep their second copy of the weights
out of memory."""
PERSISTENT = 10**5
"""In a larger model, parameters of fewer elements (norms, biases) stay gathered; DeepSpeed's own default."""


class Place(NamedTuple):
    """Where this rank runs."""

    rank: int
    world: int
    device: torch.device


def join_group() -> Place:
    """Hand the process group that the launcher made (Ray Train or torchrun) to DeepSpeed.

    Raises:
        WlsweepError: if DeepSpeed, transformers or PyTorch is another version than the one whose parts are replaced.
    """
    patches.check_versions()
    patches.apply("process", patches.Setup(gpu=dist.get_backend() != "gloo", world=dist.get_world_size()))
    deepspeed.init_distributed(dist_init_required=False)
    # What the imports left stays for ever: the collections at each condition's begin and end need not look at it again.
    gc.collect()
    gc.freeze()
    rank = dist.get_rank()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Place(rank, dist.get_world_size(), device)


def stays_gathered(train: Train, parameters: int) -> bool:
    """Whether every parameter stays gathered on every rank."""
    return parameters < SMALL or (train.workers == 1 and not train.gpu and parameters < ALONE)


def zero3_config(train: Train, parameters: int, adapters: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration for a model of so many parameters, or for an engine that trains adapters on it."""
    gathered = stays_gathered(train, parameters)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.max_grad_norm,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": train.gpu,
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET,
            # Elements that the optimizer steps at a time: their gradients are copied into one flat tensor first.
            "sub_group_size": ALONE if gathered else SUB_GROUP,
            "stage3_prefetch_bucket_size": 5 * 10**7,
            "stage3_param_persistence_threshold": ALONE if gathered else PERSISTENT,
            "memory_efficient_linear": not gathered,  # its autograd function keeps no weight, which stays gathered here
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }
    if train.offload_optimizer:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": train.gpu}
    if adapters:
        # They are float32, and mixed precision would make them bf16, too; without it every parameter keeps its dtype.
        config["zero_optimization"] |= {"stage3_max_live_parameters": LIVE, "stage3_max_reuse_distance": LIVE}
    elif train.dtype == "bf16":
        config["bf16"] = {"enabled": True}
        # Otherwise micro-batches and ranks are summed in bf16, whose 8 bits lose what accumulation adds.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        config["communication_data_type"] = "fp32"
    return config


def parameter_count(model_path: str) -> int:
    """Parameters of a model from its configuration alone (no weights are read)."""
    config = transformers.AutoConfig.from_pretrained(model_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters())


def recompute_layers(lm: Any, every: int) -> None:
    """Keep only the input of every n-th decoder layer, from the first on, and recompute it in the backward pass; 0: none."""
    if not every:
        return
    lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for number, layer in enumerate(lm.model.layers):
        layer.gradient_checkpointing = number % every == 0


def build_engine(
    base: str, condition: Condition, train: Train, answer: AnswerTokens, attention: str, total_steps: int
) -> Any:
    """A ZeRO-3 engine around the base model, all of it trained or only adapters on it; collective over all ranks.

    Args:
        base: folder or name of the base model, or folder of the adapter that a LoRA condition starts from.
        condition: decides the loss.
        train: decides optimizer, schedule and precision.
        answer: the label tokens.
        attention: attention implementation.
        total_steps: optimizer steps of the whole fine-tuning, for the cosine.
    """
    set_up_kernels(train)
    start, base = base, base_of(base)
    parameters = parameter_count(base)
    if condition.lora and dist.get_rank() == 0:
        base_fingerprint(base)  # what cannot be hashed is found before the training, not after it
    # While it lives, from_pretrained partitions what it loads.
    keep_alive = HfDeepSpeedConfig(zero3_config(train, parameters))
    lm = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16 if train.dtype == "bf16" else torch.float32, attn_implementation=attention
    )
    del keep_alive
    if condition.lora:
        assert train.lora is not None
        lora.add_adapters(lm, condition, train.lora, Path(start) if start != base else None)
    gathered = stays_gathered(train, parameters)
    setup = patches.Setup(
        torch.cuda.is_available(),
        dist.get_world_size(),
        train.dtype,
        attention == packed.NAME,
        gathered,
        compiled=train.compile_elementwise,
    )
    patches.apply("model", setup, lm)
    if train.dtype == "bf16":
        compute_in_float32(lm.lm_head)
    recompute_layers(lm, int(train.gradient_checkpointing))
    model = AnswerModel(lm, condition, answer)
    model.train()
    if gathered:
        for layer in lm.model.layers:
            set_z3_leaf_module(layer, True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=train.peak_lr(condition.lora), weight_decay=train.weight_decay, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, round(train.warmup_ratio * total_steps), total_steps)
    config = zero3_config(train, parameters, adapters=condition.lora > 0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=config)
    patches.apply("engine", setup, engine)
    return engine


def export_model(engine: Any, place: Place, base: str, to: Path) -> None:
    """Write the model as Hugging Face safetensors with its tokenizer, or its adapter in PEFT's format; collective, rank 0
    writes, whole or not at all."""
    base, adapter = base_of(base), engine.module.condition.lora > 0
    # In the dtype of training; adapters in float32.
    state = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=adapter)
    if place.rank == 0:
        temporary = to.with_name(f".{to.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        lm = engine.module.lm
        weights = {k.removeprefix("lm."): v for k, v in state.items()}
        if adapter:
            temporary.mkdir(parents=True)
            lora.write_adapter(lm, weights, base, temporary)
        else:
            # In files of 2 GB: nothing else of this process runs while one is written, its lease's heartbeat included.
            lm.save_pretrained(temporary, state_dict=weights, max_shard_size="2GB")
            AutoTokenizer.from_pretrained(base).save_pretrained(temporary)
        shutil.rmtree(to, ignore_errors=True)
        temporary.rename(to)
    dist.barrier()


def release_gathered(engine: Any) -> None:
    """Free what forward passes without a backward pass left gathered, where parameters are partitioned; collective.

    DeepSpeed keeps what the backward pass that it expects would soon use: up to a billion parameters, beside which the next
    step would gather as many again.
    """
    if engine.zero_param_persistence_threshold() < ALONE:
        engine.empty_partition_cache()


def release(engine: Any) -> None:
    """Give back what an engine holds, so that the process can build the next one; nothing is left of this one."""
    engine.destroy()
    patches.apply("released", patches.Setup(torch.cuda.is_available()))
    vars(engine).clear()  # the caller still holds it
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return_freed_memory()


def return_freed_memory() -> None:
    """Give memory that is free in this process back to the system.

    glibc keeps what lies between pieces that are in use, and rows of every length leave many such holes: workers that
    needed 5 GB held 11 after ten conditions of SmolLM2, until the machine had no more. Other C libraries are left alone.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
