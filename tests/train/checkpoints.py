"""Run by torchrun: a resume checkpoint, whole and as faults leave it; what is resumed from each is printed by rank 0.

torchrun --nproc-per-node 2 -m tests.train.checkpoints BASE FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from tests.train.layouts import CONDITION, micro_batches
from tests.train.made_rows import STEPS, drawn_rows, train_config
from wlsweep.train.checkpoint import RECORD, load_checkpoint, save_checkpoint
from wlsweep.train.model import run_forward
from wlsweep.train.zero3 import build_engine, join_group, release

OF = {"data": "d", "world": 2}


def saved_by(base, rows, place, folder, dtype):
    """An engine after a step, and its checkpoint."""
    train = train_config(place.world, 2, False, dtype)
    engine = build_engine(base, CONDITION, train, rows.answer, "sdpa", STEPS)
    for made in micro_batches(rows, np.arange(8), place, train.accumulation):
        engine.backward(run_forward(engine, made, 1.0).loss)
        engine.step()
    save_checkpoint(engine, place, folder, 1, OF, {"rank": place.rank})
    (saved,) = folder.glob("step_*")
    files = {str(p.relative_to(saved)) for p in saved.rglob("*") if p.suffix in (".pt", ".json") and p.name != RECORD}
    assert set(json.loads((saved / RECORD).read_text())["files"]) == files and len(files) == 3 * place.world
    return engine, saved


def main():
    base, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place, rows = join_group(), drawn_rows(base)
    release(saved_by(base, rows, place, folder / "bf16", "bf16")[0])
    folder = folder / "fp32"
    engine, saved = saved_by(base, rows, place, folder, "fp32")
    shard = max(
        (p for p in saved.rglob("*") if "optim" in p.name and "rank_1" in p.name), key=lambda p: p.stat().st_size
    )
    found = {}

    def resumed(case, of=OF):
        dist.barrier()
        found[case] = load_checkpoint(engine, place, folder, of)
        dist.barrier()

    def on_rank_0(change):
        dist.barrier()
        if place.rank == 0:
            change()

    resumed("whole")
    resumed("another training", {**OF, "data": "other"})
    record, content = (saved / RECORD).read_text(), shard.read_bytes()
    on_rank_0(lambda: (saved / RECORD).write_text(json.dumps(OF)))
    resumed("without sizes, as it was once written")
    on_rank_0(lambda: (saved / RECORD).write_text(record))
    on_rank_0(lambda: shard.write_bytes(content[:-1]))
    resumed("cut short")
    on_rank_0(shard.unlink)
    resumed("a shard is missing")
    on_rank_0(lambda: shard.write_bytes(content))
    resumed("whole again")
    on_rank_0(lambda: (saved / RECORD).write_text(""))
    resumed("an empty record")
    if place.rank == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
