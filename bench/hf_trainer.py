"""The HF Trainer on the baseline's rows of a prepared run, for bench/gpu.py: torchrun -m bench.hf_trainer RUN OUT.json

Same model, rows, batch size, optimizer and ZeRO-3 settings as ours, in the way its users run it: labels of the prompt are
masked, logits are computed for every token. On a CPU it runs without DeepSpeed, whose integration does not start there.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from wlsweep.data.load import TokenRows, load_mix
from wlsweep.run.layout import existing_run, read_json, write_json
from wlsweep.spec.config import Sweep
from wlsweep.train.zero3 import parameter_count, zero3_config


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **more):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def labelled(rows: TokenRows, i: int) -> dict[str, list[int]]:
    """Prompt and answer, of which only the answer is learnt."""
    prompt, answer = rows.prompt(i).tolist(), list(rows.answer.ids(bool(rows.accept[i])))
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Micro-batches of one row need no padding."""
    return {k: torch.tensor([row[k] for row in batch]) for k in batch[0]}


def main(folder: str, out: str) -> None:
    """One epoch; writes tokens/s, the median over steps after the first."""
    run = existing_run(folder)
    record = read_json(run.sweep_json)
    sweep, rows = Sweep.model_validate(record["sweep"]), load_mix(run, 2)
    train, base = sweep.train, record["base"]
    arguments = TrainingArguments(
        output_dir=str(Path(out).with_suffix("")),
        per_device_train_batch_size=train.micro_batch,
        gradient_accumulation_steps=train.accumulation,
        num_train_epochs=1,
        learning_rate=train.lr,
        bf16=train.dtype == "bf16",
        gradient_checkpointing=bool(train.gradient_checkpointing),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_torch_fused" if train.gpu else "adamw_torch",
        lr_scheduler_type="cosine",
        use_cpu=not train.gpu,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        deepspeed=zero3_config(train, parameter_count(base)) if train.gpu else None,
    )
    dtype = torch.bfloat16 if train.dtype == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation=sweep.model.attention)
    data, clock = [labelled(rows, i) for i in range(len(rows))], Clock()
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[clock]).train()
    tokens = statistics.fmean(len(r["input_ids"]) for r in data) * train.global_batch
    seconds = statistics.median(b - a for a, b in itertools.pairwise(clock.ends))
    write_json(Path(out), {"tokens_per_s": tokens / seconds, "steps": len(clock.ends)})


if __name__ == "__main__":
    main(*sys.argv[1:])
