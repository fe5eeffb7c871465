"""One undisturbed sweep, made once for all test processes and compared with by many tests."""

import fcntl
import os

import pytest

from tests.end_to_end.launches import finish, start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Run directory and output of a sweep of `small.toml` that nothing disturbed. Only to be read: copy it to change it."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if parallel else base) / "small"
    folder.mkdir(exist_ok=True)
    out, text = folder / "undisturbed", folder / "undisturbed.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the process that comes first runs it, the others wait
        if not text.exists():
            text.write_text(finish(start(out, "--track", "tensorboard")))
    return out, text.read_text()
