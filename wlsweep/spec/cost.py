"""What a sweep costs, from configuration alone: memory per GPU, FLOPs, hours, storage. No engine, no weights.

Sources: ZeRO-3 model states, Rajbhandari et al. 2020; what DeepSpeed and the loss hold beside them was counted tensor by
tensor (`wlsweep.train.live_memory`, within 5 %); training FLOPs 6 x parameters x tokens, Kaplan et al. 2020; attention, Dao
2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wlsweep.spec.architecture import Architecture
from wlsweep.spec.config import Budget, Sweep
from wlsweep.spec.train_section import Train

GIB = 1 << 30
BUCKET = 5 * 10**7
"""Elements of the buffer that gradients are reduced from (`reduce_bucket_size`), float32."""
SUB_GROUP = 2 * 10**8
"""Elements that the optimizer of a partitioned model steps at a time (`sub_group_size`): their gradients are copied into one
flat tensor. DeepSpeed's own 10^9 would take 4 GB more than the activations leave."""
PIECE = 1 << 24
"""Elements that are turned to float32 at a time, of the LM head's weight and of gradients larger than the bucket."""
FEW_LAYERS = 16
"""Up to so many layers the last one is computed at the answers' positions alone; larger models gain less than 5 %."""
LIVE = 10**9
"""Parameters that DeepSpeed may keep gathered at once (`stage3_max_live_parameters`): an upper bound."""
OUTSIDE = int(1.5 * GIB)
"""CUDA context and NCCL's buffers, which no allocator counts."""
FULL = 0.9
"""Share of a GPU's memory above which a plan warns: the allocator needs room, and cards hold less than their name says."""


class Gpu(NamedTuple):
    """One kind of GPU, by its data sheet; MFU and price are assumptions."""

    memory_gib: float
    peak_tflops: float
    """Dense bf16."""
    mfu: float
    """Share of the peak that goes into the arithmetic that the loss needs, with every layer recomputed. H100 and A100: the
    ceiling of an eager step at 4,096 tokens before communication, reckoned layer by layer (products 9.9 ms, attention 1.4,
    elementwise 3.0 on an H100); others assumed. Not measured."""
    price: float
    """Dollars an hour."""


GPUS = {
    "h200-141": Gpu(141, 989, 0.38, 3.0),
    "h100-80": Gpu(80, 989, 0.38, 2.0),
    "a100-80": Gpu(80, 312, 0.47, 1.6),
    "a100-40": Gpu(40, 312, 0.47, 1.2),
    "l40s-48": Gpu(48, 362, 0.35, 1.0),
    "a40-48": Gpu(48, 150, 0.45, 0.6),
    "a10-24": Gpu(24, 125, 0.45, 0.6),
}
"""Kinds that `budget.gpu` names."""


def assumed(budget: Budget) -> Gpu:
    """What a plan reckons with: the kind of GPU, and what the search space says of it otherwise."""
    kind = GPUS[budget.gpu]
    given = (budget.gpu_memory_gib, budget.peak_tflops, budget.mfu, budget.price_per_gpu_hour)
    return Gpu(*(k if g is None else g for k, g in zip(kind, given, strict=True)))


class Memory(NamedTuple):
    """Bytes per rank at its fullest moment."""

    model_states: int
    """This rank's share of weights, float32 weights, both moments and gradients."""
    buffers: int
    """The bucket that gradients are reduced from."""
    activations: int
    """What is kept for the backward pass."""
    working: int
    """The largest of what is made and freed again: the LM head's backward pass, a layer's, a reduction, the optimizer's copy
    of gradients. What of the last two goes beyond the activations, which are gone by then."""
    live_parameters: int
    """Gathered parameters that DeepSpeed may keep: an upper bound, on GPUs only."""
    outside: int
    """CUDA context and NCCL, on GPUs only."""

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(self)

    @property
    def tensors(self) -> int:
        """What live tensors hold: all but the upper bound and what is outside of tensors."""
        return self.model_states + self.buffers + self.activations + self.working


def training_memory(a: Architecture, sweep: Sweep, answer_tokens: int = 6) -> Memory:
    """Memory per rank under ZeRO-3 with everything partitioned; models below 50M parameters stay gathered, a little more."""
    train = sweep.train
    size, several = 2 if train.dtype == "bf16" else 4, train.workers > 1
    share = -(-a.parameters // train.workers)
    # bf16: weights 2, float32 weights 4, moments 8, gradients 4; fp32: weights 4, and the optimizer's copy of them.
    states = (size if train.offload_optimizer else size + 16) * share
    kept, one_layer = activation_bytes(a, sweep)
    # What is gathered of a single rank are its states.
    gathered, head = size if several else 0, a.vocab * a.width
    layer = one_layer + (size + gathered) * a.layer_parameters
    if a.tied:  # one parameter: the head's gradient waits for that of the embeddings
        layer += size * head
    embeddings = (gathered + size * (2 if a.tied else 1)) * head + own_share(head, train)
    step = 0 if train.offload_optimizer else 4 * (min(share, SUB_GROUP) if several or train.gpu else share)
    after = max(embeddings, reduction_bytes(a.parameters, train) + gathered * head, step)
    working = max(head_bytes(a, sweep, answer_tokens) + own_share(head, train), layer, after - kept)
    live = 2 * min(a.parameters, LIVE) if train.gpu else 0
    return Memory(states, 4 * BUCKET, kept, working, live, OUTSIDE if train.gpu else 0)


def head_bytes(a: Architecture, sweep: Sweep, answer_tokens: int, trained: bool = True) -> int:
    """What the LM head's backward pass holds: its gathered weight, its gradient, and the logits at the answers' positions.

    In bf16 its float32 products are made by pieces (`wlsweep.train.head`).
    """
    size, head = 2 if sweep.train.dtype == "bf16" else 4, a.vocab * a.width
    pieces = 4 * min(head, PIECE) if size == 2 else 0
    gathered = size * head if sweep.train.workers > 1 else 0
    return gathered + (size * head if trained else 0) + pieces + logit_bytes(a, sweep, answer_tokens)


def own_share(elements: int, train: Train) -> int:
    """Bytes of a rank's share of a gradient that is larger than the bucket, float32, and of the pieces that make it."""
    if elements <= BUCKET:
        return 0
    if train.workers == 1 and not train.gpu:
        return 4 * elements if train.dtype == "bf16" else 0
    return 4 * -(-elements // train.workers) + (4 if train.gpu else 8) * PIECE


def reduction_bytes(parameters: int, train: Train) -> int:
    """What reducing a full bucket of gradients takes: a copy in the order of ranks, and on CPUs what is received. A single
    rank on CPUs leaves its gradients where they are."""
    if train.workers == 1 and not train.gpu:
        return 0
    return (4 if train.gpu else 8) * min(parameters, BUCKET)


def activation_bytes(a: Architecture, sweep: Sweep) -> tuple[int, int]:
    """(kept from the forward pass until the backward pass, made anew for the one layer that is recomputed).

    Of a layer that is recomputed one [row, token, width] tensor is kept, of the others all tensors. The last layer of a
    small model makes little more than keys and values and is never recomputed (`wlsweep.train.patches.last_layer`). A
    micro-batch may hold twice as many short rows. Packed rows in bf16 keep more on a CPU, where attention is in float32.
    """
    size = 2 if sweep.train.dtype == "bf16" else 4
    tokens = sweep.train.micro_batch * sweep.data.cutoff
    layer = size * tokens * (4 * a.width + 2 * (a.heads + a.kv_heads) * a.head_size + 4 * a.mlp)
    last = size * tokens * (2 * a.width + 4 * a.kv_heads * a.head_size)
    short = a.layers <= FEW_LAYERS
    recomputed = sweep.train.recomputed(a.layers - 1 if short else a.layers)
    whole = (a.layers - 1 if short else a.layers) - recomputed
    kept = size * tokens * a.width * recomputed + whole * layer + (last if short else 0)
    return kept, layer if recomputed else 0


def logit_bytes(a: Architecture, sweep: Sweep, answer_tokens: int) -> int:
    """Float32 logits at the answers' positions, and what their loss makes of them."""
    return 3 * 4 * 2 * sweep.train.micro_batch * answer_tokens * a.vocab


def ways_to_fit(sweep: Sweep, bytes_there: float, memory: Callable[[Sweep], Memory]) -> list[str]:
    """Settings, each alone, with which a rank's memory fits, with what it then needs; those first that cost least time.

    `memory` says what a sweep's ranks need.
    """
    train = sweep.train
    changes: list[tuple[str, str, int]] = []
    if train.micro_batch > 1:
        changes.append(("train", "micro_batch", 1))
    if not train.gradient_checkpointing:
        changes.append(("train", "gradient_checkpointing", True))
    for workers in (2 * train.workers, 4 * train.workers):
        if train.global_batch % (workers * train.micro_batch) == 0:
            changes.append(("train", "workers", workers))
    if not train.offload_optimizer:
        changes.append(("train", "offload_optimizer", True))
    changes.append(("data", "cutoff", sweep.data.cutoff // 2))
    found = []
    for section, key, value in changes:
        needed = memory(_changed(sweep, section, **{key: value})).total
        if needed <= bytes_there:
            found.append(f"{section}.{key} = {str(value).lower()} ({needed / GIB:.0f} GiB)")
    return found


def _changed(sweep: Sweep, section: str, **values: object) -> Sweep:
    """The sweep with other values in one of its sections."""
    return sweep.model_copy(update={section: getattr(sweep, section).model_copy(update=values)})


def layouts_that_fit(
    a: Architecture, sweep: Sweep, bytes_there: float, memory: Callable[[Sweep], Memory], passes: int
) -> list[str]:
    """What a rank's memory allows beside its present layout, a line each: the largest micro-batch and what it saves of the
    traffic between several ranks, and the fewest recomputed layers. Empty where nothing would change.

    `memory` as for `ways_to_fit`, `passes` as for `executed_flops`.
    """
    train, found = sweep.train, []
    rows = train.global_batch // train.workers
    sizes = [n for n in range(rows, train.micro_batch, -1) if rows % n == 0 and train.workers > 1]
    for size in sizes:
        changed = _changed(sweep, "train", micro_batch=size)
        total = memory(changed).total
        if total <= bytes_there:
            before, after = train.accumulation, changed.train.accumulation
            gathered = 2 * model_bytes(a, sweep) * (1 - 1 / train.workers) / 1e9
            found.append(
                f"train.micro_batch = {size} fits, too ({total / GIB:.0f} GiB): {2 * after} gathers of the weights a step "
                f"in place of {2 * before}, {after * gathered:.0f} GB to each rank in place of {before * gathered:.0f}"
            )
            break
    fewest: list[bool | int] = [False, *(n for n in range(a.layers, 1, -1) if _recomputes_less(a, n - 1, n))]
    for every in fewest:
        if not _recomputes_less(a, train.gradient_checkpointing, every):
            break
        changed = _changed(sweep, "train", gradient_checkpointing=every)
        total = memory(changed).total
        if total <= bytes_there:
            less = 1 - executed_flops(a, changed, 1, passes) / executed_flops(a, sweep, 1, passes)
            found.append(
                f"train.gradient_checkpointing = {str(every).lower()} fits, too ({total / GIB:.0f} GiB): {less:.0%} less "
                "arithmetic a step"
            )
            break
    return found


def _recomputes_less(a: Architecture, before: bool | int, after: bool | int) -> bool:
    """Whether one setting of `gradient_checkpointing` recomputes fewer of a model's layers than another."""

    def layers(every: bool | int) -> int:
        return -(-a.layers // int(every)) if every else 0

    return layers(after) < layers(before)


def training_flops(a: Architecture, tokens: int, row_tokens: int = 0) -> float:
    """FLOPs that training on so many tokens needs; recomputation under checkpointing is not counted (MFU, not HFU).

    Six a token and parameter, without embeddings, LM head and what the last layer need not compute: all but keys and values.
    With the length of a row, attention too: 12 x heads x head size a token, layer and token attended to (half of a row, as
    attention is causal; less within a sliding window), without the last layer.
    """
    embeddings = a.vocab * a.width * (1 if a.tied else 2)
    unused = 2 * a.width * a.heads * a.head_size + 3 * a.width * a.mlp
    attention = 12.0 * a.heads * a.head_size * (a.layers - 1) * (a.mean_context(row_tokens) if row_tokens else 0.0)
    return (6.0 * (a.parameters - embeddings - unused) + attention) * tokens


def executed_flops(a: Architecture, sweep: Sweep, tokens: int, passes: int = 3) -> float:
    """FLOPs that a training on so many tokens executes in its decoder layers, recomputation under checkpointing included.

    A layer's forward pass is made `passes` times, in FLOPs: once forward and twice backward (3), or once backward where its
    weights are frozen (2); and once more where it is recomputed. The last layer of a small model makes little more than keys
    and values. Counted by PyTorch's flop counter within 2 % (`tests/spec/test_cost.py`), on linear layers that keep no
    weight, as those of a partitioned model are; others leave out the last product of what they recompute.
    """
    short = a.layers <= FEW_LAYERS
    whole = a.layers - 1 if short else a.layers
    layer = 2 * a.layer_parameters + 4 * a.heads * a.head_size * a.mean_context(sweep.data.cutoff)
    last = 4 * a.width * a.kv_heads * a.head_size if short else 0
    return (passes * (whole * layer + last) + sweep.train.recomputed(whole) * layer) * float(tokens)


def time_of_recomputing(a: Architecture, sweep: Sweep, passes: int = 3) -> float:
    """Time of a training as its configuration recomputes layers, of that with every layer recomputed, which the MFU of a
    kind of GPU is of; by what is executed (`executed_flops`)."""
    every = _changed(sweep, "train", gradient_checkpointing=True)
    return executed_flops(a, sweep, 1, passes) / executed_flops(a, every, 1, passes)


def model_bytes(a: Architecture, sweep: Sweep) -> int:
    """Size of one exported model."""
    return a.parameters * (2 if sweep.train.dtype == "bf16" else 4)


def checkpoint_bytes(a: Architecture) -> int:
    """Size of one resume checkpoint: float32 weights and both moments of AdamW."""
    return 12 * a.parameters
