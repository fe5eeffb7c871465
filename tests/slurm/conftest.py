"""One test cluster for all tests of this folder; they leave it as they found it."""

from __future__ import annotations

import pytest

from tests.slurm.lab import Lab, until, why_not


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


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test(request):
    """A test that fails leaves its job running; the next one finds an empty cluster all the same."""
    yield
    if "lab" in request.fixturenames:
        lab = request.getfixturevalue("lab")
        lab.on("login", "scancel", "--user=owner")
        until(lambda: not lab.on("login", "squeue", "-h", "-u", "owner").stdout.strip(), 60, "jobs outlive their test")
