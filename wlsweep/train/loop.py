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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from wlsweep.data.load import TokenRows, finished_data
from wlsweep.errors import SharedFailure, WlsweepError
from wlsweep.run.adapter import base_fingerprint, base_of, is_adapter, weights_fingerprint
from wlsweep.run.causes import is_out_of_memory
from wlsweep.run.layout import RunDir, atomic_file
from wlsweep.run.metric_log import read_metric_log
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
from wlsweep.spec.condition import Condition
from wlsweep.spec.config import Sweep
from wlsweep.spec.validation import validation_steps
from wlsweep.train import batches, packed
from wlsweep.train.agreement import measure, refuse_disagreement
from wlsweep.train.checkpoint import load_checkpoint, save_checkpoint
from wlsweep.train.lora import seed_dropout, without_dropout
from wlsweep.train.loss import sample_weights
from wlsweep.train.model import Forward, MicroBatch, collate, run_forward
from wlsweep.train.pace import CheckpointPace
from wlsweep.train.validation import Validation
from wlsweep.train.zero3 import Decision, Place, build_engine, export_model, release

PROBES = 8
"""Training rows of each class on which the trained model's own scores are kept, to check every later copy of it."""
ASK_S = 0.5
"""About how many seconds pass between questions whether to stop; each is a collective of one number."""
SMALLEST_LOSS = 1e-20
"""Below it a loss is too near to underflow for a ratio."""
PROOF_TOLERANCE = 1e-3
"""Largest relative deviation of a measured loss ratio from gamma (float32 rounding is far below it)."""


class Stopped(Exception):
    """Training was asked to stop; a resume checkpoint has been written."""


class ConditionFailed(WlsweepError):
    """This condition cannot be trained, and trying again would not help. Raised alike on every rank."""


class OutOfMemory(ConditionFailed):
    """A GPU's memory was too small, and would be again. Raised on the rank that it happened to: the others still wait for it
    in a collective, so its process must end."""


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


class _Meter:
    """Sums over this rank's rows since the last logged step; one collective a logged step."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(8, device=device, dtype=torch.float64)
        self.tokens = 0
        self.started = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What a resumed training must start from."""
        return {"sums": self.sums.tolist(), "tokens": self.tokens, "seconds": time.monotonic() - self.started}

    def go_on(self, state: dict[str, Any]) -> None:
        """Start from the state that this rank saved."""
        self.sums = torch.tensor(state["sums"], device=self.sums.device, dtype=torch.float64)
        self.tokens = state["tokens"]
        self.started = time.monotonic() - state["seconds"]

    def add(self, out: Forward, batch: MicroBatch, tokens: int) -> None:
        here, accept = batch.present, batch.accept
        p = torch.sigmoid(out.scores.log_odds)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(out.scores.log_odds, accept, reduction="none")
        on_accept, on_reject = here * accept, here * (1 - accept)
        self.sums += torch.stack(
            [
                out.loss.detach() * batch.samples,
                (on_accept * bce).sum(),
                (on_reject * bce).sum(),
                (on_accept * p).sum(),
                on_accept.sum(),
                (on_reject * p).sum(),
                on_reject.sum(),
                (here * (p > 0.5)).sum(),
            ]
        ).double()
        self.tokens += tokens

    def pause(self, seconds: float) -> None:
        """Leave out seconds in which nothing was trained."""
        self.started += seconds

    def read(self) -> tuple[dict[str, float | None], float]:
        """Metrics over all ranks since the last call, and its distance in seconds, the same on every rank; collective."""
        here = time.monotonic() - self.started
        own = torch.tensor([float(self.tokens), here], device=self.sums.device, dtype=torch.float64)
        shared = torch.cat([self.sums, own])
        dist.all_reduce(shared)
        loss, bce_accept, bce_reject, p_accept, accepts, p_reject, rejects, said_accept, tokens, seconds = (
            shared.tolist()
        )
        seconds, n = seconds / dist.get_world_size(), accepts + rejects
        self.sums.zero_()
        self.tokens = 0
        self.started = time.monotonic()
        return {
            "loss": loss / n,
            "bce": (bce_accept + bce_reject) / n,
            "bce_by_class": (bce_accept / accepts + bce_reject / rejects) / 2 if accepts and rejects else None,
            "p_accept_on_accept": p_accept / accepts if accepts else None,
            "p_accept_on_reject": p_reject / rejects if rejects else None,
            "predicted_accept_rate": said_accept / n,
            "tokens_per_s": tokens / seconds,
        }, seconds


def _rank_0_says(place: Place, question: Callable[[], bool]) -> bool:
    """What rank 0 answers, as every rank then knows; collective."""
    answer = torch.tensor([float(place.rank == 0 and question())], device=place.device)
    dist.all_reduce(answer)
    return bool(answer.item() > 0)


class Batcher:
    """Makes a rank's micro-batches of any step."""

    def __init__(self, job: Job, rows: TokenRows, place: Place) -> None:
        self.train, self.seed, self.rows, self.place = job.sweep.train, job.condition.seed, rows, place
        accepts = int(rows.accept.sum())
        self.packed = job.sweep.model.attention == packed.NAME
        self.weights = sample_weights(job.condition, accepts, len(rows.accept) - accepts, job.sweep.loss.effective_beta)
        self.keys = batches.order_keys(rows.row_ids)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def numbers(self, step: int) -> batches.IntArray:
        """Row numbers of the global batch of a step, counted from 0 over all epochs; shape (rows of the batch,)."""
        size = self.train.global_batch
        epoch, at = divmod(step, batches.steps_per_epoch(len(self.rows.accept), size))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, batches.stratified_order(self.keys, self.rows.accept, self.seed, epoch)
        return self._order[at * size : (at + 1) * size]

    def of(self, numbers: Sequence[int], samples: int, weights: tuple[float, float]) -> MicroBatch:
        """The micro-batch of some rows; none at all makes one filler row that counts for nothing."""
        chosen = [int(i) for i in numbers] or [int(np.argmin(self.rows.lengths))]
        return collate(
            [self.rows.prompt(i) for i in chosen],
            [self.rows.answer.ids(bool(self.rows.accept[i])) for i in chosen],
            [bool(self.rows.accept[i]) for i in chosen],
            weights,
            [len(numbers) > 0] * len(chosen),
            samples,
            self.place.device,
            self.packed,
        )

    def step(self, step: int) -> list[tuple[MicroBatch, int]]:
        """(micro-batch, its tokens) of this rank, one for each accumulation step."""
        drawn = self.numbers(step)
        cut = batches.cut(drawn, self.rows.lengths, self.place.world, self.accumulation, self.packed)
        mine = cut[self.place.rank]
        tokens = self.rows.lengths + self.rows.answer.lengths(self.rows.accept)
        return [(self.of(m.tolist(), len(drawn), self.weights), int(tokens[m].sum())) for m in mine]

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and step, as DeepSpeed was told."""
        return self.train.accumulation


def _first_of_each_class(rows: TokenRows, count: int) -> tuple[list[int], list[int]]:
    return np.flatnonzero(rows.accept)[:count].tolist(), np.flatnonzero(~rows.accept)[:count].tolist()


def prove_weights(engine: Any, batcher: Batcher, condition: Condition) -> dict[str, float]:
    """Measure, through the engine, that the loss of a sample of each class is multiplied by its weight and no other.

    Returns:
        `accept` and `reject`: measured ratio of weighted to unweighted loss of one sample.

    Raises:
        ConditionFailed: if a ratio is not the weight that the condition declares.
    """
    found: dict[str, float] = {}
    accepts, rejects = _first_of_each_class(batcher.rows, 1)
    for label, picked, expected in (
        ("accept", accepts, batcher.weights[0]),
        ("reject", rejects, batcher.weights[1]),
    ):
        with torch.no_grad():
            weighted = run_forward(engine, batcher.of(picked, 1, batcher.weights), 0.0).loss.item()
            plain = run_forward(engine, batcher.of(picked, 1, (1.0, 1.0)), 0.0).loss.item()
        if plain < SMALLEST_LOSS:
            raise ConditionFailed(
                f"{condition.name}: the base model is so sure of an {label} sample (loss {plain:g}) that the effect of "
                "its weight cannot be measured; nothing was trained"
            )
        found[label] = weighted / plain
        if not abs(found[label] / expected - 1) < PROOF_TOLERANCE:
            raise ConditionFailed(
                f"{condition.name}: the loss of an {label} sample is {found[label]:.4f} times the unweighted one, "
                f"declared is {expected:.4f}; nothing was trained. This is a defect of the loss, please report it"
            )
    return found


def _probe(engine: Any, batcher: Batcher) -> list[ProbeRow]:
    """The model's own label log-probabilities on a few rows of its mix, by their place in `load_mix`."""
    accepts, rejects = _first_of_each_class(batcher.rows, PROBES)
    numbers = accepts + rejects
    labels: list[list[float]] = []
    with torch.no_grad():
        for at in range(0, len(numbers), batcher.train.micro_batch):
            some = numbers[at : at + batcher.train.micro_batch]
            out = run_forward(engine, batcher.of(some, len(some), (1.0, 1.0)), 0.0)
            labels += out.label_logprobs.float().tolist()
    return [ProbeRow(row=i, logprob_accept=a, logprob_reject=r) for i, (a, r) in zip(numbers, labels, strict=True)]


def _keep_log_until(path: Path, step: int) -> None:
    """Drop log lines of steps that a resumed training makes again."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines(keepends=True) if _step_of(line) <= step]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # the torn last line of a killed process


def train_condition(job: Job, rows: TokenRows, place: Place, hooks: Hooks, validation: TokenRows | None = None) -> None:
    """Train one condition to its end on its rows, and judge it on those of validation; collective over all ranks.

    Leaves `model/`, `metrics.jsonl` and, last, `trained.json` in the condition's folder.

    Raises:
        ConditionFailed: on every rank, if weights cannot be proved or a loss is no finite number.
        OutOfMemory: on the rank whose GPU was too small.
        SharedFailure: if the base model cannot be set up for training.
        Stopped: on every rank, after a resume checkpoint, if a hook asked for it.
    """
    try:
        _train_condition(job, rows, place, hooks, validation)
    except Exception as e:
        if place.rank == 0:
            remove_temporaries(job.run.condition(job.name))  # a half-written model keeps a full disk full
        if is_out_of_memory(e):
            raise OutOfMemory(_what_to_lower(job, e)) from e
        raise


def _what_to_lower(job: Job, error: BaseException) -> str:
    """What happened, and which settings lower the memory of a rank, those first that cost least time."""
    train = job.sweep.train
    ways = [f"lower train.micro_batch ({train.micro_batch})"] if train.micro_batch > 1 else []
    ways += [] if train.gradient_checkpointing is True else ["set train.gradient_checkpointing = true"]
    ways += [f"raise train.workers ({train.workers})", f"lower data.cutoff ({job.sweep.data.cutoff})"]
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{job.name}: a GPU ran out of memory; {', or '.join(ways)}\n{said}"


def _set_up(job: Job, decision: Decision, total: int) -> Any:
    """The engine around the base model; what is wrong with the model itself would be so for every condition."""
    sweep = job.sweep
    try:
        return build_engine(job.base, job.condition, sweep.train, decision, sweep.model.attention, total)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, NotImplementedError) as e:
        raise SharedFailure(
            f"the base model {job.base} cannot be set up for training with model.attention = {sweep.model.attention!r}: "
            f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
        ) from e


_COMPARED: set[tuple[str, str, str, bool]] = set()
"""Base models, with attention and dtype, whose forward pass this process has compared with transformers' own."""


def _compare_with_transformers(engine: Any, batcher: Batcher, job: Job) -> None:
    """Compare the forward pass that is trained with transformers' own, once a process and base model; collective."""
    sweep = job.sweep
    key = (job.base, sweep.model.attention, sweep.train.dtype, job.condition.lora > 0)
    if key in _COMPARED:
        return
    accept, reject = (
        int(numbers[np.argmin(batcher.rows.lengths[numbers])])
        for numbers in (np.flatnonzero(batcher.rows.accept), np.flatnonzero(~batcher.rows.accept))
    )
    found = measure(engine, batcher.of([accept, reject], 2, (1.0, 1.0)))
    refuse_disagreement(found, job.base, engine.module.lm.config.model_type, sweep.train.dtype)
    _COMPARED.add(key)


def _train_condition(job: Job, rows: TokenRows, place: Place, hooks: Hooks, validation: TokenRows | None) -> None:
    train, run, name = job.sweep.train, job.run, job.name
    if place.world != train.workers:
        raise WlsweepError(f"train.workers is {train.workers}, but {place.world} ranks were started")
    began = time.monotonic()
    n = len(rows.accept)
    total = train.epochs * batches.steps_per_epoch(n, train.global_batch)
    decision = Decision(len(rows.answer.prefix), rows.answer.accept, rows.answer.reject)
    engine = _set_up(job, decision, total)
    try:
        batcher = Batcher(job, rows, place)
        validator = _validator(job, batcher, validation)
        with without_dropout(engine.module):
            _compare_with_transformers(engine, batcher, job)
            proof = prove_weights(engine, batcher, job.condition)
        start, metered = load_checkpoint(engine, place, run.checkpoints(name), _what(job, place))
        if place.rank == 0:
            condition_config(job.sweep, job.condition, job.base).write(run.condition_config(name))
            _keep_log_until(run.metric_log(name), start)
        ready = time.monotonic()
        validating = _steps(engine, job, batcher, place, hooks, start, metered, total, validator)
        trained = time.monotonic()
        with without_dropout(engine.module):
            probe = _probe(engine, batcher)
        export_model(engine, place, job.base, run.model(name))
        if place.rank == 0:
            seconds = TrainingSeconds(start=ready - began, steps=trained - ready, validation=validating)
            _record(job, rows, total, proof, probe, seconds)
            write_card(run, name)
            shutil.rmtree(run.checkpoints(name), ignore_errors=True)
    finally:
        release(engine)
    dist.barrier()


def _validator(job: Job, batcher: Batcher, rows: TokenRows | None) -> Validation | None:
    """What judges the model on papers of validation, with the weights of the training's own mix."""
    if rows is None:
        return None
    steps = validation_steps(job.sweep.train, len(batcher.rows.accept), len(rows.accept), job.condition.lora)
    return Validation(
        Batcher(job, rows, batcher.place), steps, job.condition, batcher.weights, job.sweep.loss.format_weight
    )


def _what(job: Job, place: Place) -> dict[str, Any]:
    """What is trained: a checkpoint of anything else is not resumed from."""
    data = finished_data(job.run).fingerprint
    weights: dict[str, Any] = {}
    if (
        job.condition.lora and place.rank == 0
    ):  # adapters mean nothing on another base; rank 0 writes and judges the record
        weights["weights"] = base_fingerprint(base_of(job.base))
        if is_adapter(job.base):
            weights["start"] = weights_fingerprint(Path(job.base))
    return weights | {
        "data": data,
        "base": job.base,
        "sweep": job.sweep.fingerprint(),
        "world": place.world,
        "order": batches.ORDER,
    }


def _steps(
    engine: Any,
    job: Job,
    batcher: Batcher,
    place: Place,
    hooks: Hooks,
    start: int,
    metered: dict[str, Any] | None,
    total: int,
    validator: Validation | None,
) -> float:
    """The optimizer steps from `start` to `total`; how many seconds of it went into validation."""
    train, run, name, validating = job.sweep.train, job.run, job.name, 0.0
    per_epoch = batches.steps_per_epoch(len(batcher.rows.accept), train.global_batch)
    # The engine averages over ranks and accumulation steps; the loss is already a share of the global sum.
    scale = place.world * train.accumulation
    meter, pace = _Meter(place.device), CheckpointPace()
    if metered:
        meter.go_on(metered)
    dropout = bool(job.condition.lora and train.lora and train.lora.dropout)
    ask_every = 1  # steps between questions whether to stop; every rank must ask at the same ones
    logged = start
    log = run.metric_log(name).open("a", encoding="utf-8") if place.rank == 0 else None
    try:
        for step in range(start, total):
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
                size = save_checkpoint(engine, place, run.checkpoints(name), done, _what(job, place), meter.state())
                if place.rank == 0:
                    hooks.on_checkpoint(size)
                pace.saved(began)
            if stop and done < total:
                raise Stopped(f"{name} stopped at step {done} of {total}")
    finally:
        if log is not None:
            log.close()
    return validating


def _judged(name: str, validator: Validation, engine: Any, meter: _Meter) -> tuple[dict[str, float], float]:
    """Metrics of validation now, and the seconds that they took, which the meter leaves out."""
    began = time.monotonic()
    found = validator(engine)
    if unknown := [key for key, value in found.items() if not math.isfinite(value)]:
        raise ConditionFailed(
            f"{name}: {unknown[0]} is {found[unknown[0]]}; a lower train.lr or a smaller gamma may keep it finite"
        )
    meter.pause(spent := time.monotonic() - began)
    return found, spent


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()


def _record(
    job: Job,
    rows: TokenRows,
    steps: int,
    proof: dict[str, float],
    probe: list[ProbeRow],
    seconds: TrainingSeconds,
) -> None:
    run, name = job.run, job.name
    lines = read_metric_log(run.metric_log(name))
    tail = lines[-max(1, len(lines) // 4) :]
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
        trained_on=TrainedOn(host=platform.node(), device=_device(), workers=job.sweep.train.workers),
        probe=probe,
        model=ModelRecord(
            fingerprint=weights_fingerprint(run.model(name)),
            bytes=sum(p.stat().st_size for p in run.model(name).iterdir()),
        ),
        finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        data_fingerprint=finished_data(run).fingerprint,
    ).write(run.trained(name))
