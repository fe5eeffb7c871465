"""What a training is asked for, what its launcher hears of it, and the ways in which it ends early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import Sweep


class Stopped(Exception):
    """Training was asked to stop; a resume checkpoint has been written."""


class ConditionFailed(WlsweepError):
    """This condition cannot be trained, and trying again would not help. Raised alike on every rank."""


class OutOfMemory(ConditionFailed):
    """A rank's memory was too small, and would be again. Raised on that rank alone: the others still wait for it in a
    collective, so its process must end."""


@dataclass(frozen=True)
class Job:
    """One condition to train."""

    sweep: Sweep
    condition: Condition
    run: RunDir
    base: str
    """Folder or name of the model to start from."""
    attempt: int = 1

    @property
    def name(self) -> str:
        """The condition's name."""
        return self.condition.name


@dataclass
class Hooks:
    """How the launcher hears of progress; called on rank 0 only."""

    on_log: Callable[[dict[str, Any]], None] = lambda line: None
    """Each line of the metric log."""
    on_checkpoint: Callable[[int], None] = lambda size: None
    """Bytes of each resume checkpoint, of all ranks together."""
    should_stop: Callable[[], bool] = lambda: False
    """Polled about twice a second, or at every step where steps take longer."""


def what_to_lower(job: Job, error: BaseException) -> str:
    """What happened, and which settings lower the memory of a rank, those first that cost least time."""
    train = job.sweep.train
    ways = [f"lower train.micro_batch ({train.micro_batch})"] if train.micro_batch > 1 else []
    ways += [] if train.gradient_checkpointing is True else ["set train.gradient_checkpointing = true"]
    ways += [f"raise train.workers ({train.workers})"]
    ways += ["set train.offload_optimizer = true"] if train.gpu and not train.offload_optimizer else []
    ways += [f"lower data.cutoff ({job.sweep.data.cutoff})"]
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{job.name}: a {'GPU' if train.gpu else 'worker'} ran out of memory; {', or '.join(ways)}\n{said}"
