"""What whole sweeps share, made once for all test processes: a base model, and a sweep that many tests compare with."""

import fcntl
import os

import pytest
from ray.cluster_utils import Cluster

from tests.end_to_end.launches import finish, start


def once(folder, name, make):
    """A text that `make` returns; the process that comes first calls it, the others wait."""
    text = folder / f"{name}.txt"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not text.exists():
            text.write_text(make())
    return text.read_text()


@pytest.fixture(scope="session")
def together(tmp_path_factory):
    """Folder of the run directories of sweeps with the base model of `small.toml`, which runs there find in the cache."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small"
    folder.mkdir(exist_ok=True)
    once(folder, "base", lambda: finish(start(folder / "base", "--stage", "data")))
    return folder


@pytest.fixture(scope="session")
def undisturbed(together):
    """Run directory and output of a sweep of `small.toml` that nothing disturbed. Only to be read: copy it to change it.

    It runs on a cluster that somebody else started, with room for an engine beside the training; all sweeps that are
    compared with it start a Ray of their own, which on two cores has none.
    """
    out = together / "undisturbed"

    def sweep():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 6, "include_dashboard": False})
        try:
            return finish(start(out, "--track", "tensorboard", cluster=cluster.address))
        finally:
            cluster.shutdown()

    return out, once(together, "undisturbed", sweep)
