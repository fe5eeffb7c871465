"""Run by torchrun: adapters through the real ZeRO-3 engine, saved for the tests to compare.

torchrun --nproc-per-node N -m tests.train.lora_layouts BASE START OUT
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

from tests.train.layouts import micro_batches
from tests.train.made_rows import LORA, LORA_CONDITION, STEPS, drawn_rows, train_config
from wlsweep.train import zero3
from wlsweep.train.batches import global_batch_rows
from wlsweep.train.checkpoint import load_checkpoint, save_checkpoint
from wlsweep.train.model import run_forward
from wlsweep.train.zero3 import build_engine, export_model, join_group, release

OF = {"data": "d"}


def build(start, rows, place, micro, checkpointing=False, dtype="fp32", attention="sdpa"):
    train = train_config(place.world, micro, checkpointing, dtype).model_copy(update={"lora": LORA})
    return train, build_engine(str(start), LORA_CONDITION, train, rows.answer, attention, STEPS)


def trained(engine, read):
    return {
        name.removeprefix("lm."): read(p).clone() for name, p in engine.module.named_parameters() if p.requires_grad
    }


def gradients(start, rows, place, micro, batch, **options):
    train, engine = build(start, rows, place, micro, **options)
    dtypes = {(p.requires_grad, str(p.dtype)) for p in engine.module.parameters()}
    losses = []
    for made in micro_batches(rows, batch, place, train.accumulation, packed=options.get("attention") == "packed"):
        out = run_forward(engine, made, 1.0)
        engine.backward(out.loss * place.world * train.accumulation)
        losses.append(out.loss.detach())
        if len(losses) == train.accumulation:
            found = trained(engine, safe_get_full_grad)
        engine.step()
    loss = torch.stack(losses).sum()
    dist.all_reduce(loss)
    release(engine)
    return {"loss": loss, "gradients": found, "dtypes": dtypes}


def trajectory(base, rows, place, micro, folder, stop=None):
    """Adapters after 20 steps from the base; with `stop`, killed there and resumed from its checkpoint."""
    train, engine = build(base, rows, place, micro)
    first = trained(engine, safe_get_full_fp32_param)
    for step in range(STEPS):
        if step == stop:
            save_checkpoint(engine, place, folder / "checkpoints", step, OF, {})
            release(engine)
            train, engine = build(base, rows, place, micro)
            assert load_checkpoint(engine, place, folder / "checkpoints", OF)[0] == stop
        for made in micro_batches(rows, global_batch_rows(step, len(rows.accept), 8, 0), place, train.accumulation):
            engine.backward(run_forward(engine, made, 1.0).loss * place.world * train.accumulation)
            engine.step()
    made = next(micro_batches(rows, np.arange(8), place, train.accumulation))
    with torch.no_grad():
        said = run_forward(engine, made, 1.0).label_logprobs
    export_model(engine, place, str(base), folder / "model")
    found = {"first": first, "parameters": trained(engine, safe_get_full_fp32_param), "said": said}
    release(engine)
    return found


def main():
    base, start, out = (Path(a) for a in sys.argv[1:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place, rows = join_group(), drawn_rows(base)
    full, ragged = np.arange(8), np.arange(5)
    sizes = (zero3.SMALL, zero3.PERSISTENT)
    layouts = {1: {"1x8": 1, "8x1": 8}, 2: {"2 ranks, 2x2": 2}}[place.world]
    found = {}
    for name, micro in layouts.items():
        found[name] = gradients(start, rows, place, micro, full)
        found[f"{name}, ragged, checkpointing"] = gradients(start, rows, place, micro, ragged, checkpointing=True)
        found[f"{name}, packed"] = gradients(start, rows, place, micro, full, attention="packed")
        found[f"{name}, bf16"] = gradients(start, rows, place, micro, full, dtype="bf16", checkpointing=True)
        folder = out.parent / name.replace(" ", "")
        found[f"{name}, trajectory"] = trajectory(base, rows, place, micro, folder / "whole")
        zero3.SMALL = zero3.PERSISTENT = 0  # as for a large model: every parameter partitioned
        found[f"{name}, partitioned, checkpointing"] = gradients(start, rows, place, micro, full, checkpointing=True)
        found[f"{name}, partitioned, bf16"] = gradients(start, rows, place, micro, full, dtype="bf16")
        zero3.SMALL, zero3.PERSISTENT = sizes
        if micro > 1:
            found[f"{name}, resumed"] = trajectory(base, rows, place, micro, folder / "resumed", stop=11)
    if place.rank == 0:
        torch.save(found, out)
    dist.barrier()


if __name__ == "__main__":
    main()
