"""Which models outlive their predictions."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from typing import Literal

from wlsweep.run.layout import RunDir
from wlsweep.run.status import RunStatus
from wlsweep.spec.condition import first_stage
from wlsweep.spec.config import Sweep


def models_to_drop(
    keep: Literal["all", "best", "none"],
    losses: Mapping[str, float],
    predicted: Collection[str],
    awaited: Collection[str],
) -> list[str]:
    """Names of the models that may be deleted.

    Args:
        keep: the search space's `keep_models`.
        losses: unweighted training loss of each condition whose model is there.
        predicted: conditions whose predictions are complete; no other model is dropped.
        awaited: first stages that a second stage still starts from.
    """
    if keep == "all" or not losses:
        return []
    best = min(losses, key=losses.__getitem__) if keep == "best" else None
    return [name for name in losses if name != best and name not in awaited and name in predicted]


def drop_models(sweep: Sweep, run: RunDir) -> None:
    """Delete models that need not outlive their predictions; only after these are complete."""
    if sweep.keep_models == "all":
        return
    states = RunStatus(run)
    records = {c.name: states.trained(c.name) for c in sweep.conditions}
    losses = {n: r.unweighted_loss for n, r in records.items() if r and run.model(n).is_dir()}
    awaited = {first_stage(c).name for c in sweep.conditions if c.two_stage and not records[c.name]}
    predicted = [name for name in losses if states.predicted(name)]
    for name in models_to_drop(sweep.keep_models, losses, predicted, awaited):
        shutil.rmtree(run.model(name))
