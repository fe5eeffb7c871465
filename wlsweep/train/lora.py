"""Low-rank adapters (LoRA, Hu et al. 2021) on a frozen base, as PEFT writes them.

    frozen base (partitioned, in the training's dtype) + adapters in float32 -> engine: gradients, optimizer and resume
    checkpoints of the adapters alone -> a folder in PEFT's format, with the base's identity

All ranks make the same adapters: A drawn with the condition's seed, B zero, so the first forward pass is the base's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wlsweep.errors import SharedFailure, WlsweepError
from wlsweep.run.adapter import CONFIG, WEIGHTS, write_base
from wlsweep.run.layout import read_json
from wlsweep.spec.condition import Condition
from wlsweep.spec.train_section import Lora

_PREFIX = "base_model.model."
"""What PEFT writes before the names of a model's own modules."""
_NAME = "default"
"""PEFT's name of the only adapter of a model; its files do not carry it."""


def add_adapters(lm: Any, condition: Condition, lora: Lora, start: Path | None = None) -> None:
    """Put adapters beside a causal LM's linear layers, and freeze everything else.

    Args:
        lm: the base model, its parameters partitioned or whole.
        condition: gives the rank, and the seed of A.
        lora: scale, dropout and targets.
        start: folder of an adapter whose values they get; without it A is drawn and B is zero.

    Raises:
        SharedFailure: if a target names no linear layer.
        WlsweepError: if the start has another rank, scale or other targets.
    """
    targets: str | list[str] = lora.targets
    if isinstance(targets, list):
        _refuse_unknown(lm, targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=condition.lora,
        lora_alpha=lora.alpha_of(condition.lora),
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
    )
    with torch.random.fork_rng():
        torch.manual_seed(condition.seed)
        inject_adapter_in_model(config, lm, adapter_name=_NAME)
    for name, parameter in lm.named_parameters():
        trained = ".lora_" in name
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()
    # Non-reentrant checkpointing would do without it; but ZeRO frees what a layer gathered once the gradient of its input
    # is there, and the input of the first layer, which comes from a frozen embedding, would have none.
    lm.enable_input_require_grads()
    if start is not None:
        _load(lm, start)


def _refuse_unknown(lm: nn.Module, targets: list[str]) -> None:
    linear = {
        name for name, module in lm.named_modules() if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    }
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in linear)]
    if unknown:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise SharedFailure(f"train.lora.targets: no linear layer is called {', '.join(unknown)}; there are {known}")


def _load(lm: Any, start: Path) -> None:
    own = {name: p for name, p in lm.named_parameters() if p.requires_grad}
    found = {
        name.removeprefix(_PREFIX).replace(".weight", f".{_NAME}.weight"): tensor  # its name in the model
        for name, tensor in load_file(start / WEIGHTS).items()
    }
    there, here = read_json(start / CONFIG), lm.peft_config[_NAME]
    same_scale = there["lora_alpha"] * here.r == here.lora_alpha * there["r"]
    if not same_scale or {n: p.shape for n, p in own.items()} != {n: t.shape for n, t in found.items()}:
        raise WlsweepError(
            f"{start} is an adapter of another rank, scale or other targets; delete {start.parent} and train it again"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(found[name])


def write_adapter(lm: Any, state: Mapping[str, Tensor], base: str, to: Path) -> None:
    """Write an adapter in PEFT's format, and its base's identity.

    Args:
        lm: the model, for PEFT's configuration.
        state: its trained parameters, by their names in `lm`.
        base: folder or name of the base model.
        to: an empty folder.
    """
    found = get_peft_model_state_dict(lm, state_dict=dict(state), adapter_name=_NAME, save_embedding_layers=False)
    save_file(
        {f"{_PREFIX}{k}": v.contiguous() for k, v in sorted(found.items())}, to / WEIGHTS, metadata={"format": "pt"}
    )
    config = LoraConfig(**lm.peft_config[_NAME].to_dict())
    config.base_model_name_or_path = base
    config.inference_mode = True
    # A set, which Python would write in another order each time.
    config.target_modules = sorted(config.target_modules or ())
    config.save_pretrained(str(to))
    write_base(to, base)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """No dropout in the block: scores that are kept or compared must not depend on what was dropped."""
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training]
    for module in dropouts:
        module.eval()
    try:
        yield
    finally:
        for module in dropouts:
            module.train()


def seed_dropout(seed: int, step: int, micro_batch: int, rank: int) -> None:
    """Seed what the next forward pass drops, so that a resumed training drops the same."""
    torch.manual_seed(hash((seed, step, micro_batch, rank)) & 0x7FFFFFFFFFFFFFFF)
