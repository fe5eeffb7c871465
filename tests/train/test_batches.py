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
)
def test_any_layout_cuts_a_batch_into_its_rows(rows, workers, accumulation, micro, seed):
    batch = global_batch_rows(0, rows, workers * accumulation * micro, seed)
    lengths = np.random.default_rng(seed).integers(1, 50, rows).astype(np.int32)
    pieces = cut(batch, lengths, workers, accumulation)
    assert [len(rank) for rank in pieces] == [accumulation] * workers
    assert sorted(np.concatenate([m for rank in pieces for m in rank])) == sorted(batch)
    assert max(len(m) for rank in pieces for m in rank) <= micro


def test_the_order_depends_on_seed_and_epoch_alone():
    assert epoch_order(50, 0, 0).tolist() == epoch_order(50, 0, 0).tolist()
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 0, 1).tolist()
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 1, 0).tolist()


def test_micro_batches_hold_rows_of_similar_length():
    lengths = np.arange(64, dtype=np.int32)[::-1].copy()
    pieces = cut(np.arange(64), lengths, workers=2, accumulation=4)
    assert all(np.ptp(lengths[m]) == 7 for rank in pieces for m in rank)
