"""A verdict that is false passes in few made worlds, and firmly in none (200 of each: `bench/false_passes.py`)."""

import pytest

from bench.false_passes import WORLDS, passes


@pytest.mark.parametrize("world", WORLDS)
def test_a_false_verdict_hardly_passes(world):
    found = passes(WORLDS[world], 25, papers=600, draws=150)
    assert set(found) == set(WORLDS[world].false)
    assert all(passed <= 0.12 and firm == 0.0 for passed, firm in found.values()), found
