"""What a sweep would do, in under a second and without an engine: matrix, rows, steps, tokens, memory, storage, cost."""

from __future__ import annotations

from typing import Any

from wlsweep.data.mix import shortfalls
from wlsweep.data.sources import SourceCounts, planned_mixes, source_counts
from wlsweep.errors import refuse_all
from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.condition import select
from wlsweep.spec.config import Sweep
from wlsweep.spec.cost import (
    FULL,
    GIB,
    assumed,
    checkpoint_bytes,
    model_bytes,
    training_flops,
    training_memory,
    ways_to_fit,
)
from wlsweep.spec.power import power_of, seed_warning
from wlsweep.spec.preflight import check_model, sample_rows


def make_plan(sweep: Sweep, only: str | None = None) -> dict[str, Any]:
    """The plan as plain data.

    Raises:
        WlsweepError: for a selection, rows or a policy that cannot be had.
    """
    chosen = select(sweep.conditions, only)
    checked = check_model(sweep, sample_rows(sweep), ask_hub=False)
    refuse_all(f"the base model {sweep.model.path} cannot be used:", checked.problems)
    limit, train = sweep.data.limit, sweep.train
    counts = _counts(sweep)
    mixes = planned_mixes(sweep, counts, limit) if counts else {}
    shape = architecture(sweep.model)
    conditions = []
    for c in chosen:
        mix = mixes.get(c.k)
        rows = mix.total * train.epochs if mix else None
        steps = -(-mix.total // train.global_batch) * train.epochs if mix else None
        conditions.append(
            {
                **c.as_dict(),
                "accepts": mix.accepts if mix else None,
                "rejects": mix.rejects if mix else None,
                "repeated": mix.short_accepts + mix.short_rejects if mix else None,
                "steps": steps,
                "tokens_at_most": rows * sweep.data.cutoff if rows else None,
            }
        )
    tokens = sum(c["tokens_at_most"] or 0 for c in conditions)
    found: dict[str, Any] = {
        "sweep": sweep.name,
        "fingerprint": sweep.fingerprint(),
        "conditions": conditions,
        "test_rows": (counts.test_accepts or 0) + (counts.test_rejects or 0)
        if counts and counts.test_accepts
        else None,
        "rows_counted_in": counts.origin if counts else None,
        "notes": [
            *sweep.data.notes,
            *(shortfalls(sweep.data.resampling, mixes, counts.stock) if counts else []),
        ],
        "tokens_at_most": tokens,
        "resources": {
            "workers": train.workers,
            "gpus": train.workers if train.gpu else 0,
            "cpus": train.workers * train.cpus_per_worker + 1,
            "gpus_per_engine": sweep.predict.gpus_per_engine,
        },
        "warnings": list(checked.warnings),
    }
    found["power"] = [p._asdict() | {"text": p.sentence()} for p in power_of(sweep, chosen, found["test_rows"] or 2024)]
    if (warning := seed_warning(sweep, chosen)) is not None:
        found["warnings"].append(warning)
    if counts is None:
        found["warnings"].append("no rows to count: give --data FILE_OR_FOLDER for row counts, steps and cost")
    if shape is None:
        found["warnings"].append(
            f"the shape of {sweep.model.path} is not known here: give a folder with its config.json for memory and cost"
        )
    else:
        found |= _cost(sweep, shape, len(chosen), tokens, found["warnings"])
    return found


def _counts(sweep: Sweep) -> SourceCounts | None:
    data = sweep.data
    if data.source is None and data.synthetic is None and data.table is None:
        return None
    return source_counts(sweep, data.limit)


def _cost(sweep: Sweep, shape: Architecture, models: int, tokens: int, warnings: list[str]) -> dict[str, Any]:
    memory = training_memory(shape, sweep)
    size, checkpoint = model_bytes(shape, sweep), checkpoint_bytes(shape)
    kept = {"all": models, "best": 1, "none": 0}[sweep.keep_models]
    groups = sweep.train.groups or 1
    found: dict[str, Any] = {
        "parameters": shape.parameters,
        "memory_gib_per_worker": {
            **{k: round(v / GIB, 3) for k, v in memory._asdict().items()},
            "total": round(memory.total / GIB, 3),
        },
        "storage_gb": {
            "models_kept": round(kept * size / 1e9, 2),
            "by_keep_models": {k: round(n * size / 1e9, 2) for k, n in (("all", models), ("best", 1), ("none", 0))},
            "resume_checkpoint_each": round(checkpoint / 1e9, 2),
            # Each condition that trains has one checkpoint, and two while one replaces the other.
            "peak": round((kept * size + groups * (2 * checkpoint + size)) / 1e9, 2),
        },
    }
    if sweep.train.gpu:
        gpu = assumed(sweep.budget)
        flops = training_flops(shape, tokens, sweep.data.cutoff)
        hours = flops / (gpu.mfu * gpu.peak_tflops * 1e12) / 3600
        found["gpu_hours"] = round(hours, 1)
        found["cost_dollars"] = round(hours * gpu.price, 0)
        found["assumed"] = {"gpu": sweep.budget.gpu, **gpu._asdict()}
        there = FULL * gpu.memory_gib * GIB
        if memory.total > there:
            ways = ways_to_fit(shape, sweep, there)
            advice = f"set {', or '.join(ways)}" if ways else "take larger GPUs or a smaller model"
            warnings.append(
                f"one worker needs about {memory.total / GIB:.0f} GiB, more than {FULL:.0%} of a GPU's {gpu.memory_gib:g} "
                f"({sweep.budget.gpu}): {advice}"
            )
    return found


def plan_text(plan: dict[str, Any]) -> None:
    """Print a plan for a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("#", "condition", "accepts", "rejects", "repeated", "steps"):
        table.add_column(column, justify="left" if column == "condition" else "right", no_wrap=True)
    for c in plan["conditions"]:
        numbers = [f"{c[k]:,}" if c[k] is not None else "?" for k in ("accepts", "rejects", "repeated", "steps")]
        table.add_row(str(c["index"]), c["name"], *numbers)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    need = plan["resources"]
    test = f"{plan['test_rows']:,} test rows" if plan["test_rows"] else "test rows unknown"
    console.print(
        f"{len(plan['conditions'])} conditions, {test}, at most {plan['tokens_at_most']:,} training tokens in all"
    )
    console.print(f"a condition needs {need['workers']} workers: {need['gpus']} GPUs, {need['cpus']} CPUs")
    if "parameters" in plan:
        m, s = plan["memory_gib_per_worker"], plan["storage_gb"]
        console.print(
            f"model: {plan['parameters']:,} parameters; memory a worker about {m['total']:.1f} GiB ("
            + ", ".join(f"{k.replace('_', ' ')} {v:.1f}" for k, v in m.items() if k != "total" and v)
            + ")"
        )
        console.print(
            f"storage: {s['models_kept']:g} GB of models (keep_models all/best/none: "
            f"{'/'.join(f'{v:g}' for v in s['by_keep_models'].values())}), {s['resume_checkpoint_each']:g} GB a resume "
            f"checkpoint, twice that while one replaces another; at most {s['peak']:g} GB with one condition in training"
        )
    if "gpu_hours" in plan:
        b = plan["assumed"]
        console.print(
            f"training: {plan['gpu_hours']:,} GPU-hours, ${plan['cost_dollars']:,.0f} (assumed, not measured: {b['gpu']}, "
            f"MFU {b['mfu']:g} of {b['peak_tflops']:g} TFLOP/s, ${b['price']:g} a GPU-hour)"
        )
    seeds, rows = plan["power"][0]["seeds"], plan["power"][0]["test_rows"]
    console.print(
        f"differences between two mixes that 80% of sweeps find with {seeds} seed{'s' * (seeds != 1)} and {rows:,} papers:"
    )
    for power in plan["power"]:
        console.print(f"  {power['text']}")
    for line in plan["notes"]:
        console.print(f"note: {line}")
    for line in plan["warnings"]:
        console.print(f"warning: {line}")
