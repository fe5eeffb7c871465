"""A training worker's tokens/s against a bare torch loop of the same math, alternating in one process group.

    wlsweep run search_spaces/demo.toml --stage data
    torchrun --nproc-per-node 2 -m bench.steps runs/demo [--rounds 3] [--without PATCH ...]
    python -m bench.steps --prepare-smollm2          # a run on a real pretrained model (make smollm2), for one rank
    torchrun --nproc-per-node 1 -m bench.steps runs/bench/smollm2

The bare loop has the same threads, rows, micro-batches, dtype, model (its last layer at the answers alone), loss, AdamW,
schedule and clipping, averages gradients over ranks with one flat all-reduce a step, and keeps no log, no checkpoint, no
partition. In bf16 it keeps float32 weights for AdamW and sums micro-batches in float32, as the worker does. Its norms and
linear layers are those of the libraries, also where the worker has its own norms and oneDNN's linears. With `--plain`, a
third loop is as most users have it: padded rows, transformers' own attention, logits of all tokens. All are set against
the machine's own matmul, with the FLOPs that `plan` counts. A search space for another number of ranks is cut for those
that were started. With `--without`, the worker also runs without that patch (`wlsweep/train/patches`): what it gains.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from bench.papers import papers, write_array
from bench.results import BENCH, WLSWEEP, empty_folder, timed
from bench.smollm2 import FOLDER
from wlsweep.data.load import load_mix
from wlsweep.run.layout import existing_run, read_json
from wlsweep.spec.architecture import architecture
from wlsweep.spec.config import Sweep
from wlsweep.spec.cost import training_flops
from wlsweep.train import patches
from wlsweep.train.batcher import Batcher
from wlsweep.train.batches import steps_per_epoch
from wlsweep.train.head import compute_in_float32
from wlsweep.train.job import Hooks, Job
from wlsweep.train.loop import train_condition
from wlsweep.train.loss import global_loss, sample_loss, score_answers
from wlsweep.train.model import AnswerModel, MicroBatch, run_forward
from wlsweep.train.zero3 import join_group, recompute_layers


class PlainModel(AnswerModel):
    """The same loss of logits that were made of every token, in the model's own dtype."""

    def forward(self, *of_batch):
        """The fields of a `MicroBatch` of padded rows, and the format's weight."""
        batch, format_weight = MicroBatch(*of_batch[:-1]), of_batch[-1]
        places = (batch.prompt_lengths - 1).unsqueeze(1) + torch.arange(batch.answers.shape[1])
        logits = self.lm(input_ids=batch.input_ids, use_cache=False).logits
        picked = logits[torch.arange(len(places)).unsqueeze(1), places].float()
        scores = score_answers(picked, batch.answers, self.answer, batch.counted)
        parts = sample_loss(scores, batch.accept, self.condition)
        loss = global_loss(parts, batch.weights, batch.present, batch.samples, format_weight)
        return (loss, *(s.detach() for s in scores), loss)


def bare(job, rows, place, plain=False) -> float:
    """Seconds of the optimizer steps of a condition without DeepSpeed."""
    train = job.sweep.train
    dtype = torch.bfloat16 if train.dtype == "bf16" else torch.float32
    if plain:
        model = job.sweep.model.model_copy(update={"attention": "sdpa"})
        job = replace(job, sweep=job.sweep.model_copy(update={"model": model}))
    lm = AutoModelForCausalLM.from_pretrained(job.base, dtype=dtype, attn_implementation=job.sweep.model.attention)
    if dtype == torch.bfloat16 and not plain:
        compute_in_float32(lm.lm_head)
    recompute_layers(lm, int(train.gradient_checkpointing))
    kind = PlainModel if plain else AnswerModel
    model = kind(lm, job.condition, rows.answer).train()
    parameters = list(model.parameters())
    masters = parameters if dtype == torch.float32 else [p.detach().float() for p in parameters]
    optimizer = torch.optim.AdamW(masters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    steps = train.epochs * steps_per_epoch(len(rows.accept), train.global_batch)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(train.warmup_ratio * steps), steps)
    batcher = Batcher(job, rows, place)
    dist.barrier()
    began = time.perf_counter()
    for step in range(steps):
        for batch, _ in batcher.step(step):
            torch.autograd.backward(run_forward(model, batch, job.sweep.loss.format_weight).loss)
            if masters is not parameters:
                add_gradients(parameters, masters)
        gradients = [p.grad for p in masters]
        if place.world > 1:
            flat = parameters_to_vector(gradients)
            dist.all_reduce(flat)
            vector_to_parameters(flat, gradients)
        torch.nn.utils.clip_grad_norm_(masters, train.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=masters is not parameters)
        if masters is not parameters:
            torch._foreach_copy_([p.data for p in parameters], masters)
    dist.barrier()
    return time.perf_counter() - began


def add_gradients(parameters, masters) -> None:
    """Move the gradients of a bf16 micro-batch into float32 sums."""
    for p, master in zip(parameters, masters, strict=True):
        master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
        p.grad = None


def worker(job, rows, place, without=()) -> float:
    """Seconds of the same steps in the product's training loop."""
    every = patches.PATCHES
    patches.PATCHES = tuple(p for p in every if p.name not in without)
    try:
        train_condition(job, rows, place, Hooks())
    finally:
        patches.PATCHES = every
    return float(read_json(job.run.trained(job.name))["seconds"]["steps"])


def matmul_flops(dtype, size: int = 1024, rounds: int = 20) -> float:
    """This rank's matmul rate with all ranks busy, FLOP/s."""
    a = torch.randn(size, size).to(dtype)
    a @ a
    dist.barrier()
    began = time.perf_counter()
    for _ in range(rounds):
        a @ a
    return 2 * size**3 * rounds / (time.perf_counter() - began)


def prepare_smollm2() -> None:
    """Make the data stage of a run on SmolLM2 with rows as long as abstracts.

    One rank with all threads: two ranks would gather 270 MB twice in each micro-batch.
    """
    if not FOLDER.is_dir():
        raise SystemExit(f"{FOLDER} is missing: make smollm2")
    run = empty_folder(BENCH / "smollm2")
    write_array(run / "rows.json", papers(60, 30, characters=700, spread=0.4))
    changed = {
        "data.cutoff": 512,
        "train.global_batch": 8,
        "train.log_every": 2,
        "train.cpus_per_worker": os.cpu_count(),
    }
    settings = [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]
    inputs = ["--data", str(run / "rows.json"), "--model", str(FOLDER), "--out", str(run)]
    timed([*WLSWEEP, "run", "smollm2", *inputs, *settings, "--stage", "data"], run / "prepare.log")
    print(f"torchrun --nproc-per-node 1 -m bench.steps {run}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", action="append", default=[], choices=[p.name for p in patches.PATCHES])
    parser.add_argument("--plain", action="store_true", help="a third loop: padded rows, logits of all tokens")
    parser.add_argument("--prepare-smollm2", action="store_true")
    arguments = parser.parse_args()
    if arguments.prepare_smollm2:
        prepare_smollm2()
        return
    run = existing_run(arguments.run)
    record = read_json(run.sweep_json)
    sweep = Sweep.model_validate(record["sweep"])
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != sweep.train.workers:
        micro = max(1, sweep.train.global_batch // world // sweep.train.accumulation)
        layout = {"workers": world, "micro_batch": micro}
        train = type(sweep.train).model_validate(sweep.train.model_dump() | layout)
        sweep = sweep.model_copy(update={"train": train})
    torch.set_num_threads(sweep.train.cpus_per_worker)
    dist.init_process_group("gloo")
    place = join_group()
    condition = sweep.conditions[0]
    rows = load_mix(run, condition.k)
    # A run directory of its own beside the real one, on the same data and cache.
    scratch = run.root.with_name(f".{run.root.name}-bench")
    if place.rank == 0:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(run.data, scratch / "data")
    dist.barrier()
    job = Job(sweep, condition, type(run)(scratch), record["base"])
    kinds = {"bare loop": lambda: bare(job, rows, place), "worker": lambda: worker(job, rows, place)}
    if arguments.plain:
        kinds["plain loop"] = lambda: bare(job, rows, place, plain=True)
    for name in arguments.without:
        kinds[f"- {name}"] = lambda name=name: worker(job, rows, place, [name])
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(arguments.rounds):
        for kind, run_it in kinds.items():
            seconds[kind].append(run_it())
    peak = matmul_flops(torch.bfloat16 if sweep.train.dtype == "bf16" else torch.float32) * place.world
    if place.rank == 0:
        tokens = read_json(job.run.trained(job.name))["tokens"]
        shutil.rmtree(scratch)
        flops = training_flops(architecture(sweep.model), tokens)
        medians = {k: statistics.median(v) for k, v in seconds.items()}
        print(f"{'':10} {'seconds':>8} {'tokens/s':>9} {'of the bare loop':>17} {'of matmul':>10}")
        for name, s in medians.items():
            print(
                f"{name:10} {s:8.2f} {tokens / s:9.0f} {medians['bare loop'] / s:17.2f} {flops / s / peak:10.1%}",
                flush=True,
            )
        print(json.dumps({"bench": "steps", "ranks": place.world, "tokens": tokens, "seconds": seconds, "peak": peak}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
