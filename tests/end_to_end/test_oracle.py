"""The oracle of `bench.oracle` believes a sound training and none whose gamma is wrong."""

import os
import subprocess
import sys

import pytest

from bench.oracle import Bounds, judge
from tests.end_to_end.launches import SMALL, finish, start
from wlsweep.run.layout import RunDir
from wlsweep.spec.config import load_sweep

pytestmark = pytest.mark.slow
FEW_ROWS = Bounds(0.15, 0.2, 10)
GRID = """
[[grid]]
proportion = ["1/2"]
variant = ["baseline"]
gamma = [1.0]

[[grid]]
proportion = ["1/2"]
variant = ["accept", "reject"]
gamma = [8.0]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of one rank and micro-batches of two rows, one sound and three broken."""
    whole = tmp_path_factory.mktemp("oracle") / "sound"
    text = SMALL.read_text()
    text = text[: text.index("[[grid]]")] + GRID
    for old, new in (
        ("workers = 2", "workers = 1\ncpus_per_worker = 2"),
        ("micro_batch = 8", "micro_batch = 2"),
        ("test_rows = 80", "test_rows = 400\nwords = 16"),
        ("train_rows = 960", "train_rows = 480"),
        ("lr = 1.0e-3", "lr = 3.0e-3"),
    ):
        assert old in text
        text = text.replace(old, new)
    space = whole.with_name("oracle.toml")
    space.write_text(text)
    finish(start(whole, "--stage", "data", space=space))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone"]
    command += ["-m", "tests.end_to_end.mutants", str(whole), *(c.name for c in load_sweep(space).conditions)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return whole.parent


@pytest.mark.parametrize(
    ("how", "sound"),
    [
        ("sound", True),
        ("gamma ignored", False),
        ("gamma on the other class", False),
        ("normalised in the micro-batch", False),
    ],
)
def test_the_oracle_believes_a_sound_training_and_no_mutant(trained, how, sound):
    checks, table = judge(RunDir(trained / how), FEW_ROWS)
    (slope,) = [c for c in checks if c.claim == "observed on expected shift, slope"]
    assert slope.holds == sound, f"{slope.value}\n{table.to_string()}"
