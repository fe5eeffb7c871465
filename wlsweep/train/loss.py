"""The weighted losses: pure functions on logits, with one weight a sample and one normaliser a global batch.

At the decision position the token cross-entropy of label y splits exactly,

    -log P(token y) = -log(P(Accept) + P(Reject))  -  log p(y),     p = two-way softmax over the labels,

so with z = logit(Accept) - logit(Reject) and `other` = cross-entropy of the answer's remaining tokens

    binary          w * BCE(z, y)                + f * (neither + other)
    decision_token  w * (BCE(z, y) + neither)    + f * other
    sequence        w * (BCE(z, y) + neither + other)

where `neither` is the first term of the split, w the sample's weight and f `format_weight`. At w = f = 1 all three are
standard token cross-entropy of the answer. A step's loss is the sum over its global batch divided by the *number of
samples* in it: dividing by the sum of weights would cancel gamma in a batch of one class.

Sources: prior shift and cost-sensitive thresholds, Elkan 2001 (The foundations of cost-sensitive learning); focal loss,
Lin et al. 2017, eq. 4; label smoothing, Szegedy et al. 2016, section 7; effective number, Cui et al. 2019, eq. 3.
"""

from __future__ import annotations

from typing import NamedTuple, assert_never

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.spec.axes import Balance, LossKind
from wlsweep.spec.condition import Condition


class AnswerScores(NamedTuple):
    """What a batch of answers scored; all float32 of shape [rows]."""

    log_odds: Tensor
    """logit(Accept) - logit(Reject) at the decision position, natural log units."""
    neither: Tensor
    """-log(P(Accept) + P(Reject)) at the decision position."""
    other: Tensor
    """Cross-entropy of the answer's other tokens, summed over them."""


class SampleLoss(NamedTuple):
    """The two parts of each sample's loss, float32 of shape [rows]; only the first is multiplied with the weight."""

    weighted: Tensor
    plain: Tensor


def score_answers(logits: Tensor, answers: Tensor, labels: AnswerTokens, counted: Tensor | None = None) -> AnswerScores:
    """Split the answers' token cross-entropy into decision, mass on neither label, and other tokens.

    Args:
        logits: [rows, answer tokens, vocabulary], any float dtype; position t predicts answer token t.
        answers: [rows, answer tokens] int64.
        labels: which answer token is the decision, and its token in either answer.
        counted: [rows, answer tokens] float32, 0 where a shorter answer is filled up; None: all count.
    """
    logits = logits.float()
    total = torch.logsumexp(logits, dim=-1)
    nll = total - logits.gather(-1, answers.unsqueeze(-1)).squeeze(-1)
    decision = len(labels.prefix)
    at = logits[:, decision]
    accept, reject = at[:, labels.accept], at[:, labels.reject]
    other = (nll if counted is None else nll * counted).sum(-1) - nll[:, decision]
    return AnswerScores(accept - reject, total[:, decision] - torch.logaddexp(accept, reject), other)


def binary_loss(log_odds: Tensor, accept: Tensor, focal: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """BCE on the two-way softmax; [rows] float32.

    Args:
        log_odds: [rows] float32.
        accept: [rows], 1 for Accept and 0 for Reject.
        focal: exponent g of (1 - p_true)^g; 0 is plain BCE.
        smoothing: e, moves the target to (1 - e) * y + e / 2.
    """
    y = accept.to(log_odds.dtype)
    target = y * (1 - smoothing) + smoothing / 2
    bce = binary_cross_entropy_with_logits(log_odds, target, reduction="none")
    if focal:
        toward_truth = log_odds * (2 * y - 1)
        bce = torch.sigmoid(-toward_truth).pow(focal) * bce
    return bce


def sample_loss(scores: AnswerScores, accept: Tensor, condition: Condition) -> SampleLoss:
    """Each sample's loss under a condition's loss kind, before weights; see the module's table."""
    decision = binary_loss(scores.log_odds, accept, condition.focal, condition.smoothing)
    kind: LossKind = condition.loss
    if kind == "binary":
        return SampleLoss(decision, scores.neither + scores.other)
    if kind == "decision_token":
        return SampleLoss(decision + scores.neither, scores.other)
    if kind == "sequence":
        return SampleLoss(decision + scores.neither + scores.other, torch.zeros_like(decision))
    assert_never(kind)


def global_loss(parts: SampleLoss, weights: Tensor, present: Tensor, samples: int, format_weight: float) -> Tensor:
    """This micro-batch's share of the global batch's loss: a scalar; the shares of all micro-batches add up to it.

    Args:
        parts: from `sample_loss`.
        weights: [rows] float32, gamma (times the class weight) for the weighted class.
        present: [rows], 1 for a sample and 0 for a row that only fills a ragged last batch.
        samples: number of samples in the global batch, over every rank and accumulation step.
        format_weight: weight of the part that carries no gamma.
    """
    return (present * (weights * parts.weighted + format_weight * parts.plain)).sum() / samples


def class_weights(accepts: int, rejects: int, balance: Balance, beta: float) -> tuple[float, float]:
    """(Accept, Reject) weights from the training counts, of mean 1 over the samples.

    `inverse` is n / (2 n_c); `effective` is proportional to (1 - beta) / (1 - beta^n_c).
    """
    if balance == "none":
        return 1.0, 1.0
    if balance == "inverse":
        raw = (1 / accepts, 1 / rejects)
    else:
        raw = ((1 - beta) / (1 - beta**accepts), (1 - beta) / (1 - beta**rejects))
    mean = (raw[0] * accepts + raw[1] * rejects) / (accepts + rejects)
    return raw[0] / mean, raw[1] / mean


def sample_weights(condition: Condition, accepts: int, rejects: int, beta: float) -> tuple[float, float]:
    """(weight of an Accept sample, weight of a Reject sample): gamma times the class weight."""
    accept, reject = condition.weights
    by_class = class_weights(accepts, rejects, condition.balance, beta)
    return accept * by_class[0], reject * by_class[1]
