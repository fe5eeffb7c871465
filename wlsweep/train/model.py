"""A causal LM with the loss inside its forward pass, so that the engine that calls it never sees full-sequence logits.

The LM head runs at the answer's positions only: [rows, answer tokens, vocabulary] instead of [rows, 4096, 152k]. So does the
last decoder layer of a small model, but for its keys and values.
Rows are padded on the right; causal attention keeps real tokens from seeing the padding, so no mask is needed. Or they lie
one after another without padding (`wlsweep.train.packed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wlsweep.data.tokenise import AnswerTokens
from wlsweep.spec.condition import Condition
from wlsweep.train import packed as packed_rows
from wlsweep.train import patches
from wlsweep.train.loss import AnswerScores, global_loss, sample_loss, score_answers


class AnswerPlaces(NamedTuple):
    """Where the answers' hidden states are, in [rows, answer tokens] int64."""

    token: Tensor
    """Among all tokens of the micro-batch, row after row, padding counted."""
    column: Tensor
    """In the sequence that holds the row: the place in its own row, or of packed rows, which are one sequence, `token`."""
    begins: Tensor
    """[rows] int64: the column of each row's first token."""


class MicroBatch(NamedTuple):
    """Rows that one rank passes forward together."""

    input_ids: Tensor
    """[rows, longest row] int64: prompt, answer, padding; packed [1, tokens of all rows and filler]."""
    prompt_lengths: Tensor
    """[rows] int64: where each answer begins."""
    answers: Tensor
    """[rows, answer tokens] int64; answers that are shorter than the longest are filled up with 0."""
    accept: Tensor
    """[rows] float32, 1 for Accept."""
    weights: Tensor
    """[rows] float32."""
    present: Tensor
    """[rows] float32, 0 for a filler row of a ragged batch."""
    samples: int
    """Samples in the global batch that this belongs to."""
    positions: Tensor | None = None
    """Packed: [1, tokens] int64, each token's place in its row."""
    boundaries: Tensor | None = None
    """Packed: int32, where each row begins, and the end of the last; filler is one more row."""
    longest: int = 0
    """Packed: tokens of the longest row."""
    counted: Tensor | None = None
    """[rows, answer tokens] float32, 0 where an answer is filled up; None where all have one length."""


class Forward(NamedTuple):
    """What a forward pass returns."""

    loss: Tensor
    """Scalar: this micro-batch's share of the global loss."""
    scores: AnswerScores
    """Detached, for the metric log."""
    label_logprobs: Tensor
    """[rows, 2] float32, log P(Accept) and log P(Reject) over the whole vocabulary at the decision position."""


def after_head(config: Any, logits: Tensor) -> Tensor:
    """What a family does to the logits of its LM head: Gemma caps them softly, Granite divides and Cohere multiplies."""
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    if (divisor := getattr(config, "logits_scaling", None)) not in (None, 1):
        logits = logits / divisor
    if (factor := getattr(config, "logit_scale", None)) not in (None, 1):
        logits = logits * factor
    return logits


class AnswerModel(nn.Module):
    """Base model, LM head and loss as one module: what DeepSpeed's engine calls."""

    def __init__(self, lm: Any, condition: Condition, answer: AnswerTokens) -> None:
        super().__init__()
        self.lm, self.condition, self.answer = lm, condition, answer
        self.plain = False
        """Whether the forward pass is transformers' own, to be compared with (`wlsweep.train.proof`)."""
        setup = patches.Setup(gpu=torch.cuda.is_available(), layers=len(lm.model.layers))
        self.short = "last_layer" in patches.apply("answers", setup, lm)  # its last layer takes `places`

    def forward(self, *fields: Any) -> tuple[Tensor, ...]:
        """The fields of a `MicroBatch` and the format's weight in, those of a `Forward` out; plain tensors, which ZeRO's
        hooks look for."""
        batch, format_weight = MicroBatch(*fields[:-1]), fields[-1]
        if self.plain:
            return self._plain_forward(batch)
        rows, width = batch.answers.shape
        columns = (batch.prompt_lengths - 1).unsqueeze(1) + torch.arange(width, device=batch.answers.device)
        more: dict[str, Any] = {}
        if batch.boundaries is None:
            begins = torch.arange(rows, device=columns.device) * batch.input_ids.shape[1]
            places = AnswerPlaces(columns + begins.unsqueeze(1), columns, torch.zeros_like(begins))
        else:
            begins = batch.boundaries[:rows].long()
            places = AnswerPlaces(columns + begins.unsqueeze(1), columns + begins.unsqueeze(1), begins)
            more = {"boundaries": batch.boundaries, "longest": batch.longest}
        if self.short:
            more["places"] = places
        hidden = self.lm.model(
            input_ids=batch.input_ids, position_ids=batch.positions, use_cache=False, **more
        ).last_hidden_state
        picked = hidden if self.short else hidden.flatten(0, 1)[places.token]
        logits = after_head(self.lm.config, self.lm.lm_head(picked).float())
        scores = score_answers(logits, batch.answers, self.answer, batch.counted)
        parts = sample_loss(scores, batch.accept, self.condition)
        loss = global_loss(parts, batch.weights, batch.present, batch.samples, format_weight)
        with torch.no_grad():
            at_decision = torch.log_softmax(logits[:, len(self.answer.prefix)], dim=-1)
            labels = at_decision[:, [self.answer.accept, self.answer.reject]]
        return (loss, *(s.detach() for s in scores), labels)

    def _plain_forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Label log-probabilities by transformers' own forward pass, one row at a time, and how far its logits are from
        `after_head` on the same hidden states, relative to the largest."""
        heard: list[Tensor] = []
        listening = self.lm.lm_head.register_forward_hook(lambda module, args, out: heard.append(out))
        attention = self.lm.config._attn_implementation
        if batch.boundaries is not None:
            self.lm.set_attn_implementation("sdpa")
        try:
            with patches.suspended(self.lm):
                labels = [self._plain_logits(batch, row) for row in range(len(batch.answers))]
        finally:
            listening.remove()
            if batch.boundaries is not None:
                self.lm.set_attn_implementation(attention)
        exact, found = torch.cat(labels), torch.cat([h[:, -1].float() for h in heard])
        head = (after_head(self.lm.config, found) - exact).abs().max() / exact.abs().max()
        return exact.log_softmax(-1)[:, [self.answer.accept, self.answer.reject]], head

    def _plain_logits(self, batch: MicroBatch, row: int) -> Tensor:
        """[1, vocabulary] float32 at the decision position of a row."""
        begins = batch.boundaries
        ids = batch.input_ids[row] if begins is None else batch.input_ids[0, int(begins[row]) :]
        ids = ids[None, : int(batch.prompt_lengths[row]) + len(self.answer.prefix)]
        logits: Tensor = self.lm(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return logits[:, -1].float()


def run_forward(model: Callable[..., Any], batch: MicroBatch, format_weight: float) -> Forward:
    """Call an `AnswerModel`, or the engine around it."""
    loss, log_odds, neither, other, labels = model(*batch, format_weight)
    return Forward(loss, AnswerScores(log_odds, neither, other), labels)


def collate(
    prompts: Sequence[npt.NDArray[np.int32]],
    answer: AnswerTokens,
    accept: Sequence[bool],
    weights: tuple[float, float],
    samples: int,
    device: torch.device,
    packed: bool = False,
) -> MicroBatch:
    """Rows as tensors, padded on the right with token 0 or packed one after another.

    Args:
        prompts: token ids of each row up to the answer.
        answer: token ids of both answers.
        accept: the labels.
        weights: of an Accept and of a Reject sample.
        samples: samples in the global batch.
        device: where the tensors go.
        packed: for a model whose attention knows the rows' boundaries.
    """
    answers = [answer.ids(a) for a in accept]
    sizes = np.array([len(a) for a in answers])
    width = int(sizes.max())
    filled = [[*a, *[0] * (width - len(a))] for a in answers]
    rows = [np.concatenate([prompt, answer]) for prompt, answer in zip(prompts, filled, strict=True)]
    longest = max(map(len, rows))
    if packed:
        rows.append(np.zeros(-sum(map(len, rows)) % packed_rows.MULTIPLE, dtype=np.int64))
        ids = np.concatenate(rows, dtype=np.int64)[None]
    else:
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
    batch = MicroBatch(
        input_ids=torch.from_numpy(ids).to(device, non_blocking=True),
        prompt_lengths=torch.tensor([len(p) for p in prompts], device=device),
        answers=torch.tensor(filled, device=device),
        accept=torch.tensor([float(a) for a in accept], device=device),
        weights=torch.tensor([weights[0] if a else weights[1] for a in accept], device=device),
        present=torch.ones(len(prompts), device=device),
        samples=samples,
        counted=None
        if (sizes == width).all()
        else torch.from_numpy((np.arange(width) < sizes[:, None]).astype(np.float32)).to(device, non_blocking=True),
    )
    if not packed:
        return batch
    positions = np.concatenate([np.arange(len(row)) for row in rows])[None]
    boundaries = np.unique(np.cumsum([0, *map(len, rows)], dtype=np.int32))
    return batch._replace(
        positions=torch.from_numpy(positions).to(device, non_blocking=True),
        boundaries=torch.from_numpy(boundaries).to(device, non_blocking=True),
        longest=max(longest, len(rows[-1])),
    )
