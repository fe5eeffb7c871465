import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wlsweep.data.split import (
    FEWEST_VALIDATION,
    limit_rows,
    limited_counts,
    refuse_shared,
    split_off_test,
    split_off_validation,
    validation_counts,
)
from wlsweep.errors import WlsweepError


@given(accepts=st.integers(2, 80), rejects=st.integers(2, 80), share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_the_split_takes_the_share_of_each_class_and_leaves_rows_on_both_sides(accepts, rejects, share, seed):
    accept = np.arange(accepts + rejects) < accepts
    test = split_off_test([f"r{i}" for i in range(len(accept))], accept, share, seed)
    for of_class, n in ((accept, accepts), (~accept, rejects)):
        taken = int(test[of_class].sum())
        assert 1 <= taken <= n - 1
        assert abs(taken - share * n) <= 1


@given(order=st.permutations(range(20)))
def test_the_split_does_not_depend_on_the_order_of_the_file(order):
    ids, accept = np.array([f"r{i}" for i in range(20)]), np.arange(20) % 2 == 0
    chosen = set(ids[split_off_test(ids.tolist(), accept, 0.3, 7)])
    assert set(ids[order][split_off_test(ids[order].tolist(), accept[order], 0.3, 7)]) == chosen


def test_a_split_that_leaves_nothing_is_refused():
    for share in (0.0, 1.0):
        with pytest.raises(WlsweepError, match="test_share"):
            split_off_test(["a", "b", "c", "d"], np.array([True, True, False, False]), share, 0)
    with pytest.raises(WlsweepError, match="1 accepts"):
        split_off_test(["a", "b", "c"], np.array([True, False, False]), 0.5, 0)


@given(accepts=st.integers(1, 500), rejects=st.integers(1, 500), limit=st.integers(2, 600))
def test_a_limit_keeps_the_proportion_and_both_classes(accepts, rejects, limit):
    a, r = limited_counts(accepts, rejects, limit)
    assert a + r == min(limit, accepts + rejects)
    assert 1 <= a <= accepts and 1 <= r <= rejects
    if min(a, r) > 1:
        assert abs(a - (a + r) * accepts / (accepts + rejects)) <= 0.5 + 1e-9


def test_a_larger_limit_keeps_what_a_smaller_one_kept():
    ids, accept = [f"r{i}" for i in range(100)], np.arange(100) < 30
    kept = [limit_rows(ids, accept, n, 0) for n in (10, 20, 50, 1000)]
    for few, many in itertools.pairwise(kept):
        assert not (few & ~many).any()
    assert [int(k.sum()) for k in kept] == [10, 20, 50, 100]
    assert int(kept[0][accept].sum()) == 3


def test_shared_ids_and_shared_texts_are_all_named():
    with pytest.raises(WlsweepError) as error:
        refuse_shared(
            {
                "train": ([("a", "1"), ("b", "2")], "a.json"),
                "test": ([("a", "9"), ("c", "2"), ("d", "4")], "b.json"),
            }
        )
    assert "id 'a' is in both" in str(error.value)
    assert "'c' of test (b.json) has the text of 'b' of train (a.json)" in str(error.value)
    assert "'d'" not in str(error.value)
    refuse_shared({"train": ([("a", "1")], "a.json"), "test": ([("b", "2")], "b.json")})


@given(accepts=st.integers(2, 60), rejects=st.integers(2, 60), share=st.floats(0.1, 0.9), seed=st.integers(0, 3))
def test_validation_takes_its_share_of_each_class_whatever_the_order_of_rows(accepts, rejects, share, seed):
    ids = [f"r{i}" for i in range(accepts + rejects)]
    accept = np.arange(len(ids)) < accepts
    assume(share * min(accepts, rejects) > FEWEST_VALIDATION and (1 - share) * min(accepts, rejects) > 1)
    marked = split_off_validation(ids, accept, share, seed)
    found = int(marked[accept].sum()), int(marked[~accept].sum())
    assert found == validation_counts(accepts, rejects, share)
    assert abs(found[0] - share * accepts) <= 0.5 + 1e-9 and abs(found[1] - share * rejects) <= 0.5 + 1e-9
    backwards = split_off_validation(ids[::-1], accept[::-1], share, seed)
    assert backwards.tolist() == marked[::-1].tolist()
    assert not split_off_validation(ids, accept, 0.0, seed).any()


def test_validation_papers_are_not_chosen_as_test_papers_are():
    ids, accept = [f"r{i}" for i in range(400)], np.arange(400) < 200
    both = split_off_validation(ids, accept, 0.5, 0) & split_off_test(ids, accept, 0.5, 0)
    assert 70 < both.sum() < 130  # about a quarter of the 400


@pytest.mark.parametrize(
    ("accepts", "rejects", "share", "said"),
    [
        (
            40,
            100,
            0.1,
            r"leaves 4 and 10 for validation, where at least 5 of each class are needed; raise it to 0\.12,",
        ),
        (6, 100, 0.5, "leaves 3 and 50 .*; give more rows"),
        (0, 100, 0.5, "leaves 0 and 50 .*; give more rows"),
    ],
)
def test_too_few_validation_rows_of_a_class_are_refused_with_the_share_that_would_do(accepts, rejects, share, said):
    with pytest.raises(WlsweepError, match=said):
        validation_counts(accepts, rejects, share)
    if "raise" in said:
        assert min(validation_counts(accepts, rejects, 0.12)) == FEWEST_VALIDATION
