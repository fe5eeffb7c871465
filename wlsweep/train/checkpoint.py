"""Resume checkpoints: what a killed training goes on from, and how often one is worth its time.

Each rank writes its own shard; the record that rank 0 writes last makes the checkpoint whole.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.distributed as dist

from wlsweep.errors import WlsweepError
from wlsweep.run.layout import read_json, write_json

if TYPE_CHECKING:
    from wlsweep.train.zero3 import Place

RECORD = "training.json"
"""In a checkpoint: what was being trained, and `FILES`."""
FILES = "files"
"""Bytes of each file of a checkpoint: after a power cut files may be shorter than what was written to them."""
LONGEST_SHARE = 0.03
"""Share of the time that may go into checkpoints."""
FREE_S = 1.0
"""A checkpoint of so few seconds is always made."""


class Resumed(NamedTuple):
    """What a training goes on from."""

    step: int
    """Optimizer steps that are done; 0 without a checkpoint."""
    metered: dict[str, Any] | None
    """What this rank had summed up for the next line of the metric log (`Meter.state`); None where that was nothing."""


def save_checkpoint(
    engine: Any, place: Place, folder: Path, step: int, of: dict[str, Any], metered: dict[str, Any]
) -> int:
    """Write a resume checkpoint and delete older ones; collective, every rank writes its shard.

    `of` tells what is being trained (data, base model, ranks): another training must not resume from it. `metered` is
    what this rank has summed up for the next line of the metric log. Returns its bytes, of all ranks together.
    """
    temporary, final = folder / f".step_{step:08d}.tmp", folder / f"step_{step:08d}"
    engine.save_checkpoint(
        str(temporary), tag="zero3", client_state={"step": step}, save_latest=False, exclude_frozen_parameters=True
    )
    write_json(temporary / f"metered_{place.rank}.json", metered)
    own = [temporary / f"metered_{place.rank}.json", *temporary.glob(f"zero3/*_rank_{place.rank}_mp_*")]
    sizes: list[dict[str, int]] = [{}] * place.world
    dist.all_gather_object(sizes, {str(p.relative_to(temporary)): p.stat().st_size for p in own})
    if place.rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        # Written last: a checkpoint without it is not whole.
        write_json(final / RECORD, {**of, FILES: {name: size for part in sizes for name, size in part.items()}})
        for other in folder.iterdir():
            if other.name != final.name:
                shutil.rmtree(other, ignore_errors=True)
    dist.barrier()
    return sum(size for part in sizes for size in part.values())


def _why_not(checkpoint: Path, of: dict[str, Any]) -> str | None:
    """Why a checkpoint is not resumed from; None if it can be."""
    try:
        record = read_json(checkpoint / RECORD)
    except WlsweepError as e:
        return f"is not whole ({e})"
    if other := ", ".join(key for key in of if record.get(key) != of[key]):
        return f"is of another training ({other})"
    for name, size in record.get(FILES, {}).items():
        found = (checkpoint / name).stat().st_size if (checkpoint / name).is_file() else 0
        if found != size:
            return f"is cut short ({name} has {found:,} of {size:,} bytes; was the power cut?)"
    return None


def load_checkpoint(engine: Any, place: Place, folder: Path, of: dict[str, Any]) -> Resumed:
    """Resume from the latest whole checkpoint of this very training.

    Rank 0 chooses for all: file servers may show different ranks different folders for a while.
    """
    choice: list[str | None] = [None]
    if place.rank == 0:
        refused = {p: _why_not(p, of) for p in folder.glob("step_*") if (p / RECORD).is_file()}
        choice[0] = max((p.name for p, why in refused.items() if why is None), default=None)
        for path, why in refused.items() if choice[0] is None else ():
            print(f"{path} {why}: this training begins at step 0")
    dist.broadcast_object_list(choice, src=0)
    if choice[0] is None:
        return Resumed(0, None)
    whole = all(p.requires_grad for p in engine.module.parameters())  # frozen parameters are not in a checkpoint
    _, state = engine.load_checkpoint(str(folder / choice[0]), tag="zero3", load_module_strict=whole)
    # Checkpoints at logged steps may lack it: nothing is summed.
    metered = folder / choice[0] / f"metered_{place.rank}.json"
    return Resumed(int(state["step"]), read_json(metered) if metered.is_file() else None)


class CheckpointPace:
    """Says whether a checkpoint that is due by its step is worth its time; rank 0 asks, for all ranks.

    One of 7B parameters is 91 GB: 91 s at 1 GB/s, and `train.checkpoint_every` steps may take five minutes. So the cost of
    the last one is measured, and one that would come too soon is left out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.cost = 0.0
        self.ended = clock()

    def is_worth_it(self) -> bool:
        """Whether enough was computed since the last checkpoint for its cost to stay below `LONGEST_SHARE`."""
        return self.cost <= FREE_S or self.clock() - self.ended >= self.cost / LONGEST_SHARE

    def saved(self, began: float) -> None:
        """A checkpoint was made that began at this time of the clock."""
        self.ended = self.clock()
        self.cost = self.ended - began
