"""Run by torchrun: conditions trained with and without validation, and with it stopped and gone on with.

torchrun --nproc-per-node N -m tests.train.validated BASE FOLDER
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from tests.train.made_rows import LORA, Rows, drawn_rows, train_config
from wlsweep.run.layout import RunDir
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import GridBlock, Sweep
from wlsweep.train import loop, zero3
from wlsweep.train.job import Hooks, Job, Stopped

CASES = {
    "padded": (Condition("accept", 4.0, 2), {}),
    "packed, bf16, partitioned": (Condition("reject", 2.0, 2, loss="sequence"), {"dtype": "bf16"}),
    "adapters with dropout": (Condition("accept", 2.0, 2, lora=4), {"lora": LORA.model_copy(update={"dropout": 0.2})}),
}
STOPPED_AT = 4
"""A step that is validated."""


def split(rows: Rows) -> tuple[Rows, Rows]:
    """(27 rows to train on, 13 of validation)."""
    labels = ["Accept" if i % 5 < 3 else "Reject" for i in range(len(rows.labels))]
    held_out = [i for i in range(len(labels)) if i % 3 == 1]

    def part(chosen):
        return Rows([rows.prompts[i] for i in chosen], [labels[i] for i in chosen], rows.answer)

    return part([i for i in range(len(labels)) if i not in held_out]), part(held_out)


def sweep_of(condition: Condition, case: str, world: int, **more) -> Sweep:
    kind = f"lora{condition.lora}" if condition.lora else "full"
    grid = GridBlock(
        proportion=["1/2"],
        variant=[condition.variant],
        gamma=[condition.gamma],
        loss=[condition.loss],
        finetuning=[kind],
    )
    train = train_config(world, 2, "partitioned" in case)
    layout = {"epochs": 3, "log_every": 2, "checkpoint_every": 2, "validate_every": 4}
    return Sweep.model_validate(
        {
            "name": "validated",
            "data": {"source": "unused"},
            "model": {"path": "unused", "attention": "packed" if "packed" in case else "sdpa"},
            "train": train.model_dump() | layout | more,
            "grid": [grid],
        }
    )


def main():
    base, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place = zero3.join_group()
    training, validation = split(drawn_rows(base))
    loop.ASK_S = 0  # these steps are so short that the question whether to stop would come too late
    loop.finished_data = lambda run: SimpleNamespace(fingerprint="data")
    sizes = (zero3.SMALL, zero3.ALONE, zero3.PERSISTENT)
    for case, (condition, more) in CASES.items():
        if "partitioned" in case:  # as for a large model
            zero3.SMALL = zero3.ALONE = zero3.PERSISTENT = 0
        sweep = sweep_of(condition, case, place.world, **more)
        for kind in ("without", "with", "stopped"):
            job = Job(sweep, condition, RunDir(folder / case / kind), base)
            if place.rank == 0:
                job.run.condition(condition.name).mkdir(parents=True)
            dist.barrier()
            judged = None if kind == "without" else validation
            if kind == "stopped":
                hooks = stopping(job.run.metric_log(condition.name))
                with suppress(Stopped):
                    loop.train_condition(job, training, place, hooks, judged)
                    raise AssertionError("it was not stopped")
                dist.barrier()
            loop.train_condition(job, training, place, Hooks(), judged)
        zero3.SMALL, zero3.ALONE, zero3.PERSISTENT = sizes
    dist.destroy_process_group()


def stopping(log: Path) -> Hooks:
    """Hooks that ask to stop once a step has been validated and logged."""

    def should_stop() -> bool:
        return log.exists() and any(json.loads(line)["step"] == STOPPED_AT for line in log.read_text().splitlines())

    return Hooks(should_stop=should_stop)


if __name__ == "__main__":
    main()
