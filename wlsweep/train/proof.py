"""What is measured through the engine, so that nothing is believed of it: before the first step that weights act as they are
declared and that the forward pass is transformers' own, after the last what the trained model says of a few rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from wlsweep.data.load import TokenRows
from wlsweep.errors import SharedFailure
from wlsweep.run.records import ProbeRow
from wlsweep.train.batcher import Batcher
from wlsweep.train.job import ConditionFailed
from wlsweep.train.model import MicroBatch, run_forward

PROBES = 8
"""Training rows of each class on which the trained model's own scores are kept, to check every later copy of it."""
SMALLEST_LOSS = 1e-20
"""Below it a loss is too near to underflow for a ratio."""
PROOF_TOLERANCE = 1e-3
"""Largest relative deviation of a measured loss ratio from gamma (float32 rounding is far below it)."""
HEAD_TOLERANCE = 1e-3
"""Largest relative difference of logits made from the same hidden states; both are float32."""
BODY_TOLERANCE = {"fp32": 0.01, "bf16": 0.5}
"""Largest difference of a label's log-probability (natural log units). In float32 the two passes differ by 1e-5, in bf16 by
0.1 to 0.26 (135M parameters, other kernels); leaving a logit cap or scale out moved it by up to 3.6."""


def _first_of_each_class(rows: TokenRows, count: int | None) -> tuple[list[int], list[int]]:
    return np.flatnonzero(rows.accept)[:count].tolist(), np.flatnonzero(~rows.accept)[:count].tolist()


def prove_weights(engine: Any, batcher: Batcher) -> dict[str, float]:
    """Measure, through the engine, that the loss of a sample of each class is multiplied by its weight and no other.

    Returns:
        `accept` and `reject`: measured ratio of weighted to unweighted loss of one sample.

    Raises:
        ConditionFailed: if a ratio is not the weight that the condition declares.
    """
    name, found = batcher.job.name, dict[str, float]()
    picks = _first_of_each_class(batcher.rows, 1)
    for label, picked, expected in zip(("accept", "reject"), picks, batcher.weights, strict=True):
        with torch.no_grad():
            weighted = run_forward(engine, batcher.of(picked, 1, batcher.weights), 0.0).loss.item()
            plain = run_forward(engine, batcher.of(picked, 1, (1.0, 1.0)), 0.0).loss.item()
        if plain < SMALLEST_LOSS:
            raise ConditionFailed(
                f"{name}: the base model is so sure of an {label} sample (loss {plain:g}) that the effect of "
                "its weight cannot be measured; nothing was trained"
            )
        found[label] = weighted / plain
        if not abs(found[label] / expected - 1) < PROOF_TOLERANCE:
            raise ConditionFailed(
                f"{name}: the loss of an {label} sample is {found[label]:.4f} times the unweighted one, "
                f"declared is {expected:.4f}; nothing was trained. This is a defect of the loss, please report it"
            )
    return found


def probe(engine: Any, batcher: Batcher) -> list[ProbeRow]:
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


class Agreement(NamedTuple):
    """How far the forward pass that is trained is from transformers' own.

    An `AnswerModel` runs the decoder and the LM head by itself: it computes logits at the answer's positions alone, packs
    rows, shortens the last layer, and does what the family does to logits after the head. If it left out something that a
    family does, another model would be trained than the one that vLLM serves, and nobody would notice until prediction.
    """

    head: float
    """Largest difference of logits made from the same hidden states, relative to the largest logit."""
    body: float
    """Largest difference of a label's log-probability, natural log units."""


def measure_agreement(engine: Any, batch: MicroBatch) -> Agreement:
    """Both forward passes on the same rows; collective where the engine is DeepSpeed's.

    Args:
        engine: an `AnswerModel`, or the engine around one.
        batch: a few rows.
    """
    model = getattr(engine, "module", engine)
    with torch.no_grad():
        ours = run_forward(engine, batch, 0.0).label_logprobs
        model.plain = True
        try:
            theirs, head = engine(*batch, 0.0)
        finally:
            model.plain = False
    return Agreement(float(head), float((ours - theirs).abs().max()))


def refuse_disagreement(found: Agreement, base: str, family: str, dtype: str) -> None:
    """Refuse to train a model whose forward pass is not transformers' own.

    Raises:
        SharedFailure: with the difference.
    """
    if not found.head <= HEAD_TOLERANCE:
        raise SharedFailure(
            f"{base}: models of type {family!r} do something to the logits after the LM head that wlsweep does not know "
            f"(from the same hidden states they differ by {found.head:.1%} of the largest); nothing was trained. Use a "
            "model of a family that docs/models.md lists"
        )
    if not found.body <= BODY_TOLERANCE[dtype]:
        raise SharedFailure(
            f"{base}: the forward pass that would be trained is not the one of transformers for type {family!r} (label "
            f"log-probabilities differ by {found.body:.3f}, at most {BODY_TOLERANCE[dtype]} in {dtype}); nothing was "
            "trained. Use a model of a family that docs/models.md lists"
        )


_COMPARED: set[tuple[str, str, str, bool]] = set()
"""Base models, with attention and dtype, whose forward pass this process has compared with transformers' own."""


def compare_with_transformers(engine: Any, batcher: Batcher) -> None:
    """Compare the forward pass that is trained with transformers' own, once a process and base model; collective."""
    job, sweep = batcher.job, batcher.job.sweep
    key = (job.base, sweep.model.attention, sweep.train.dtype, job.condition.lora > 0)
    if key in _COMPARED:
        return
    lengths = batcher.rows.lengths
    shortest = [min(numbers, key=lambda i: lengths[i]) for numbers in _first_of_each_class(batcher.rows, None)]
    found = measure_agreement(engine, batcher.of(shortest, 2, (1.0, 1.0)))
    refuse_disagreement(found, job.base, engine.module.lm.config.model_type, sweep.train.dtype)
    _COMPARED.add(key)
