"""Merged models for those who want one: base + adapter as a whole model, for programs that know no adapters.

wlsweep export runs/demo_lora --merged merged --only 'accept_*'
"""

from __future__ import annotations

from pathlib import Path

from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.run.adapter import is_adapter, refuse_other_base
from wlsweep.run.layout import RunDir, atomic_folder
from wlsweep.run.status import RunStatus
from wlsweep.spec.condition import select


def export_merged(run: RunDir, only: str | None, to: Path) -> list[Path]:
    """Write a whole model for each trained LoRA condition, in the base's dtype; what is there already stays.

    Args:
        run: the run.
        only: conditions by index and name; without it all LoRA conditions.
        to: a folder; each model gets one named after its condition.

    Raises:
        WlsweepError: if a chosen condition has no adapter, or one of another base.
    """
    states = RunStatus(run)
    chosen = select(states.conditions, only)
    if only is None:
        chosen = tuple(c for c in chosen if c.lora)
    if not chosen:
        raise WlsweepError(f"{run.root} has no LoRA condition: its models are whole already")
    base = states.record.base
    problems = [
        f"{c.name} is fine-tuned in full: {run.model(c.name)} is a whole model already" for c in chosen if not c.lora
    ]
    problems += [
        f"{c.name}: {run.model(c.name)} holds no adapter; it is not trained, or keep_models deleted it"
        for c in chosen
        if c.lora and not (states.trained(c.name) and is_adapter(run.model(c.name)))
    ]
    refuse_all("these conditions cannot be merged:", problems)
    for c in chosen:
        refuse_other_base(run.model(c.name), base)
    return [_merge(base, run.model(c.name), to / c.name) for c in chosen]


def _merge(base: str, adapter: Path, to: Path) -> Path:
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if not to.is_dir():
        dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
        # Summed in float32 and rounded once.
        lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        merged = PeftModel.from_pretrained(lm, str(adapter)).merge_and_unload()
        with atomic_folder(to) as temporary:
            merged.to(dtype).save_pretrained(temporary, max_shard_size="2GB")
            AutoTokenizer.from_pretrained(base).save_pretrained(temporary)
    return to
