"""The judgement of a swap, on made scores: rounding of any usual size passes, another model does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsweep.predict.swap_check import judge

ROWS = 16
DTYPES = {"bfloat16": 0.1, "float32": 2e-4}
"""Usual rounding of the two, root mean square."""


def scores(seed, spread=2.0):
    return np.random.Generator(np.random.PCG64(seed)).normal(-3, spread, (ROWS, 2))


def rounded(own, size, seed=9):
    return own + np.random.Generator(np.random.PCG64([seed, 1])).normal(0, size, own.shape)


@pytest.mark.parametrize(("dtype", "size"), DTYPES.items())
@given(seed=st.integers(0, 10**6), times=st.floats(0.5, 2.5))
def test_a_sound_model_passes_whatever_the_rounding_does(dtype, size, seed, times):
    own, other = scores(1), scores(2)
    first = judge(rounded(own, size), own, None, None, dtype)
    assert first.wrong is None and first.error == pytest.approx(size, rel=0.5)
    swapped = judge(rounded(other, times * size, seed), other, rounded(own, size), first.error, dtype)
    assert swapped.wrong is None and swapped.way == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("dtype", "size"), DTYPES.items())
@given(seed=st.integers(0, 10**6), far=st.floats(5, 100))
def test_the_weights_of_the_model_before_are_found_out_also_after_other_rounding(dtype, size, seed, far):
    before = scores(1)
    own = before + far * size * np.sign(scores(seed))
    served = rounded(before, size, seed)
    assert judge(served, own, before, size, dtype).wrong is not None


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_that_did_not_move_by_a_bit_are_found_out_however_alike_the_models_are(dtype):
    before = scores(1)
    assert "to the last bit" in judge(before, before + 1e-6, before, DTYPES[dtype], dtype).wrong


def test_the_first_adapter_of_an_engine_is_found_out_where_it_is_hardly_applied():
    """Gamma 2 moves each log-probability by about ln(2)/2, less than rounding is granted before it was measured."""
    base = scores(1)
    own = base + 0.35 * np.array([1, -1])
    assert judge(base + 0.01 * (own - base), own, base, None, "bfloat16").wrong is not None
    assert judge(rounded(own, DTYPES["bfloat16"]), own, base, None, "bfloat16").wrong is None


def test_a_part_of_the_way_is_not_enough():
    before, own = scores(1), scores(1) + 0.45 * np.sign(scores(3))
    found = judge(rounded(before + 0.4 * (own - before), 0.05), own, before, 0.1, "bfloat16")
    assert found.error < found.limit and found.way < 0.5 and "of the way" in found.wrong


def test_what_is_not_a_number_is_refused():
    own = scores(1)
    served = own.copy()
    served[3, 0] = np.nan
    assert judge(served, own, None, None, "bfloat16").wrong is not None


def test_the_limit_of_a_first_model_is_wide_and_that_of_the_next_is_what_it_showed():
    own = scores(1)
    assert judge(own, own, None, None, "bfloat16").limit == 0.5
    assert judge(own, own, None, 0.1, "bfloat16").limit == pytest.approx(0.4)
    assert judge(own, own, None, 0.01, "bfloat16").limit == 0.15
    assert judge(own, own, None, 0.4, "bfloat16").limit == 0.5
    assert judge(own, own, None, 0.1, "bfloat16", limit=0.3).limit == 0.3
