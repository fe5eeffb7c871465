"""The rows of a step as tensors of this rank; which rows they are, and in what order, says `wlsweep.train.batches`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wlsweep.data.load import TokenRows
from wlsweep.train import batches, packed
from wlsweep.train.job import Job
from wlsweep.train.loss import sample_weights
from wlsweep.train.model import MicroBatch, collate
from wlsweep.train.zero3 import Place


class Batcher:
    """Makes a rank's micro-batches of any step."""

    def __init__(self, job: Job, rows: TokenRows, place: Place) -> None:
        self.job, self.train, self.rows, self.place = job, job.sweep.train, rows, place
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
            seed = self.job.condition.seed
            self._epoch, self._order = epoch, batches.stratified_order(self.keys, self.rows.accept, seed, epoch)
        return self._order[at * size : (at + 1) * size]

    def of(self, numbers: Sequence[int], samples: int, weights: tuple[float, float]) -> MicroBatch:
        """The micro-batch of some rows; none at all makes one filler row that counts for nothing."""
        chosen = [int(i) for i in numbers] or [int(np.argmin(self.rows.lengths))]
        prompts, accept = [self.rows.prompt(i) for i in chosen], [bool(self.rows.accept[i]) for i in chosen]
        batch = collate(prompts, self.rows.answer, accept, weights, samples, self.place.device, self.packed)
        return batch if len(numbers) else batch._replace(present=torch.zeros_like(batch.present))

    def step(self, step: int) -> list[tuple[MicroBatch, int]]:
        """(micro-batch, its tokens) of this rank, one for each accumulation step."""
        drawn = self.numbers(step)
        cut = batches.cut(drawn, self.rows.lengths, self.place.world, self.train.accumulation, self.packed)
        mine = cut[self.place.rank]
        tokens = self.rows.lengths + self.rows.answer.lengths(self.rows.accept)
        return [(self.of(m.tolist(), len(drawn), self.weights), int(tokens[m].sum())) for m in mine]
