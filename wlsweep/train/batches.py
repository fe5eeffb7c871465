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


def cut(
    batch: IntArray, lengths: npt.NDArray[np.int32], workers: int, accumulation: int, packed: bool = False
) -> list[list[IntArray]]:
    """Cut a global batch into micro-batches: result[rank][accumulation step] is an array of row numbers.

    Every rank gets `accumulation` micro-batches whatever the size of the batch, so that collectives pair up; in a ragged
    last batch some may be empty. Micro-batches hold rows of similar length, longest first. They have equally many rows
    or, where the ranks then wait less for each other, equally many tokens: never more than the equal cut's largest, and
    at most twice the rows.

    Args:
        batch: [rows] row numbers.
        lengths: tokens of every row of the data set, indexed by row number.
        workers: ranks.
        accumulation: micro-batches per rank.
        packed: rows are not padded to the longest of their micro-batch.
    """
    by_length = batch[np.argsort(-lengths[batch], kind="stable")]
    sorted_lengths, parts = lengths[by_length].astype(np.int64), workers * accumulation
    ends = np.cumsum([len(piece) for piece in np.array_split(by_length, parts)])
    tokens = _tokens(sorted_lengths, ends, packed)
    if workers > 1 and len(batch) > parts:
        even = _even_ends(sorted_lengths, parts, int(tokens.max()), 2 * math.ceil(len(batch) / parts), packed)
        if _waited(_tokens(sorted_lengths, even, packed), workers) < _waited(tokens, workers):
            ends = even
    pieces = np.split(by_length, ends[:-1])
    return [[pieces[step * workers + rank] for step in range(accumulation)] for rank in range(workers)]


def _tokens(lengths: IntArray, ends: IntArray, packed: bool) -> IntArray:
    """Tokens that each piece of the rows, which are sorted longest first, passes through the model; padding counts."""
    begins = np.concatenate([[0], ends[:-1]])
    if packed:
        total = np.concatenate([[0], np.cumsum(lengths)])
        return np.asarray(total[ends] - total[begins])
    return np.asarray((ends - begins) * np.append(lengths, 0)[begins])


def _waited(tokens: IntArray, workers: int) -> int:
    """Tokens on the way of a step: ranks wait for the one with the most in every accumulation step."""
    return int(tokens.reshape(-1, workers).max(axis=1).sum())


def _even_ends(lengths: IntArray, parts: int, most: int, most_rows: int, packed: bool) -> IntArray:
    """Where each piece ends so that the largest has the fewest tokens, by bisection; `most` is known to be enough."""
    total = np.concatenate([[0], np.cumsum(lengths)])

    def ends(limit: int) -> IntArray | None:
        at, found = 0, []
        for _ in range(parts):
            if at < len(lengths):
                room = (
                    int(np.searchsorted(total, total[at] + limit, "right")) - 1 - at if packed else limit // lengths[at]
                )
                at = min(len(lengths), at + min(int(room), most_rows))
            found.append(at)
        return np.array(found) if at == len(lengths) else None

    low, high = int(lengths[0]) - 1, most  # low is too little: the longest row alone has more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ends(middle) is not None else (middle, high)
    found = ends(high)
    assert found is not None
    return found
