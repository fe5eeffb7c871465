"""Which rows are test rows and which are for validation, and the proof that none of them is trained on.

Rows are ordered by a keyed hash of their id: the choice needs no generator state, does not depend on the order of the
file or of the stages, and a row that is added moves at most a few others across the border.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.spec.task import ICLR, Words

FEWEST_VALIDATION = 5
"""Validation rows of a class below which nothing can be read off them; a trial run (`--limit`) may have fewer."""


def keyed_order(ids: Sequence[str], seed: int, purpose: str) -> NDArray[np.int64]:
    """Positions of `ids` in an order that looks random and depends on (purpose, seed, id) alone.

    Returns:
        int64 [n], a permutation: the position of the first id, of the second, ... Ids are unique.
    """
    key = f"{purpose}\0{seed}\0".encode()
    digests = [hashlib.sha256(key + row_id.encode()).digest() for row_id in ids]
    return np.array(sorted(range(len(ids)), key=digests.__getitem__), dtype=np.int64)


def test_count(rows: int, share: float) -> int:
    """Test rows among the `rows` of one class: the share to the nearest row, with one left on either side."""
    return min(max(int(rows * share + 0.5), 1), rows - 1) if rows > 1 else 0


def refuse_impossible_share(share: float) -> None:
    """Refuse to split off nothing or everything.

    Raises:
        WlsweepError: for a share of 0 or 1.
    """
    if not 0 < share < 1:
        raise WlsweepError(
            f"test_share = {share:g} leaves an empty set; give a test file ([data] test) or a share between 0 and 1"
        )


def split_off_test(
    ids: Sequence[str], accept: NDArray[np.bool_], share: float, seed: int, words: Words = ICLR.words
) -> NDArray[np.bool_]:
    """Mark the test rows of a single source, `test_count` of each class.

    Args:
        ids: unique row ids, n of them.
        accept: bool [n], whether the label is the positive one.
        share: of each class, 0 < share < 1.
        seed: of the choice.
        words: of the task, for messages.

    Returns:
        bool [n], True for test rows.

    Raises:
        WlsweepError: if the share is 0 or 1, or a class has fewer than two rows.
    """
    refuse_impossible_share(share)
    counts = int(accept.sum()), int((~accept).sum())
    for name, n in zip((words.positives, words.negatives), counts, strict=True):
        if n < 2:
            raise WlsweepError(f"{n} {name} in the source: too few to split off a test set; at least 2")
    return _mark(ids, accept, (test_count(counts[0], share), test_count(counts[1], share)), seed, "test")


def split_off_validation(
    ids: Sequence[str], accept: NDArray[np.bool_], share: float, seed: int, words: Words = ICLR.words
) -> NDArray[np.bool_]:
    """Mark the validation rows among training rows (no test rows), `test_count` of each class.

    Args:
        ids: unique row ids, n of them.
        accept: bool [n], whether the label is the positive one.
        share: of each class, 0 <= share < 1; 0 marks none.
        seed: of the choice.
        words: of the task, for errors.

    Returns:
        bool [n], True for validation rows.

    Raises:
        WlsweepError: if a class gets fewer than `FEWEST_VALIDATION`.
    """
    counts = validation_counts(int(accept.sum()), int((~accept).sum()), share, words)
    return _mark(ids, accept, counts, seed, "validation")


def validation_counts(accepts: int, rejects: int, share: float, words: Words = ICLR.words) -> tuple[int, int]:
    """(accepts, rejects) that validation gets of so many training rows; none under a share of 0.

    Raises:
        WlsweepError: if a class gets fewer than `FEWEST_VALIDATION`.
    """
    if not share:
        return 0, 0
    found = test_count(accepts, share), test_count(rejects, share)
    if min(found) < FEWEST_VALIDATION:
        rarer = min(accepts, rejects)
        least = ceil(100 * (FEWEST_VALIDATION - 0.5) / rarer) / 100 if rarer else 1.0
        way = f"raise it to {least:g}, or give more rows" if least <= 0.5 else "give more rows"
        raise WlsweepError(
            f"data.validation_share = {share:g} of {accepts:,} {words.positives} and {rejects:,} {words.negatives} "
            f"leaves {found[0]:,} and {found[1]:,} for validation, where at least {FEWEST_VALIDATION} of each class are "
            f"needed; {way}"
        )
    return found


def _mark(
    ids: Sequence[str], accept: NDArray[np.bool_], counts: tuple[int, int], seed: int, purpose: str
) -> NDArray[np.bool_]:
    """Mark so many rows of each class, the positive one first: those that come first in `keyed_order`."""
    marked = np.zeros(len(ids), dtype=bool)
    for of_class, n in zip((np.flatnonzero(accept), np.flatnonzero(~accept)), counts, strict=True):
        marked[of_class[keyed_order([ids[i] for i in of_class], seed, purpose)[:n]]] = True
    return marked


def limited_counts(accepts: int, rejects: int, limit: int) -> tuple[int, int]:
    """(accepts, rejects) of `limit` rows in the same proportion, at least one of each class that has rows."""
    total = accepts + rejects
    if limit >= total:
        return accepts, rejects
    kept = min(max((2 * limit * accepts + total) // (2 * total), min(accepts, 1)), limit - min(rejects, 1))
    return kept, limit - kept


def limit_rows(ids: Sequence[str], accept: NDArray[np.bool_], limit: int, seed: int) -> NDArray[np.bool_]:
    """Mark `limit` rows, stratified by class, for a trial run.

    Returns:
        bool [n]. All True if there are no more than `limit` rows. A larger limit keeps what a smaller one kept.

    Raises:
        WlsweepError: if `limit` is below 2, which cannot hold both classes.
    """
    if limit < 2:
        raise WlsweepError(f"a limit of {limit} rows cannot hold both classes; give 2 or more")
    return _mark(ids, accept, limited_counts(int(accept.sum()), int((~accept).sum()), limit), seed, "limit")


_APART = (
    ("train", "test"),
    ("validation", "test"),
    ("train", "validation"),
    ("pool", "validation"),
    ("pool", "test"),
    ("pool", "train"),
)


def refuse_shared(sets: Mapping[str, tuple[Sequence[tuple[str, str]], object]], words: Words = ICLR.words) -> None:
    """Refuse sets of a sweep that share an item.

    Args:
        sets: by role: (row id, row hash) of every row, and the files that hold them, for the message.
        words: of the task, for the message.

    Raises:
        WlsweepError: listing every id and every identical text that occurs in two sets.
    """
    for first, second in _APART:
        if first not in sets or second not in sets:
            continue
        (keys, files), (others, other_files) = sets[first], sets[second]
        first_name, second_name = f"{first} ({files})", f"{second} ({other_files})"
        ids = {row_id for row_id, _ in keys}
        by_text = {row_hash: row_id for row_id, row_hash in keys}
        problems = []
        for row_id, row_hash in others:
            if row_id in ids:
                problems.append(f"id {row_id!r} is in both")
            elif row_hash in by_text:
                problems.append(f"{row_id!r} of {second_name} has the text of {by_text[row_hash]!r} of {first_name}")
        refuse_all(f"{first_name} and {second_name} share {words.items}; remove them from one of the two:", problems)
