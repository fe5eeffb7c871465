"""What a sweep costs, from configuration alone: parameters, memory per GPU, FLOPs, hours, storage. No engine, no weights.

Sources: ZeRO-3 model states, Rajbhandari et al. 2020 and DeepSpeed's own estimator (18 bytes a parameter over all GPUs plus
the largest layer gathered); training FLOPs 6 x parameters x tokens, Kaplan et al. 2020.
"""

from __future__ import annotations

from typing import NamedTuple

from wlsweep.spec.architecture import Architecture
from wlsweep.spec.config import Sweep

GIB = 1 << 30


class Memory(NamedTuple):
    """Bytes per GPU while training."""

    model_states: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum of the three; buffers and fragmentation come on top."""
        return sum(self)


def training_memory(a: Architecture, sweep: Sweep, answer_tokens: int = 6) -> Memory:
    """Memory per rank under ZeRO-3.

    Activations are reckoned as the tensors that a decoder layer keeps for its backward pass: with checkpointing one
    [row, token, width] tensor a layer plus all tensors of the one layer that is recomputed; without it all of all. The
    last layer makes little more than keys and values (`wlsweep.train.patches.last_layer`). A micro-batch may hold twice as
    many short rows. Within 10 % of what is measured
    (packed rows in bf16 keep more on a CPU, where their attention is in float32).
    """
    train = sweep.train
    size = 2 if train.dtype == "bf16" else 4
    states = 18 * a.parameters // train.workers + 4 * a.largest_layer
    if train.dtype == "fp32":
        states = 16 * a.parameters // train.workers + 4 * a.largest_layer
    tokens = train.micro_batch * sweep.data.cutoff
    head = a.head_size
    kept = size * tokens * (4 * a.width + 2 * (a.heads + a.kv_heads) * head + 4 * a.mlp)
    kept_by_last = size * tokens * (2 * a.width + 4 * a.kv_heads * head)
    boundaries = size * tokens * a.width * a.layers
    activations = boundaries + kept if train.gradient_checkpointing else (a.layers - 1) * kept + kept_by_last
    logits = 3 * 4 * 2 * train.micro_batch * answer_tokens * a.vocab
    return Memory(states, activations, logits)


def training_flops(a: Architecture, tokens: int) -> float:
    """FLOPs that training on so many tokens needs; recomputation under checkpointing is not counted (MFU, not HFU).

    Six a token and parameter, without embeddings, LM head and what the last layer need not compute: all but keys and
    values. Attention scores are left out.
    """
    embeddings = a.vocab * a.width * (1 if a.tied else 2)
    unused = a.width * (2 * a.width + 3 * a.mlp)
    return 6.0 * (a.parameters - embeddings - unused) * tokens


def model_bytes(a: Architecture, sweep: Sweep) -> int:
    """Size of one exported model."""
    return a.parameters * (2 if sweep.train.dtype == "bf16" else 4)


def checkpoint_bytes(a: Architecture) -> int:
    """Size of one resume checkpoint: float32 weights and both moments of AdamW."""
    return 12 * a.parameters
