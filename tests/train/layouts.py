"""Run by torchrun: gradients and trajectories through the real ZeRO-3 engine, saved for the tests to compare.

torchrun --nproc-per-node N -m tests.train.layouts BASE OUT
"""

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from transformers import AutoModelForCausalLM

from tests.train.made_rows import LR, STEPS, WEIGHTS, drawn_rows, train_config
from wlsweep.spec.condition import Condition
from wlsweep.train import zero3 as engine_module
from wlsweep.train.batches import cut, global_batch_rows
from wlsweep.train.kernels import has_compiler
from wlsweep.train.model import collate, run_forward
from wlsweep.train.zero3 import build_engine, export_model, join_group, release

CONDITION = Condition("accept", 4.0, 2)
released = []
"""Weak references to every engine, model and optimizer that was released."""


def micro_batches(rows, batch, place, accumulation, pad=0, packed=False):
    for numbers in cut(batch, rows.lengths, place.world, accumulation)[place.rank]:
        chosen = numbers.tolist() or [0]
        made = collate(
            [rows.prompt(i) for i in chosen],
            rows.answer,
            [bool(rows.accept[i]) for i in chosen],
            WEIGHTS,
            len(batch),
            place.device,
            packed,
        )
        if not len(numbers):
            made = made._replace(present=torch.zeros(1))
        if pad:
            made = made._replace(input_ids=torch.nn.functional.pad(made.input_ids, (0, pad)))
        yield made


def named(engine, read):
    return {name.removeprefix("lm."): read(p).clone() for name, p in engine.module.named_parameters()}


def let_go(engine):
    released.extend(weakref.ref(x) for x in (engine, engine.module, engine.optimizer))
    release(engine)


def gradients(
    base, rows, place, micro, batch, checkpointing=False, pad=0, dtype="fp32", attention="sdpa", compiled=False
):
    train = train_config(place.world, micro, checkpointing, dtype).model_copy(update={"compile_elementwise": compiled})
    engine = build_engine(base, CONDITION, train, rows.answer, attention, STEPS)
    losses = []
    for made in micro_batches(rows, batch, place, train.accumulation, pad, attention == "packed"):
        out = run_forward(engine, made, 1.0)
        engine.backward(out.loss * place.world * train.accumulation)
        losses.append(out.loss.detach())
        if len(losses) == train.accumulation:
            found = named(engine, safe_get_full_grad)
        engine.step()
    loss = torch.stack(losses).sum()
    dist.all_reduce(loss)
    let_go(engine)
    return {"loss": loss, "gradients": found}


def trajectory(base, rows, place, micro, export=None):
    train = train_config(place.world, micro, False)
    engine = build_engine(base, CONDITION, train, rows.answer, "sdpa", STEPS)
    losses = []
    for step in range(STEPS):
        batch = global_batch_rows(step, len(rows.accept), train.global_batch, 0)
        total = torch.zeros(())
        for made in micro_batches(rows, batch, place, train.accumulation):
            out = run_forward(engine, made, 1.0)
            engine.backward(out.loss * place.world * train.accumulation)
            engine.step()
            total += out.loss.detach()
        dist.all_reduce(total)
        losses.append(total)
    parameters = named(engine, safe_get_full_fp32_param)
    if export:
        export_model(engine, place, base, export)
        if place.rank == 0:
            lm = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
            parameters = {name: p.detach() for name, p in lm.named_parameters()}
    let_go(engine)
    return {"losses": torch.stack(losses), "parameters": parameters, "lr": LR}


def left_while_held(base, rows, place):
    """What is still there of a released engine that somebody holds; the next one is built beside it."""
    train = train_config(place.world, 1, False)
    engine = build_engine(base, CONDITION, train, rows.answer, "sdpa", STEPS)
    parts = [weakref.ref(x) for x in (engine.module, engine.optimizer)]
    release(engine)
    return [type(x).__name__ for ref in parts if (x := ref()) is not None]


def main():
    base, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place, rows = join_group(), drawn_rows(base)
    full, ragged = np.arange(8), np.arange(5)
    names = ("SMALL", "ALONE", "PERSISTENT", "BUCKET", "SUB_GROUP")
    sizes = {n: getattr(engine_module, n) for n in names}
    layouts = {1: {"1x8": 1, "8x1": 8}, 2: {"2 ranks, 2x2": 2}}[place.world]
    found = {}
    for name, micro in layouts.items():
        found[name] = gradients(base, rows, place, micro, full)
        found[f"{name}, ragged"] = gradients(base, rows, place, micro, ragged)
        found[f"{name}, padded"] = gradients(base, rows, place, micro, full, pad=9)
        found[f"{name}, checkpointing"] = gradients(base, rows, place, micro, full, checkpointing=True)
        found[f"{name}, packed"] = gradients(base, rows, place, micro, full, attention="packed")
        found[f"{name}, ragged, packed, checkpointing"] = gradients(
            base, rows, place, micro, ragged, checkpointing=True, attention="packed"
        )
        if has_compiler():
            found[f"{name}, compiled, packed, checkpointing"] = gradients(
                base, rows, place, micro, full, checkpointing=True, attention="packed", compiled=True
            )
        found[f"{name}, trajectory"] = trajectory(base, rows, place, micro)
        found[f"{name}, bf16"] = gradients(base, rows, place, micro, full, dtype="bf16")
        found[f"{name}, every second layer"] = gradients(base, rows, place, micro, full, checkpointing=2)
        # As for a large model: every parameter partitioned, gradients larger than the bucket, several groups to step.
        engine_module.SMALL = engine_module.ALONE = engine_module.PERSISTENT = 0
        engine_module.BUCKET, engine_module.SUB_GROUP = 2000, 30_000
        found[f"{name}, bf16, partitioned"] = gradients(base, rows, place, micro, full, dtype="bf16")
        found[f"{name}, partitioned, checkpointing"] = gradients(base, rows, place, micro, full, checkpointing=True)
        if has_compiler():
            found[f"{name}, partitioned, compiled, checkpointing"] = gradients(
                base, rows, place, micro, full, checkpointing=True, compiled=True
            )
        found[f"{name}, partitioned, trajectory"] = trajectory(
            base, rows, place, micro, out.parent / f"export{place.world}"
        )
        for n in names:
            setattr(engine_module, n, sizes[n])
    gc.collect()
    found[f"{place.world} ranks, left"] = [type(x).__name__ for ref in released if (x := ref()) is not None]
    found[f"{place.world} ranks, left while held"] = left_while_held(base, rows, place)
    assert len(released) == 3 * len([k for k in found if "left" not in k])
    if place.rank == 0:
        torch.save(found, out)
    dist.barrier()


if __name__ == "__main__":
    main()
