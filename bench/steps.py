"""A training worker's tokens/s against a bare torch loop of the same math, alternating in one process group.

    wlsweep run search_spaces/demo.toml --stage data
    torchrun --nproc-per-node 2 -m bench.steps runs/demo [--rounds 3]

The bare loop has the same rows, micro-batches, model (its last layer at the answers alone, too), loss, AdamW, schedule and
clipping, averages gradients over ranks with one flat all-reduce a step, and keeps no log, no checkpoint, no partition. Its
norms and linear layers are those of the libraries, also where the worker has its own norms and oneDNN's linears. Both are
also set against the machine's own float32 matmul, with the FLOPs that `plan` counts. A search space for another number of
ranks is cut for those that were started.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from wlsweep.data.load import load_mix
from wlsweep.run.layout import existing_run, read_json
from wlsweep.spec.architecture import architecture
from wlsweep.spec.config import Sweep
from wlsweep.spec.cost import training_flops
from wlsweep.train.batches import steps_per_epoch
from wlsweep.train.loop import Batcher, Hooks, Job, train_condition
from wlsweep.train.model import AnswerModel, run_forward
from wlsweep.train.zero3 import join_group


def bare(job, rows, place) -> float:
    """Seconds of the optimizer steps of a condition without DeepSpeed."""
    train, answer = job.sweep.train, rows.answer
    lm = AutoModelForCausalLM.from_pretrained(
        job.base, dtype=torch.float32, attn_implementation=job.sweep.model.attention
    )
    model = AnswerModel(lm, job.condition, len(answer.prefix), answer.accept, answer.reject).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    steps = train.epochs * steps_per_epoch(len(rows.accept), train.global_batch)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(train.warmup_ratio * steps), steps)
    batcher = Batcher(job, rows, place)
    dist.barrier()
    began = time.perf_counter()
    for step in range(steps):
        for batch, _ in batcher.step(step):
            torch.autograd.backward(run_forward(model, batch, job.sweep.loss.format_weight).loss)
        gradients = [p.grad for p in parameters]
        flat = parameters_to_vector(gradients)
        dist.all_reduce(flat)
        vector_to_parameters(flat, gradients)
        torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=False)
    dist.barrier()
    return time.perf_counter() - began


def worker(job, rows, place) -> float:
    """Seconds of the same steps in the product's training loop."""
    train_condition(job, rows, place, Hooks())
    return float(read_json(job.run.trained(job.name))["seconds"]["steps"])


def matmul_flops(size: int = 1024, rounds: int = 20) -> float:
    """This rank's float32 matmul rate with all ranks busy, FLOP/s."""
    a = torch.randn(size, size)
    a @ a
    dist.barrier()
    began = time.perf_counter()
    for _ in range(rounds):
        a @ a
    return 2 * size**3 * rounds / (time.perf_counter() - began)


def main() -> None:
    """Alternate the two and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    run = existing_run(arguments.run)
    record = read_json(run.sweep_json)
    sweep = Sweep.model_validate(record["sweep"])
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != sweep.train.workers:
        layout = {
            "workers": world,
            "micro_batch": max(1, sweep.train.global_batch // world // sweep.train.accumulation),
        }
        train = type(sweep.train).model_validate(sweep.train.model_dump() | layout)
        sweep = sweep.model_copy(update={"train": train})
    if sweep.train.dtype != "fp32":
        raise SystemExit(
            f"{run.root} trains in {sweep.train.dtype}, the bare loop in float32: prepare a run with train.dtype = 'fp32'"
        )
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
    seconds: dict[str, list[float]] = {"bare loop": [], "worker": []}
    for _ in range(arguments.rounds):
        seconds["bare loop"].append(bare(job, rows, place))
        seconds["worker"].append(worker(job, rows, place))
    peak = matmul_flops() * place.world
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
