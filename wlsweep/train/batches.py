"""Which rows make up which step: pure functions of (rows, seed, epoch), so any step can be made again after a fault.

The order of rows is the only noise of a training here, and conditions are compared with each other: `stratified_order`
keeps it small, and alike in conditions whose mixes share papers.

A global batch is a set of rows; how it is cut into micro-batches, ranks and accumulation steps changes the time that it
takes and, but for float rounding, nothing else. Rows of similar length share a micro-batch to save padding.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

ORDER = "stratified"
"""Name of the order of rows; a resume checkpoint that was made under another one is not used."""


def steps_per_epoch(rows: int, global_batch: int) -> int:
    """Optimizer steps of one pass; the last batch may be smaller than the others, no row is dropped."""
    return math.ceil(rows / global_batch)


def order_keys(row_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A number for each row that depends on its id and on how often the id stood before it; shape (rows,).

    So a paper has the same number in every mix that holds it, and each repetition has one of its own.
    """
    seen: dict[str, int] = {}
    keys = np.empty(len(row_ids), dtype=np.uint64)
    for i, row_id in enumerate(row_ids):
        copy = seen[row_id] = seen.get(row_id, -1) + 1
        keys[i] = int.from_bytes(hashlib.blake2b(f"{copy}\0{row_id}".encode(), digest_size=8).digest(), "little")
    return keys


def stratified_order(keys: npt.NDArray[np.uint64], accept: npt.NDArray[np.bool_], seed: int, epoch: int) -> IntArray:
    """An order of rows with the same share of accepts all along, in which mixes that share papers agree.

    Each class is shuffled by a hash of (key, seed, epoch) and spread evenly over the epoch. So every stretch of rows holds
    the mix's own share of accepts to within a row or two (stratified batches, Zhao and Zhang 2014, arXiv:1405.3080): a
    training is not off because its last batches happened to hold many accepts. And a paper stands at about the same
    fraction of the epoch in every mix that holds it (common random numbers), so that what its place does to two
    conditions cancels in their difference. Measured on the demo in plain torch: docs/log.md, "Order of rows".

    Args:
        keys: of every row, see `order_keys`; uint64, shape (rows,).
        accept: labels, shape (rows,).
        seed: of the condition.
        epoch: from 0.

    Returns:
        a permutation of 0..rows-1.
    """
    mixed = _hashed(keys, seed, epoch)
    place = np.empty(len(keys))
    for rows in (np.flatnonzero(accept), np.flatnonzero(~accept)):
        place[rows[np.argsort(mixed[rows], kind="stable")]] = (np.arange(len(rows)) + 0.5) / max(len(rows), 1)
    return np.asarray(np.lexsort((mixed, place)), dtype=np.int64)


def _hashed(keys: npt.NDArray[np.uint64], seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    """Another number for every key, seed and epoch: the finaliser of SplitMix64 (Steele et al. 2014)."""
    salt = np.random.Generator(np.random.PCG64([seed, epoch])).integers(0, 2**64, dtype=np.uint64)
    x = keys ^ salt
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def global_batch_rows(step: int, rows: int, global_batch: int, seed: int) -> IntArray:
    """Row numbers of optimizer step `step`, counted from 0 over all epochs, of which seed and number decide the order."""
    epoch, at = divmod(step, steps_per_epoch(rows, global_batch))
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)
    return order[at * global_batch : (at + 1) * global_batch]


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

    limits = range(int(lengths[0]), most)  # less than the longest row is too little
    found = ends(int(lengths[0]) + bisect_left(limits, True, key=lambda limit: ends(limit) is not None))
    assert found is not None
    return found
