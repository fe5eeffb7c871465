"""Which rows are test rows, and the proof that none of them is trained on.

Rows are ordered by a keyed hash of their id: the choice needs no generator state, does not depend on the order of the
file or of the stages, and a row that is added moves at most a few others across the border.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.spec.task import ICLR, Words


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
    test = np.zeros(len(ids), dtype=bool)
    for name, of_class in ((words.positives, np.flatnonzero(accept)), (words.negatives, np.flatnonzero(~accept))):
        if len(of_class) < 2:
            raise WlsweepError(f"{len(of_class)} {name} in the source: too few to split off a test set; at least 2")
        order = keyed_order([ids[i] for i in of_class], seed, "test")
        test[of_class[order[: test_count(len(of_class), share)]]] = True
    return test


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
    classes = np.flatnonzero(accept), np.flatnonzero(~accept)
    kept = np.zeros(len(ids), dtype=bool)
    for of_class, n in zip(classes, limited_counts(len(classes[0]), len(classes[1]), limit), strict=True):
        order = keyed_order([ids[i] for i in of_class], seed, "limit")
        kept[of_class[order[:n]]] = True
    return kept


def check_disjoint(
    first: Iterable[tuple[str, str]],
    second: Iterable[tuple[str, str]],
    first_name: str,
    second_name: str,
    words: Words = ICLR.words,
) -> None:
    """Refuse two sets that share an item.

    Args:
        first: (row id, row hash) of every row of one set.
        second: the same of the other.
        first_name: for the message, such as "train (papers.json)".
        second_name: for the message.
        words: of the task, for the message.

    Raises:
        WlsweepError: listing every id and every identical text that occurs in both.
    """
    ids: set[str] = set()
    by_text: dict[str, str] = {}
    for row_id, row_hash in first:
        ids.add(row_id)
        by_text[row_hash] = row_id
    problems = []
    for row_id, row_hash in second:
        if row_id in ids:
            problems.append(f"id {row_id!r} is in both")
        elif row_hash in by_text:
            problems.append(f"{row_id!r} of {second_name} has the text of {by_text[row_hash]!r} of {first_name}")
    refuse_all(f"{first_name} and {second_name} share {words.items}; remove them from one of the two:", problems)
