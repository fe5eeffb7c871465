"""Batches are pure functions, and no layout loses or repeats a row."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wlsweep.train.batches import cut, epoch_order, global_batch_rows, steps_per_epoch

sizes = st.integers(1, 200)


@given(rows=sizes, global_batch=st.integers(1, 32), seed=st.integers(0, 9), epochs=st.integers(1, 3))
def test_every_epoch_visits_every_row_once(rows, global_batch, seed, epochs):
    per_epoch = steps_per_epoch(rows, global_batch)
    for epoch in range(epochs):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = np.concatenate([global_batch_rows(s, rows, global_batch, seed) for s in steps])
        assert sorted(seen) == list(range(rows))


@given(
    rows=sizes,
    workers=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    micro=st.integers(1, 4),
    seed=st.integers(0, 9),
    packed=st.booleans(),
)
def test_any_layout_cuts_a_batch_into_its_rows(rows, workers, accumulation, micro, seed, packed):
    batch = global_batch_rows(0, rows, workers * accumulation * micro, seed)
    lengths = np.random.default_rng(seed).integers(1, 50, rows).astype(np.int32)
    pieces = cut(batch, lengths, workers, accumulation, packed)
    assert [len(rank) for rank in pieces] == [accumulation] * workers
    assert sorted(np.concatenate([m for rank in pieces for m in rank])) == sorted(batch)
    assert max(len(m) for rank in pieces for m in rank) <= 2 * micro

    def tokens(pieces):
        """[accumulation step][rank]: tokens that pass through the model."""
        return np.array([[_tokens(lengths[m], packed) for m in rank] for rank in pieces]).T

    by_length = batch[np.argsort(-lengths[batch], kind="stable")]
    equal = np.array_split(by_length, workers * accumulation)
    equal = [[equal[step * workers + rank] for step in range(accumulation)] for rank in range(workers)]
    here, there = tokens(pieces), tokens(equal)
    assert here.max() <= there.max(), "memory"
    assert here.max(axis=1).sum() <= there.max(axis=1).sum(), "time"


def _tokens(lengths, packed):
    return int(lengths.sum() if packed else len(lengths) * max(lengths, default=0))


@given(lengths=st.lists(st.integers(1, 60), min_size=5, max_size=9), packed=st.booleans())
def test_two_ranks_share_a_batch_as_evenly_as_rows_sorted_by_length_can_be_shared(lengths, packed):
    lengths = np.array(lengths, dtype=np.int32)
    (first,), (second,) = cut(np.arange(len(lengths)), lengths, workers=2, accumulation=1, packed=packed)
    ordered = np.sort(lengths)[::-1]
    most_rows = 2 * -(-len(lengths) // 2)
    best = min(
        max(_tokens(ordered[:at], packed), _tokens(ordered[at:], packed))
        for at in range(1, len(lengths) + 1)
        if max(at, len(lengths) - at) <= most_rows
    )
    assert max(_tokens(lengths[first], packed), _tokens(lengths[second], packed)) == best


def test_the_order_depends_on_seed_and_epoch_alone():
    assert epoch_order(50, 0, 0).tolist() == epoch_order(50, 0, 0).tolist()
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 0, 1).tolist()
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 1, 0).tolist()


def test_micro_batches_hold_rows_of_similar_length():
    lengths = np.arange(64, dtype=np.int32)[::-1].copy()
    pieces = cut(np.arange(64), lengths, workers=1, accumulation=8)
    assert all(np.ptp(lengths[m]) == 7 for rank in pieces for m in rank)
