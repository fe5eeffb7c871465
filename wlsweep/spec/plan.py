"""What a sweep would do, in under a second and without an engine: matrix, rows, steps, tokens, memory, storage, cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from wlsweep.data.mix import MixCount, shortfalls
from wlsweep.data.sources import SourceCounts, planned_mixes, shapes_and_notes, source_counts
from wlsweep.errors import refuse_all
from wlsweep.estimate import count, size_text
from wlsweep.spec import adapters
from wlsweep.spec.architecture import Architecture, architecture
from wlsweep.spec.condition import Condition, select
from wlsweep.spec.config import Sweep
from wlsweep.spec.cost import (
    FULL,
    GIB,
    Memory,
    assumed,
    checkpoint_bytes,
    layouts_that_fit,
    model_bytes,
    time_of_recomputing,
    training_flops,
    training_memory,
    ways_to_fit,
)
from wlsweep.spec.power import power_of, seed_warning
from wlsweep.spec.preflight import check_model, sample_rows
from wlsweep.spec.processor import cpu_advice
from wlsweep.spec.task import Words
from wlsweep.spec.train_section import forward_share, validation_share_of_training, validation_steps

ASSUMED_PAPERS = 2024
"""Test papers where none can be counted: those of the ICLR experiment."""
GPU_GIB = (24, 40, 48, 80, 141)
"""Memory of common GPUs: A10 or RTX 4090, A100, L40S or A40, A100 or H100, H200."""


def make_plan(sweep: Sweep, only: str | None = None) -> dict[str, Any]:
    """The plan as plain data.

    Raises:
        WlsweepError: for a selection, rows or a policy that cannot be had.
    """
    chosen = select(sweep.conditions, only)
    checked = check_model(sweep, sample_rows(sweep), ask_hub=False)
    refuse_all(f"the base model {sweep.model.path} cannot be used:", checked.problems)
    train, data = sweep.train, sweep.data
    counted = data.source is not None or data.synthetic is not None or data.table is not None
    counts = source_counts(sweep) if counted else None
    mixes = planned_mixes(sweep, counts.stock) if counts else {}
    shapes, read = shapes_and_notes(sweep)
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
        "words": sweep.task.words._asdict() | {"labels": list(sweep.task.words.labels)},
        "conditions": conditions,
        "test_rows": (counts.test_accepts or 0) + (counts.test_rejects or 0)
        if counts and counts.test_accepts
        else None,
        "rows_counted_in": counts.origin if counts else None,
        "shapes": shapes,
        "notes": [
            *sweep.task.notes,
            *sweep.data.notes,
            *read,
            *(shortfalls(sweep.data.resampling, mixes, counts.stock, sweep.task.words) if counts else []),
        ],
        "tokens_at_most": tokens,
        "resources": {
            "workers": train.workers,
            "gpus": train.workers if train.gpu else 0,
            "cpus": train.workers * train.cpus_per_worker + 1,
            "gpus_per_engine": sweep.predict.gpus_per_engine,
        },
        "warnings": [*checked.warnings, *cpu_advice(sweep)],
    }
    found["power"] = [
        p._asdict() | {"text": p.sentence(sweep.task.words)}
        for p in power_of(sweep, chosen, found["test_rows"] or ASSUMED_PAPERS)
    ]
    if (warning := seed_warning(sweep, chosen)) is not None:
        found["warnings"].append(warning)
    if counts is None:
        found["warnings"].append("no rows to count: give --data FILE_OR_FOLDER for row counts, steps and cost")
    if shape is None:
        found["warnings"].append(
            f"the shape of {sweep.model.path} is not known here: give a folder with its config.json for memory and cost"
        )
    else:
        found |= _cost(sweep, shape, chosen, [c["tokens_at_most"] or 0 for c in conditions], found["warnings"])
    if counts is not None and sweep.data.validation_share:
        found["validation"] = _validation(sweep, counts, chosen, mixes)
        if "gpu_hours" in found:
            hours = found["validation"]["share_of_training"] * found["gpu_hours"]
            found["validation"]["gpu_hours"] = round(hours, 1)
    return found


def _validation(
    sweep: Sweep, counts: SourceCounts, chosen: Sequence[Condition], mixes: Mapping[int, MixCount]
) -> dict[str, Any]:
    """The papers of validation, when trainings judge themselves on them, and what that adds to their arithmetic."""
    accepts, rejects = counts.validation_accepts, counts.validation_rejects
    work = [(mixes[c.k].total, accepts + rejects, c.lora) for c in chosen]
    steps = max((validation_steps(sweep.train, *w) for w in work), key=len)
    # As a share of the arithmetic of all trainings, those of adapters with less of it.
    whole = [n / forward_share(lora) for n, _, lora in work]
    added = [w * validation_share_of_training(sweep.train, *at) for w, at in zip(whole, work, strict=True)]
    return {
        "accepts": accepts,
        "rejects": rejects,
        "validations_each": len(steps),
        "every_steps": steps[0] if len(steps) > 1 else None,
        "share_of_training": round(sum(added) / sum(whole), 4),
    }


class Kind(NamedTuple):
    """What one condition of a kind of fine-tuning takes."""

    memory: Callable[[Sweep], Memory]
    """Of a rank, under a configuration."""
    model: int
    """Bytes of a model, or of an adapter."""
    checkpoint: int
    """Bytes of a resume checkpoint."""
    flops: Callable[[int], float]
    """Of so many tokens."""
    passes: int
    """Forward passes that forward and backward pass are worth: 3, or 2 where weights are frozen."""


def kind_of(sweep: Sweep, shape: Architecture, rank: int) -> Kind:
    """Full fine-tuning (rank 0) or adapters of a rank."""

    def full(tokens: int) -> float:
        return training_flops(shape, tokens, sweep.data.cutoff)

    if not rank:
        return Kind(lambda s: training_memory(shape, s), model_bytes(shape, sweep), checkpoint_bytes(shape), full, 3)
    return Kind(
        lambda s: adapters.training_memory(shape, s, rank),
        adapters.adapter_bytes(shape, sweep, rank),
        adapters.checkpoint_bytes(shape, sweep, rank),
        lambda tokens: adapters.training_flops(full(tokens), shape, sweep, rank, tokens),
        2,
    )


def smallest_gpu(memory: Memory) -> int | None:
    """GiB of the smallest common GPU that holds a worker; None if none does."""
    return next((size for size in GPU_GIB if memory.total <= FULL * size * GIB), None)


def _cost(
    sweep: Sweep, shape: Architecture, chosen: Sequence[Condition], tokens: Sequence[int], warnings: list[str]
) -> dict[str, Any]:
    kinds = {rank: kind_of(sweep, shape, rank) for rank in dict.fromkeys(c.lora for c in chosen)}
    fullest = max(kinds.values(), key=lambda kind: kind.memory(sweep).total)
    memory, groups = fullest.memory(sweep), sweep.train.groups or 1
    sizes, checkpoint = [kinds[c.lora].model for c in chosen], max(kind.checkpoint for kind in kinds.values())
    kept = {"all": sum(sizes), "best": max(sizes), "none": 0}
    # Each condition that trains has one checkpoint, and two while one replaces the other.
    peak = kept[sweep.keep_models] + groups * (2 * checkpoint + max(sizes))
    found: dict[str, Any] = {
        "parameters": shape.parameters,
        "memory_gib_per_worker": _gib(memory),
        "storage_gb": {
            "models_kept": round(kept[sweep.keep_models] / 1e9, 2),
            "by_keep_models": {k: round(n / 1e9, 2) for k, n in kept.items()},
            "resume_checkpoint_each": round(checkpoint / 1e9, 2),
            "peak": round(peak / 1e9, 2),
            "in_training": groups,
        },
        "storage_bytes": {
            "models_kept": kept[sweep.keep_models],
            "by_keep_models": kept,
            "resume_checkpoint_each": checkpoint,
            "peak": peak,
        },
        "by_finetuning": {
            f"lora{rank}" if rank else "full": {
                "conditions": sum(c.lora == rank for c in chosen),
                "memory_gib_per_worker": _gib(kind.memory(sweep)),
                "smallest_gpu_gib": smallest_gpu(kind.memory(sweep)) if sweep.train.gpu else None,
                "model_bytes": kind.model,
                "resume_checkpoint_bytes": kind.checkpoint,
            }
            for rank, kind in kinds.items()
        },
    }
    if sweep.train.gpu:
        gpu = assumed(sweep.budget)
        of_kind = {rank: sum(t for c, t in zip(chosen, tokens, strict=True) if c.lora == rank) for rank in kinds}
        per_hour = gpu.mfu * gpu.peak_tflops * 1e12 * 3600
        # An MFU of one's own is of the layers that one recomputes.
        slower = {
            rank: time_of_recomputing(shape, sweep, k.passes) if sweep.budget.mfu is None else 1.0
            for rank, k in kinds.items()
        }
        hours = [k.flops(of_kind[rank]) / per_hour * slower[rank] for rank, k in kinds.items()]
        each = [kinds[c.lora].flops(t) / per_hour * slower[c.lora] for c, t in zip(chosen, tokens, strict=True)]
        found["gpu_hours_by_condition"] = {c.name: round(h, 3) for c, h in zip(chosen, each, strict=True)}
        for part, spent in zip(found["by_finetuning"].values(), hours, strict=True):
            part["gpu_hours"] = round(spent, 1)
        found["gpu_hours"] = round(sum(hours), 1)
        found["cost_dollars"] = round(sum(hours) * gpu.price, 0)
        found["assumed"] = {"gpu": sweep.budget.gpu, **gpu._asdict()}
        there = FULL * gpu.memory_gib * GIB
        if memory.total > there:
            ways = ways_to_fit(sweep, there, fullest.memory)
            advice = f"set {', or '.join(ways)}" if ways else "take larger GPUs or a smaller model"
            warnings.append(
                f"one worker needs about {memory.total / GIB:.0f} GiB, more than {FULL:.0%} of a GPU's {gpu.memory_gib:g} "
                f"({sweep.budget.gpu}): {advice}"
            )
        else:
            found["layouts_that_fit"] = layouts_that_fit(shape, sweep, there, fullest.memory, fullest.passes)
    return found


def _gib(memory: Memory) -> dict[str, float]:
    return {k: round(v / GIB, 3) for k, v in memory._asdict().items()} | {"total": round(memory.total / GIB, 3)}


def plan_text(plan: dict[str, Any]) -> None:
    """Print a plan for a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    words = Words(**plan["words"])
    for column in ("#", "condition", words.positives, words.negatives, "repeated", "steps"):
        table.add_column(column, justify="left" if column == "condition" else "right", no_wrap=True)
    for c in plan["conditions"]:
        numbers = [f"{c[k]:,}" if c[k] is not None else "?" for k in ("accepts", "rejects", "repeated", "steps")]
        table.add_row(str(c["index"]), c["name"], *numbers)
    console = Console(highlight=False, markup=False, soft_wrap=True)  # what is quoted may hold [brackets]
    console.print(table)
    need = plan["resources"]
    test = f"{plan['test_rows']:,} test rows" if plan["test_rows"] else "test rows unknown"
    console.print(
        f"{len(plan['conditions'])} conditions, {test}, at most {plan['tokens_at_most']:,} training tokens in all"
    )
    console.print(f"a condition needs {need['workers']} workers: {need['gpus']} GPUs, {need['cpus']} CPUs")
    if "parameters" in plan:
        m, s = plan["memory_gib_per_worker"], plan["storage_bytes"]
        console.print(
            f"model: {plan['parameters']:,} parameters; memory a worker about {m['total']:.1f} GiB ("
            + ", ".join(f"{k.replace('_', ' ')} {v:.1f}" for k, v in m.items() if k != "total" and v)
            + ")"
        )
        by_kind, each = map(size_text, s["by_keep_models"].values()), size_text(s["resume_checkpoint_each"])
        console.print(
            f"storage: {size_text(s['models_kept'])} of models (keep_models all/best/none: "
            f"{' / '.join(by_kind)}), {each} a resume checkpoint, twice that while one replaces another; at most "
            f"{size_text(s['peak'])} with "
            f"{count(plan['storage_gb']['in_training'], 'condition')} in training"
        )
        for kind, k in plan["by_finetuning"].items():
            sizes = f"{size_text(k['model_bytes'])} each, a resume checkpoint {size_text(k['resume_checkpoint_bytes'])}"
            gpu = f"; a worker fits a GPU of {k['smallest_gpu_gib']} GiB" if k["smallest_gpu_gib"] else ""
            console.print(f"{kind}: {count(k['conditions'], 'condition')} of {sizes}{gpu}")
    for line in plan.get("layouts_that_fit", ()):
        console.print(f"alone, {line}")
    if "gpu_hours" in plan:
        b = plan["assumed"]
        console.print(
            f"training: {plan['gpu_hours']:,} GPU-hours, ${plan['cost_dollars']:,.0f} (assumed, not measured: {b['gpu']}, "
            f"MFU {b['mfu']:g} of {b['peak_tflops']:g} TFLOP/s, ${b['price']:g} a GPU-hour)"
        )
    if "validation" in plan:
        console.print(_validation_text(plan["validation"], words))
    seeds, rows = plan["power"][0]["seeds"], plan["power"][0]["test_rows"]
    console.print(
        f"differences between two mixes that 80% of sweeps find with {seeds} seed{'s' * (seeds != 1)} and {rows:,} "
        f"{words.items}{'' if plan['test_rows'] else ' assumed'}:"
    )
    for power in plan["power"]:
        console.print(f"  {power['text']}")
    for role, shape in plan["shapes"].items():
        console.print(f"{role} rows: {shape}")
    for line in plan["notes"]:
        console.print(f"note: {line}")
    for line in plan["warnings"]:
        console.print(f"warning: {line}")


def _validation_text(v: dict[str, Any], words: Words) -> str:
    every = (
        f" every {v['every_steps']:,} steps and at the end ({v['validations_each']} times)" if v["every_steps"] else ""
    )
    hours = f", {v['gpu_hours']:,} GPU-hours" if "gpu_hours" in v else ""
    return (
        f"validation: {v['accepts'] + v['rejects']:,} training {words.items} held out ({v['accepts']:,} {words.positives}, "
        f"{v['rejects']:,} {words.negatives}), judged{every or ' at the end'}; adds about "
        f"{v['share_of_training']:.0%} to the time of training{hours}"
    )
