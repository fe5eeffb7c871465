"""Which rows make up which step: pure functions of (rows, seed, epoch), so any step can be made again after a fault.

A global batch is a set of rows; how it is cut into micro-batches, ranks and accumulation steps changes the time that it
takes and, but for float rounding, nothing else. Rows of similar length share a micro-batch to save padding.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def steps_per_epoch(rows: int, global_batch: int) -> int:
    """Optimizer steps of one pass; the last batch may be smaller than the others, no row is dropped."""
    return math.ceil(rows / global_batch)


def epoch_order(rows: int, seed: int, epoch: int) -> IntArray:
    """A permutation of 0..rows-1 that depends on its arguments alone."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def global_batch_rows(step: int, rows: int, global_batch: int, seed: int) -> IntArray:
    """Row numbers of optimizer step `step`, counted from 0 over all epochs."""
    per_epoch = steps_per_epoch(rows, global_batch)
    epoch, at = divmod(step, per_epoch)
    return epoch_order(rows, seed, epoch)[at * global_batch : (at + 1) * global_batch]


def cut(batch: IntArray, lengths: npt.NDArray[np.int32], workers: int, accumulation: int) -> list[list[IntArray]]:
    """Cut a global batch into micro-batches: result[rank][accumulation step] is an array of row numbers.

    Every rank gets `accumulation` micro-batches whatever the size of the batch, so that collectives pair up; in a ragged
    last batch some may be empty. Micro-batches that run at the same time on different ranks hold rows of similar length.

    Args:
        batch: [rows] row numbers.
        lengths: tokens of every row of the data set, indexed by row number.
        workers: ranks.
        accumulation: micro-batches per rank.
    """
    by_length = batch[np.argsort(-lengths[batch], kind="stable")]
    pieces = np.array_split(by_length, workers * accumulation)
    return [[pieces[step * workers + rank] for step in range(accumulation)] for rank in range(workers)]
