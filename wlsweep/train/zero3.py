"""DeepSpeed ZeRO-3 around an `AnswerModel`: build, export, save and resume. The only module that touches DeepSpeed.

Import it only in worker processes: it sets the accelerator that DeepSpeed will see, and imports take seconds.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import types
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from wlsweep.errors import WlsweepError
from wlsweep.run.layout import read_json, write_json
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import Train

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_SIZE", "1")  # otherwise it starts a process at every step, to ask for NUMA nodes
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", category=FutureWarning)

import deepspeed  # noqa: E402
import deepspeed.ops  # noqa: E402
import transformers  # noqa: E402
from deepspeed.runtime.comm import coalesced_collectives  # noqa: E402
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK  # noqa: E402
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus  # noqa: E402
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator  # noqa: E402
from deepspeed.utils import logger as deepspeed_logger  # noqa: E402
from deepspeed.utils import set_z3_leaf_module  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup  # noqa: E402
from transformers.integrations import HfDeepSpeedConfig  # noqa: E402

from wlsweep.train import packed  # noqa: E402
from wlsweep.train.model import AnswerModel  # noqa: E402
from wlsweep.train.patches import norm, onednn  # noqa: E402

deepspeed_logger.setLevel(logging.ERROR)
transformers.utils.logging.disable_progress_bar()
# An optional shared-memory all-reduce that would be compiled for half a minute at the first start.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

RECORD = "training.json"
"""In a checkpoint: what was being trained, and `FILES`."""
FILES = "files"
"""Bytes of each file of a checkpoint: after a power cut files may be shorter than what was written to them."""
SMALL = 50_000_000
"""Parameters below which every parameter stays gathered, and ZeRO's hooks see a layer as one module: partitioning saves
nothing there, and the hooks of each linear and norm would cost more than their arithmetic."""
PERSISTENT = 10**5
"""In a larger model, parameters of fewer elements (norms, biases) stay gathered; DeepSpeed's own default."""


class Place(NamedTuple):
    """Where this rank runs."""

    rank: int
    world: int
    device: torch.device


class Decision(NamedTuple):
    """Where and what the label tokens are."""

    at: int
    accept_id: int
    reject_id: int


def _reduce_scatter(buffer: torch.Tensor, own: torch.Tensor, group: Any = None, **_: Any) -> None:
    """Sum each rank's share of `buffer` into its `own`.

    Gloo's reduce-scatter is an all-reduce of which each rank keeps its share: twice the bytes, and a third of the speed.
    """
    if own.numel() == buffer.numel():  # one rank
        own.copy_(buffer)
        return
    received = torch.empty_like(buffer)
    dist.all_to_all_single(received, buffer, group=group)
    torch.sum(received.view(-1, own.numel()), dim=0, out=own)


def join_group() -> Place:
    """Hand the process group that the launcher made (Ray Train or torchrun) to DeepSpeed."""
    deepspeed.init_distributed(dist_init_required=False)
    if dist.get_backend() == "gloo":
        coalesced_collectives._torch_reduce_scatter_fn = _reduce_scatter
    # What the imports left stays for ever: the collections at each condition's begin and end need not look at it again.
    gc.collect()
    gc.freeze()
    rank = dist.get_rank()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Place(rank, dist.get_world_size(), device)


def zero3_config(train: Train, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a model of so many parameters."""
    small = parameters < SMALL
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
            "reduce_bucket_size": 5 * 10**7 if not small else SMALL,
            "stage3_prefetch_bucket_size": 5 * 10**7,
            "stage3_param_persistence_threshold": SMALL if small else PERSISTENT,
            "memory_efficient_linear": not small,  # its autograd function keeps no weight, which stays gathered here
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }
    if train.dtype == "bf16":
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


def _compute_in_float32(head: torch.nn.Linear) -> None:
    """Make an LM head multiply in float32: log-odds of bf16 logits would lie on a grid of 1/8.

    Its own `forward` is replaced, so that ZeRO's hooks on the module still gather the weight first.
    """

    def forward(self: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden.float(), self.weight.float())

    head.forward = types.MethodType(forward, head)  # type: ignore[method-assign]


def build_engine(
    base: str, condition: Condition, train: Train, decision: Decision, attention: str, total_steps: int
) -> Any:
    """A ZeRO-3 engine around the base model; collective over all ranks.

    Args:
        base: folder or name of the base model.
        condition: decides the loss.
        train: decides optimizer, schedule and precision.
        decision: the label tokens.
        attention: attention implementation.
        total_steps: optimizer steps of the whole fine-tuning, for the cosine.
    """
    parameters = parameter_count(base)
    config = zero3_config(train, parameters)
    keep_alive = HfDeepSpeedConfig(config)  # while it lives, from_pretrained partitions what it loads
    lm = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16 if train.dtype == "bf16" else torch.float32, attn_implementation=attention
    )
    del keep_alive
    norm.use_few_passes(lm)
    if train.dtype == "bf16":
        _compute_in_float32(lm.lm_head)
    elif attention == packed.NAME and not torch.cuda.is_available() and onednn.pays():
        onednn.use_onednn(lm)  # packed micro-batches come in few sizes; for each size oneDNN first makes its kernels
    if train.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = AnswerModel(lm, condition, decision.at, decision.accept_id, decision.reject_id)
    model.train()
    if parameters < SMALL:
        for layer in lm.model.layers:
            set_z3_leaf_module(layer, True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(train.warmup_ratio * total_steps), total_steps)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=config)
    _gather_in_one_collective(engine.optimizer.persistent_parameters)
    if parameters < SMALL:
        _refresh_in_place(engine.optimizer)
    return engine


def _gather_in_one_collective(persistent: list[Any]) -> None:
    """Make DeepSpeed gather the parameters that stay gathered with one collective a step, not one a parameter.

    It asks the first of them to gather all; that one's method is replaced by its own coalesced one.
    """
    if not persistent:
        return
    first, gather = persistent[0], persistent[0].all_gather

    def all_gather(param_list: list[Any] | None = None, **options: Any) -> Any:
        if param_list is None:
            return gather(**options)
        missing = [p for p in param_list if p.ds_status == ZeroParamStatus.NOT_AVAILABLE]
        return first.all_gather_coalesced(missing).wait() if missing else None

    first.all_gather = all_gather


def _refresh_in_place(optimizer: Any) -> None:
    """Make a step write new values into the parameters that stay gathered, where they lie.

    DeepSpeed frees each of them before a step and gathers it anew after it. Of a small model that is more Python than
    arithmetic. Here the ranks' shares, which lie in one buffer, are gathered at once and copied. Should a parameter
    not be gathered when a step begins, the step is DeepSpeed's own.
    """
    (parameters,), (shares,) = optimizer.fp16_groups, optimizer.fp16_partitioned_groups_flat
    first = optimizer.persistent_parameters[0]  # DeepSpeed asks it to gather all
    world, step, gather = dist.get_world_size(), optimizer.step, first.all_gather
    gathered = shares if world == 1 else shares.new_empty(world * shares.numel())
    where: list[int] = []
    to: list[torch.Tensor] = []
    what: list[torch.Tensor] = []

    def find_pieces() -> None:
        """Each rank's piece of each parameter; again only when parameters have moved."""
        if where == (found := [p.data_ptr() for p in parameters]):
            return
        where[:] = found
        to.clear()
        what.clear()
        at = 0
        for p in parameters:
            share = p.ds_tensor.ds_numel
            for rank, piece in enumerate(p.data.view(-1).split(share)):
                to.append(piece)
                what.append(gathered[rank * shares.numel() + at :][: piece.numel()])
            at += share

    def refresh(*_: Any, **__: Any) -> None:
        if world > 1:
            dist.all_gather_into_tensor(gathered, shares)
        find_pieces()
        torch._foreach_copy_(to, what)

    def step_in_place(closure: Any = None) -> None:
        if any(p.ds_status != ZeroParamStatus.AVAILABLE for p in parameters):
            step(closure)
            return
        for p in parameters:
            p.ds_active_sub_modules.clear()
        optimizer._partition_all_parameters, first.all_gather = (lambda: None), refresh
        try:
            step(closure)
        finally:
            del optimizer._partition_all_parameters
            first.all_gather = gather

    optimizer.step = step_in_place


def export_model(engine: Any, place: Place, base: str, to: Path) -> None:
    """Write the model as Hugging Face safetensors with its tokenizer; collective, rank 0 writes, whole or not at all."""
    state = engine._zero3_consolidated_16bit_state_dict()  # float32 where training is float32
    if place.rank == 0:
        temporary = to.with_name(f".{to.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        lm = engine.module.lm
        # In files of 2 GB: nothing else of this process runs while one is written, its lease's heartbeat included.
        weights = {k.removeprefix("lm."): v for k, v in state.items()}
        lm.save_pretrained(temporary, state_dict=weights, max_shard_size="2GB")
        AutoTokenizer.from_pretrained(base).save_pretrained(temporary)
        shutil.rmtree(to, ignore_errors=True)
        temporary.rename(to)
    dist.barrier()


def save_checkpoint(
    engine: Any, place: Place, folder: Path, step: int, of: dict[str, Any], metered: dict[str, Any]
) -> None:
    """Write a resume checkpoint and delete older ones; collective, every rank writes its shard.

    `of` tells what is being trained (data, base model, ranks): another training must not resume from it. `metered` is
    what this rank has summed up for the next line of the metric log.
    """
    temporary, final = folder / f".step_{step:08d}.tmp", folder / f"step_{step:08d}"
    engine.save_checkpoint(str(temporary), tag="zero3", client_state={"step": step}, save_latest=False)
    write_json(temporary / f"metered_{place.rank}.json", metered)
    own = [temporary / f"metered_{place.rank}.json", *temporary.glob(f"zero3/*_rank_{place.rank}_mp_*")]
    sizes: list[dict[str, int]] = [{}] * place.world
    dist.all_gather_object(sizes, {str(p.relative_to(temporary)): p.stat().st_size for p in own})
    if place.rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        # Written last: a checkpoint without it is not whole.
        write_json(final / RECORD, {**of, FILES: {name: size for part in sizes for name, size in part.items()}})
        for other in folder.iterdir():
            if other.name != final.name:
                shutil.rmtree(other, ignore_errors=True)
    dist.barrier()


def _why_not(checkpoint: Path, of: dict[str, Any]) -> str | None:
    """Why a checkpoint is not resumed from; None if it can be."""
    try:
        record = read_json(checkpoint / RECORD)
    except WlsweepError as e:
        return f"is not whole ({e})"
    if other := ", ".join(key for key in of if record.get(key) != of[key]):
        return f"is of another training ({other})"
    for name, size in record.get(FILES, {}).items():
        found = (checkpoint / name).stat().st_size if (checkpoint / name).is_file() else 0
        if found != size:
            return f"is cut short ({name} has {found:,} of {size:,} bytes; was the power cut?)"
    return None


def load_checkpoint(engine: Any, place: Place, folder: Path, of: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """Resume from the latest whole checkpoint of this very training; its step, and what this rank had summed up for the
    metric log. 0 and nothing if there is none.

    Rank 0 chooses for all: file servers may show different ranks different folders for a while.
    """
    choice: list[str | None] = [None]
    if place.rank == 0:
        refused = {p: _why_not(p, of) for p in folder.glob("step_*") if (p / RECORD).is_file()}
        choice[0] = max((p.name for p, why in refused.items() if why is None), default=None)
        for path, why in refused.items() if choice[0] is None else ():
            print(f"{path} {why}: this training begins at step 0")
    dist.broadcast_object_list(choice, src=0)
    if choice[0] is None:
        return 0, None
    _, state = engine.load_checkpoint(str(folder / choice[0]), tag="zero3")
    metered = (
        folder / choice[0] / f"metered_{place.rank}.json"
    )  # checkpoints at logged steps may lack it: nothing is summed
    return int(state["step"]), read_json(metered) if metered.is_file() else None


def _forget_models() -> None:
    """Empty DeepSpeed's own memory of every engine in the process: its model, whose hooks hold the engine and all of its.

    The stack of modules of the forward pass keeps the model at its bottom, and a method's cache, inside of a decorator,
    every module that was ever asked for.
    """
    FWD_MODULE_STACK.clear()
    for method in vars(PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


def release(engine: Any) -> None:
    """Give back what an engine holds, so that the process can build the next one; nothing is left of this one."""
    engine.destroy()
    _forget_models()
    vars(engine).clear()  # the caller still holds it
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
