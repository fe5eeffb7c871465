"""The forward pass that is trained, against transformers' own, before the first step.

An `AnswerModel` runs the decoder and the LM head by itself: it computes logits at the answer's positions alone, packs
rows, shortens the last layer, and does what the family does to logits after the head. If it left out something that a
family does, another model would be trained than the one that vLLM serves, and nobody would notice until prediction.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from wlsweep.errors import SharedFailure
from wlsweep.train.model import MicroBatch, run_forward

HEAD_TOLERANCE = 1e-3
"""Largest relative difference of logits made from the same hidden states; both are float32."""
BODY_TOLERANCE = {"fp32": 0.01, "bf16": 0.5}
"""Largest difference of a label's log-probability (natural log units). In float32 the two passes differ by 1e-5, in bf16 by
0.1 to 0.26 (135M parameters, other kernels); leaving a logit cap or scale out moved it by up to 3.6."""


class Agreement(NamedTuple):
    """How far the two forward passes are apart."""

    head: float
    """Largest difference of logits made from the same hidden states, relative to the largest logit."""
    body: float
    """Largest difference of a label's log-probability, natural log units."""


def measure(engine: Any, batch: MicroBatch) -> Agreement:
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
