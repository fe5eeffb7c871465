"""How good a model is on papers that it is not trained on, while it trains: `data.validation_share`.

    rows of validation -> micro-batches, an equal number for each rank -> engine, no gradients, no dropout
        -> three numbers a paper, gathered on every rank -> loss, AUC, accuracy, accept rate of all papers

A validation changes nothing of the training: it draws no random number, leaves no gradient, and its seconds are kept out of
tokens/s. What is gathered are the papers' own numbers, so the result depends on the number of ranks by rounding alone.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from wlsweep.data.load import TokenRows
from wlsweep.run.metric_log import VALIDATION
from wlsweep.spec.condition import Condition
from wlsweep.spec.train_section import validation_steps
from wlsweep.train import batches
from wlsweep.train.batcher import Batcher
from wlsweep.train.lora import without_dropout
from wlsweep.train.loss import AnswerScores, sample_loss
from wlsweep.train.model import run_forward
from wlsweep.train.zero3 import release_gathered


class Validation:
    """The papers of validation, cut into micro-batches once."""

    def __init__(self, training: Batcher, rows: TokenRows) -> None:
        """Papers of validation for a training, whose loss judges them: with the weights of its own mix."""
        job, place, train = training.job, training.place, training.train
        self.batcher, self.weights = Batcher(job, rows, place), training.weights
        steps = validation_steps(train, len(training.rows.accept), len(rows.accept), job.condition.lora)
        self.steps = frozenset(steps)
        """Optimizer steps, counted from 1, after which to validate."""
        passes = ceil(len(rows.accept) / (place.world * train.micro_batch))
        everything = np.arange(len(rows.accept), dtype=np.int64)
        self._own = batches.cut(everything, rows.lengths, place.world, passes, training.packed)[place.rank]

    def __call__(self, engine: Any) -> dict[str, float]:
        """Judge the model as it is now; collective, the same on every rank. `validation_metrics` has the keys."""
        accept, job = self.batcher.rows.accept, self.batcher.job
        scores = torch.zeros(3, len(accept), device=self.batcher.place.device, dtype=torch.float64)
        with torch.no_grad(), without_dropout(engine.module):
            for numbers in self._own:
                out = run_forward(engine, self.batcher.of(numbers.tolist(), max(1, len(numbers)), (1.0, 1.0)), 0.0)
                if len(numbers):  # none: a filler row, so that the ranks' collectives pair up
                    scores[:, torch.from_numpy(numbers).to(scores.device)] = torch.stack(out.scores).double()
        release_gathered(engine)
        dist.all_reduce(scores)  # each paper is one rank's, the others add zeros
        truth = torch.from_numpy(accept.astype(np.float64)).to(scores.device)
        format_weight = job.sweep.loss.format_weight
        return validation_metrics(AnswerScores(*scores), truth, job.condition, self.weights, format_weight)


def validation_metrics(
    scores: AnswerScores, accept: Tensor, condition: Condition, weights: tuple[float, float], format_weight: float
) -> dict[str, float]:
    """What is said of a model on papers of validation.

    Args:
        scores: float64, shape (papers,) each.
        accept: the labels, 1 for Accept, shape (papers,).
        condition: gives the kind of loss.
        weights: of an Accept and of a Reject sample.
        format_weight: of the part of the loss that carries no weight.

    Returns:
        `validation_loss` (the condition's own weighted loss, mean over papers), `validation_bce` (unweighted binary
        cross-entropy of the decision, nats; the same measure for every condition), `validation_auc`,
        `validation_accuracy`, `validation_accept_rate` (decisions are the sign of the log-odds). AUC is not a number where
        a score is none.
    """
    from sklearn.metrics import roc_auc_score

    parts = sample_loss(scores, accept, condition)
    weight = torch.where(accept > 0, weights[0], weights[1])
    said = scores.log_odds > 0
    finite = bool(torch.isfinite(scores.log_odds).all())
    found = {
        "loss": (weight * parts.weighted + format_weight * parts.plain).mean().item(),
        "bce": binary_cross_entropy_with_logits(scores.log_odds, accept).item(),
        "auc": float(roc_auc_score(accept.cpu().numpy(), scores.log_odds.cpu().numpy())) if finite else float("nan"),
        "accuracy": (said == (accept > 0)).double().mean().item(),
        "accept_rate": said.double().mean().item(),
    }
    return {VALIDATION + name: value for name, value in found.items()}
