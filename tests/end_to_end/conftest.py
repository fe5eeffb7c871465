"""One undisturbed sweep, made once for all test processes and compared with by many tests."""

import fcntl
import os

import pytest
from ray.cluster_utils import Cluster

from tests.end_to_end.launches import finish, start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Run directory and output of a sweep of `small.toml` that nothing disturbed. Only to be read: copy it to change it.

    It runs on a cluster that somebody else started, with room for an engine beside the training; all sweeps that are
    compared with it start a Ray of their own, which on two cores has none.
    """
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if parallel else base) / "small"
    folder.mkdir(exist_ok=True)
    out, text = folder / "undisturbed", folder / "undisturbed.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the process that comes first runs it, the others wait
        if not text.exists():
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 6, "include_dashboard": False})
            try:
                text.write_text(finish(start(out, "--track", "tensorboard", cluster=cluster.address)))
            finally:
                cluster.shutdown()
    return out, text.read_text()
