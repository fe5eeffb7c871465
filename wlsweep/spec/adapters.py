"""Low-rank adapters from configuration alone: which linear layers get one, how many parameters that is, what cannot be.

Names and shapes are those of the families in `wlsweep.spec.architecture`; of other models training itself finds out.
"""

from __future__ import annotations

from typing import Literal

from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.config import Sweep

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves room for; an adapter takes the next one."""


def linear_layers(a: Architecture) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer of a decoder layer, by name."""
    q, kv = a.heads * a.head_size, a.kv_heads * a.head_size
    if a.family == "phi3":
        attention, gates = {"qkv_proj": (a.width, q + 2 * kv)}, {"gate_up_proj": (a.width, 2 * a.mlp)}
    else:
        attention = {"q_proj": (a.width, q), "k_proj": (a.width, kv), "v_proj": (a.width, kv)}
        gates = {"gate_proj": (a.width, a.mlp), "up_proj": (a.width, a.mlp)}
    return {**attention, "o_proj": (q, a.width), **gates, "down_proj": (a.mlp, a.width)}


def adapted(a: Architecture, targets: Literal["all-linear"] | list[str]) -> dict[str, tuple[int, int]]:
    """The linear layers of a decoder layer that get an adapter."""
    layers = linear_layers(a)
    return layers if targets == "all-linear" else {n: s for n, s in layers.items() if n in targets}


def adapter_parameters(a: Architecture, targets: Literal["all-linear"] | list[str], rank: int) -> int:
    """Parameters of one adapter: rank x (inputs + outputs) of each layer that gets one."""
    return a.layers * rank * sum(i + o for i, o in adapted(a, targets).values())


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
    name, sizes = min(adapted(shape, targets).items(), key=lambda item: min(item[1]), default=("", (0, 0)))
    problems += [
        f"finetuning lora{r}: the rank is above the smaller side of {name} ({sizes[0]} x {sizes[1]}), so an adapter "
        f"would be larger than the layer; use a rank of at most {min(sizes)}"
        for r in ranks
        if name and r > min(sizes)
    ]
    return problems
