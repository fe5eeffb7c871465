"""Low-rank adapters from configuration alone: which linear layers get one, what they cost, and which cannot be.

Names and shapes are those of the families in `wlsweep.spec.architecture`; of other models training itself finds out.
"""

from __future__ import annotations

from collections.abc import Iterable

from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.config import Sweep
from wlsweep.spec.cost import BUCKET, FEW_LAYERS, OUTSIDE, Memory, head_bytes

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves room for; an adapter takes the next one."""
LIVE = 3 * 10**8
"""Parameters that DeepSpeed may keep gathered at once under LoRA (`stage3_max_live_parameters`); full fine-tuning keeps its
default of 10^9. On one GPU, where gathering is a copy, keeping them ahead gains nothing and costs memory."""


def linear_layers(a: Architecture) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer of a decoder layer, by name."""
    q, kv = a.heads * a.head_size, a.kv_heads * a.head_size
    if a.family == "phi3":
        attention, gates = {"qkv_proj": (a.width, q + 2 * kv)}, {"gate_up_proj": (a.width, 2 * a.mlp)}
    else:
        attention = {"q_proj": (a.width, q), "k_proj": (a.width, kv), "v_proj": (a.width, kv)}
        gates = {"gate_proj": (a.width, a.mlp), "up_proj": (a.width, a.mlp)}
    return {**attention, "o_proj": (q, a.width), **gates, "down_proj": (a.mlp, a.width)}


def adapted(a: Architecture, sweep: Sweep) -> dict[str, tuple[int, int]]:
    """The linear layers of a decoder layer that get an adapter in a sweep with `[train.lora]`."""
    assert sweep.train.lora is not None
    targets, layers = sweep.train.lora.targets, linear_layers(a)
    return layers if targets == "all-linear" else {n: s for n, s in layers.items() if n in targets}


def adapter_parameters(a: Architecture, sweep: Sweep, rank: int) -> int:
    """Parameters of one adapter: rank x (inputs + outputs) of each layer that gets one."""
    return a.layers * rank * sum(i + o for i, o in adapted(a, sweep).values())


def adapter_problems(sweep: Sweep) -> list[str]:
    """Why the adapters of a sweep cannot be trained or served; empty when they can, or the model's shape is unknown."""
    ranks = sorted({c.lora for c in sweep.conditions if c.lora})
    if not ranks or sweep.train.lora is None:
        return []
    problems = [f"finetuning lora{r}: vLLM serves adapters up to rank {RANKS[-1]}" for r in ranks if r > RANKS[-1]]
    shape = architecture(sweep.model)
    if shape is None:
        return problems
    targets, layers = sweep.train.lora.targets, linear_layers(shape)
    if targets != "all-linear" and (unknown := [t for t in targets if t not in layers]):
        problems.append(
            f"train.lora.targets: {', '.join(unknown)}: no linear layer of a {shape.family} model; it has "
            + ", ".join(layers)
        )
    name, sizes = min(adapted(shape, sweep).items(), key=lambda item: min(item[1]), default=("", (0, 0)))
    problems += [
        f"finetuning lora{r}: the rank is above the smaller side of {name} ({sizes[0]} x {sizes[1]}), so an adapter "
        f"would be larger than the layer; use a rank of at most {min(sizes)}"
        for r in ranks
        if name and r > min(sizes)
    ]
    return problems


def training_memory(a: Architecture, sweep: Sweep, rank: int, answer_tokens: int = 6) -> Memory:
    """Memory per rank of LoRA under ZeRO-3: the base is only kept, the adapters are trained in float32.

    Args:
        a: shape of the base.
        sweep: layout and precision.
        rank: of the adapters.
        answer_tokens: positions at which logits are made.
    """
    train, size = sweep.train, 2 if sweep.train.dtype == "bf16" else 4
    trained = adapter_parameters(a, sweep, rank)
    # Adapters: values, master values, gradients and both moments.
    states = size * -(-a.parameters // train.workers) + 20 * -(-trained // train.workers)
    kept, one_layer = activation_bytes(a, sweep, rank)
    head = head_bytes(a, sweep, answer_tokens, trained=False)
    # DeepSpeed's linear layers keep their input although they are frozen.
    inputs = size * train.micro_batch * sweep.data.cutoff * (2 * a.width + a.heads * a.head_size + a.mlp)
    gathered = a.layer_parameters if train.workers > 1 else 0
    fetched = 2 * min(a.parameters, BUCKET) if train.workers > 1 else 0  # as it arrives, and as parameters
    backward = one_layer + inputs + size * gathered if one_layer else layer_gradients(a, sweep)
    working = max(head, backward, size * fetched)
    live = size * min(a.parameters, LIVE) if train.gpu else 0
    return Memory(states, 4 * BUCKET, kept, working, live, OUTSIDE if train.gpu else 0)


def activation_bytes(a: Architecture, sweep: Sweep, rank: int) -> tuple[int, int]:
    """(kept from the forward pass until the backward pass, made anew for the one layer that is recomputed).

    A frozen linear layer keeps nothing for its backward pass; an adapter keeps the layer's input, which others may share,
    and its inner values. Within 12 % of what is measured (`tests/spec/test_adapters.py`).
    """
    train, size = sweep.train, 2 if sweep.train.dtype == "bf16" else 4
    chosen = adapted(a, sweep)
    tokens = train.micro_batch * sweep.data.cutoff
    heads, kv = a.heads * a.head_size, a.kv_heads * a.head_size
    inner = 4 * rank * len(chosen)
    if size == 2:
        layer = 4 * a.width + 4 * heads + 4 * kv + 6 * a.mlp + _inputs_kept(a, chosen) + inner
        last = 10 * a.width + 4 * kv
    else:
        layer = 16 * a.width + 8 * (heads + kv) + 16 * a.mlp + inner
        last = 8 * a.width + 16 * kv
    short = a.layers <= FEW_LAYERS
    recomputed = train.recomputed(a.layers - 1 if short else a.layers)
    whole = (a.layers - 1 if short else a.layers) - recomputed
    if not recomputed:
        return tokens * (whole * layer + (last if short else 0)), 0
    # What the last layer of a small model keeps but for its input is gone by then.
    kept = tokens * (size * a.width * (recomputed + short) + whole * layer)
    return kept, tokens * layer + layer_gradients(a, sweep)


def layer_gradients(a: Architecture, sweep: Sweep) -> int:
    """What a layer's backward pass makes: gradients of its MLP, and in bf16 the float32 copy of one adapter's input or
    gradient."""
    copy = (
        4 * max((max(sizes) for sizes in adapted(a, sweep).values()), default=0) if sweep.train.dtype == "bf16" else 0
    )
    return sweep.train.micro_batch * sweep.data.cutoff * (6 * a.mlp + copy)


def _inputs_kept(a: Architecture, chosen: Iterable[str]) -> int:
    """Bytes a token of the bf16 inputs that the adapters of a layer keep; layers with the same input share it, and that of
    `o_proj` is there anyway."""
    inputs = {"q_proj": "norm", "k_proj": "norm", "v_proj": "norm", "qkv_proj": "norm", "down_proj": "product"}
    inputs |= dict.fromkeys(("gate_proj", "up_proj", "gate_up_proj"), "second norm")
    widths = {"norm": a.width, "second norm": a.width, "product": a.mlp}
    return 2 * sum(widths[name] for name in {inputs[layer] for layer in chosen if layer in inputs})


def training_flops(full: float, a: Architecture, sweep: Sweep, rank: int, tokens: int) -> float:
    """FLOPs that LoRA needs where full fine-tuning needs `full`: no gradients of weights, and the adapters' own."""
    return full * 2 / 3 + 6.0 * adapter_parameters(a, sweep, rank) * tokens


def adapter_bytes(a: Architecture, sweep: Sweep, rank: int) -> int:
    """Size of one adapter on disk, in float32."""
    return 4 * adapter_parameters(a, sweep, rank)


def checkpoint_bytes(a: Architecture, sweep: Sweep, rank: int) -> int:
    """Size of one resume checkpoint: float32 values and both moments of the adapters alone."""
    return 3 * adapter_bytes(a, sweep, rank)
