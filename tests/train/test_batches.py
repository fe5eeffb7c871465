"""Batches are pure functions, and no layout loses or repeats a row."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wlsweep.data.mix import MixCount, draw
from wlsweep.train.batches import (
    cut,
    global_batch_rows,
    order_keys,
    steps_per_epoch,
    stratified_order,
)

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
    assert global_batch_rows(0, 50, 50, 0).tolist() == global_batch_rows(0, 50, 50, 0).tolist()
    assert global_batch_rows(0, 50, 50, 0).tolist() != global_batch_rows(1, 50, 50, 0).tolist()
    assert global_batch_rows(0, 50, 50, 0).tolist() != global_batch_rows(0, 50, 50, 1).tolist()


def test_micro_batches_hold_rows_of_similar_length():
    lengths = np.arange(64, dtype=np.int32)[::-1].copy()
    pieces = cut(np.arange(64), lengths, workers=1, accumulation=8)
    assert all(np.ptp(lengths[m]) == 7 for rank in pieces for m in rank)


labels = st.lists(st.booleans(), min_size=1, max_size=120).map(np.array)


@given(accept=labels, seed=st.integers(0, 3), epoch=st.integers(0, 2))
def test_a_stratified_order_visits_every_row_once(accept, seed, epoch):
    order = stratified_order(order_keys([str(i) for i in range(len(accept))]), accept, seed, epoch)
    assert sorted(order) == list(range(len(accept)))


@given(accept=labels, size=st.integers(1, 40), seed=st.integers(0, 3))
def test_every_stretch_of_rows_holds_the_share_of_accepts_of_the_whole(accept, size, seed):
    order = stratified_order(order_keys([str(i) for i in range(len(accept))]), accept, seed, 0)
    for start in range(0, len(accept), size):
        batch = accept[order[start : start + size]]
        assert abs(batch.sum() - accept.mean() * len(batch)) <= 2


@given(accept=labels, seed=st.integers(0, 3), data=st.data())
def test_the_order_of_papers_does_not_depend_on_how_they_are_listed(accept, seed, data):
    ids = [f"paper-{i}" for i in range(len(accept))]
    listed = np.array(data.draw(st.permutations(range(len(accept)))))
    one = [ids[i] for i in stratified_order(order_keys(ids), accept, seed, 0)]
    other_ids = [ids[i] for i in listed]
    assert one == [other_ids[i] for i in stratified_order(order_keys(other_ids), accept[listed], seed, 0)]


def mix(k, rows=2000):
    """(ids, accept) of a mix of 1/k from balanced papers, as the data stage draws it."""
    ids = [[f"{label}-{i}" for i in range(rows // 2)] for label in ("accept", "reject")]
    drawn = draw(*ids, MixCount(rows // k, rows - rows // k, 0, 0), seed=0)
    listed = [r for r, times in drawn.items() for _ in range(times)]
    return listed, np.array([r.startswith("accept") for r in listed])


def test_papers_that_two_mixes_share_stand_at_the_same_fraction_of_the_epoch():
    def fractions(k, order):
        ids, accept = mix(k)
        keys = order_keys(ids)
        return {keys[i]: at / len(ids) for at, i in enumerate(order(keys, accept))}

    def apart(order):
        half, eighth = fractions(2, order), fractions(8, order)
        shared = half.keys() & eighth.keys()
        assert len(shared) > 1000
        return np.mean([abs(half[key] - eighth[key]) for key in shared])

    assert apart(lambda keys, accept: stratified_order(keys, accept, 1, 0)) < 0.02
    assert apart(lambda keys, accept: global_batch_rows(0, len(keys), len(keys), 1)) > 0.2, (
        "a shuffle of row numbers, for comparison"
    )


def test_repetitions_of_a_paper_have_places_of_their_own():
    ids, accept = mix(8)
    keys = order_keys(ids)
    assert len(set(keys.tolist())) == len(ids)
    order = stratified_order(keys, accept, 0, 0)
    place = np.empty(len(ids))
    place[order] = np.arange(len(ids)) / len(ids)
    repeated = [(a, b) for a, b in zip(range(len(ids) - 1), range(1, len(ids)), strict=True) if ids[a] == ids[b]]
    assert 0.25 < np.mean([abs(place[a] - place[b]) for a, b in repeated]) < 0.42, "1/3 for two independent places"


def test_another_seed_or_epoch_is_another_stratified_order():
    ids, accept = mix(3)
    keys = order_keys(ids)
    first = stratified_order(keys, accept, 0, 0)
    for seed, epoch in ((1, 0), (0, 1)):
        assert np.mean(stratified_order(keys, accept, seed, epoch) == first) < 0.02
