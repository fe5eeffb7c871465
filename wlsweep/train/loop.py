"""Fine-tune one condition on all ranks of one process group.

It knows DeepSpeed but not Ray: a launcher gives it a process group, rows and hooks, and it leaves a model, a metric log
and a record. Killed anywhere, it goes on from the last resume checkpoint and ends with the same bits.

    torchrun --nproc-per-node 2 -m wlsweep.train.torchrun runs/demo baseline_gamma1.0_prop1_2
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from wlsweep.data.load import TokenRows, finished_data
from wlsweep.data.tokenise import AnswerTokens
from wlsweep.errors import SharedFailure, WlsweepError
from wlsweep.run.adapter import base_fingerprint, base_of, is_adapter, weights_fingerprint
from wlsweep.run.causes import is_out_of_memory
from wlsweep.run.metric_log import drop_lines_after, read_metric_log
from wlsweep.run.model_card import write_card
from wlsweep.run.partial import remove_temporaries
from wlsweep.run.records import (
    ConditionEntry,
    ModelRecord,
    ProbeRow,
    TrainedOn,
    TrainedRecord,
    TrainingSeconds,
    condition_config,
)
from wlsweep.train import batches
from wlsweep.train.batcher import Batcher
from wlsweep.train.checkpoint import CheckpointPace, Resumed, load_checkpoint, save_checkpoint
from wlsweep.train.job import ConditionFailed, Hooks, Job, OutOfMemory, Stopped, what_to_lower
from wlsweep.train.lora import seed_dropout, without_dropout
from wlsweep.train.meter import Meter
from wlsweep.train.model import run_forward
from wlsweep.train.proof import compare_with_transformers, probe, prove_weights
from wlsweep.train.validation import Validation
from wlsweep.train.zero3 import Place, build_engine, export_model, release

ASK_S = 0.5
"""About how many seconds pass between questions whether to stop; each is a collective of one number."""


def _rank_0_says(place: Place, question: Callable[[], bool]) -> bool:
    """What rank 0 answers, as every rank then knows; collective."""
    answer = torch.tensor([float(place.rank == 0 and question())], device=place.device)
    dist.all_reduce(answer)
    return bool(answer.item() > 0)


def train_condition(job: Job, rows: TokenRows, place: Place, hooks: Hooks, validation: TokenRows | None = None) -> None:
    """Train one condition to its end on its rows, and judge it on those of validation; collective over all ranks.

    Leaves `model/`, `metrics.jsonl` and, last, `trained.json` in the condition's folder.

    Raises:
        ConditionFailed: on every rank, if weights cannot be proved or a loss is no finite number.
        OutOfMemory: on the rank whose memory was too small.
        SharedFailure: if the base model cannot be set up for training.
        Stopped: on every rank, after a resume checkpoint, if a hook asked for it.
    """
    try:
        _train_condition(job, rows, place, hooks, validation)
    except Exception as e:
        if place.rank == 0:
            remove_temporaries(job.run.condition(job.name))  # a half-written model keeps a full disk full
        if is_out_of_memory(e):
            raise OutOfMemory(what_to_lower(job, e)) from e
        raise


def _set_up(job: Job, answer: AnswerTokens, total: int) -> Any:
    """The engine around the base model; what is wrong with the model itself would be so for every condition."""
    sweep = job.sweep
    try:
        return build_engine(job.base, job.condition, sweep.train, answer, sweep.model.attention, total)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, NotImplementedError) as e:
        raise SharedFailure(
            f"the base model {job.base} cannot be set up for training with model.attention = {sweep.model.attention!r}: "
            f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
        ) from e


def _train_condition(job: Job, rows: TokenRows, place: Place, hooks: Hooks, validation: TokenRows | None) -> None:
    train, run, name = job.sweep.train, job.run, job.name
    if place.world != train.workers:
        raise WlsweepError(f"train.workers is {train.workers}, but {place.world} ranks were started")
    began = time.monotonic()
    n = len(rows.accept)
    total = train.epochs * batches.steps_per_epoch(n, train.global_batch)
    engine = _set_up(job, rows.answer, total)
    try:
        batcher = Batcher(job, rows, place)
        validator = None if validation is None else Validation(batcher, validation)
        with without_dropout(engine.module):
            compare_with_transformers(engine, batcher)
            proof = prove_weights(engine, batcher)
        resumed = load_checkpoint(engine, place, run.checkpoints(name), _identity(job, place))
        if place.rank == 0:
            condition_config(job.sweep, job.condition, job.base).write(run.condition_config(name))
            drop_lines_after(resumed.step, run.metric_log(name))
        ready = time.monotonic()
        validating = _steps(engine, batcher, hooks, resumed, total, validator)
        trained = time.monotonic()
        with without_dropout(engine.module):
            probes = probe(engine, batcher)
        export_model(engine, place, job.base, run.model(name))
        if place.rank == 0:
            seconds = TrainingSeconds(start=ready - began, steps=trained - ready, validation=validating)
            _record(job, rows, total, proof, probes, seconds)
            write_card(run, name)
            shutil.rmtree(run.checkpoints(name), ignore_errors=True)
    finally:
        release(engine)
    dist.barrier()


def _identity(job: Job, place: Place) -> dict[str, Any]:
    """What is trained: a checkpoint of anything else is not resumed from."""
    weights: dict[str, Any] = {}
    # Adapters mean nothing on another base; rank 0 writes and judges the record.
    if job.condition.lora and place.rank == 0:
        weights["weights"] = base_fingerprint(base_of(job.base))
        if is_adapter(job.base):
            weights["start"] = weights_fingerprint(Path(job.base))
    return weights | {
        "data": finished_data(job.run).fingerprint,
        "base": job.base,
        "sweep": job.sweep.fingerprint(),
        "world": place.world,
        "order": batches.ORDER,
    }


def _steps(
    engine: Any, batcher: Batcher, hooks: Hooks, resumed: Resumed, total: int, validator: Validation | None
) -> float:
    """The optimizer steps after those resumed from, to `total`; how many seconds of it went into validation."""
    job, train, place, validating = batcher.job, batcher.train, batcher.place, 0.0
    run, name = job.run, job.name
    per_epoch = batches.steps_per_epoch(len(batcher.rows.accept), train.global_batch)
    # The engine averages over ranks and accumulation steps; the loss is already a share of the global sum.
    scale = place.world * train.accumulation
    meter, pace = Meter(place.device), CheckpointPace()
    if resumed.metered:
        meter.go_on(resumed.metered)
    dropout = bool(job.condition.lora and train.lora and train.lora.dropout)
    ask_every = 1  # steps between questions whether to stop; every rank must ask at the same ones
    logged = resumed.step
    with run.metric_log(name).open("a", encoding="utf-8") if place.rank == 0 else nullcontext() as log:
        for step in range(resumed.step, total):
            lr = engine.get_lr()[0]
            for i, (batch, tokens) in enumerate(batcher.step(step)):
                if dropout:
                    seed_dropout(job.condition.seed, step, i, place.rank)
                out = run_forward(engine, batch, job.sweep.loss.format_weight)
                engine.backward(out.loss * scale)
                engine.step()
                meter.add(out, batch, tokens)
            done = step + 1
            stop = done % ask_every == 0 and _rank_0_says(place, hooks.should_stop)
            if done % train.log_every == 0 or done == total:
                metrics, seconds = meter.read()
                ask_every = max(1, int(ASK_S * (done - logged) / seconds))
                logged = done
                if not math.isfinite(metrics["loss"] or 0.0):
                    raise ConditionFailed(
                        f"{name}: the loss is {metrics['loss']} at step {done} of {total}; "
                        "a lower train.lr or a smaller gamma may keep it finite"
                    )
                if validator is not None and done in validator.steps:
                    judged, spent = _judged(name, validator, engine, meter)
                    metrics, validating = {**metrics, **judged}, validating + spent
                if log is not None:
                    line = {"step": done, "of": total, "epoch": done / per_epoch, **metrics, "lr": lr}
                    line["grad_norm"] = float(engine.get_global_grad_norm())
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    hooks.on_log(line)
            due = done % train.checkpoint_every == 0 and done < total and _rank_0_says(place, pace.is_worth_it)
            if (due or stop) and done < total:
                began = time.monotonic()
                size = save_checkpoint(engine, place, run.checkpoints(name), done, _identity(job, place), meter.state())
                if place.rank == 0:
                    hooks.on_checkpoint(size)
                pace.saved(began)
            if stop and done < total:
                raise Stopped(f"{name} stopped at step {done} of {total}")
    return validating


def _judged(name: str, validator: Validation, engine: Any, meter: Meter) -> tuple[dict[str, float], float]:
    """Metrics of validation now, and the seconds that they took, which the meter leaves out."""
    began = time.monotonic()
    found = validator(engine)
    if unknown := [key for key, value in found.items() if not math.isfinite(value)]:
        raise ConditionFailed(
            f"{name}: {unknown[0]} is {found[unknown[0]]}; a lower train.lr or a smaller gamma may keep it finite"
        )
    meter.pause(spent := time.monotonic() - began)
    return found, spent


def _record(
    job: Job,
    rows: TokenRows,
    steps: int,
    proof: dict[str, float],
    probes: list[ProbeRow],
    seconds: TrainingSeconds,
) -> None:
    run, name = job.run, job.name
    lines = read_metric_log(run.metric_log(name))
    tail = lines[-max(1, len(lines) // 4) :]
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    TrainedRecord(
        condition=ConditionEntry(**job.condition.as_dict()),
        sweep_fingerprint=job.sweep.fingerprint(),
        base=job.base,
        steps=steps,
        samples=len(rows.accept) * job.sweep.train.epochs,
        tokens=int((rows.lengths + rows.answer.lengths(rows.accept)).sum()) * job.sweep.train.epochs,
        seconds=seconds,
        attempts=job.attempt,
        proof=proof,
        final=lines[-1],
        # Of both classes alike, so that conditions on different mixes can be compared.
        unweighted_loss=statistics.fmean(
            [b for line in tail if (b := line.bce_by_class) is not None]
            or [b for line in tail if (b := line.bce) is not None]
        ),
        trained_on=TrainedOn(host=platform.node(), device=device, workers=job.sweep.train.workers),
        probe=probes,
        model=ModelRecord(
            fingerprint=weights_fingerprint(run.model(name)),
            bytes=sum(p.stat().st_size for p in run.model(name).iterdir()),
        ),
        finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        data_fingerprint=finished_data(run).fingerprint,
    ).write(run.trained(name))
