"""One test cluster for all tests of this folder; they leave it as they found it."""

from __future__ import annotations

import pytest

from tests.slurm.lab import Lab, why_not


@pytest.fixture(scope="session")
def lab():
    """Two nodes, each with six CPUs and two GPUs that do not exist."""
    if cause := why_not():
        pytest.skip(cause)
    made = Lab()
    try:
        yield made.up()
    finally:
        made.down()
