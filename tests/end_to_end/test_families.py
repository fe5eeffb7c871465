"""Every family of docs/models.md is trained, exported and served: vLLM gives the trained model's own scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.families import FAMILIES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone"]
    for command in (
        [*launcher, "-m", "tests.end_to_end.families", "train"],
        ["-m", "tests.end_to_end.families", "serve"],
    ):
        done = subprocess.run([sys.executable, *command, str(folder)], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_serves_each_family_with_the_scores_of_the_trained_model(found, family):
    assert isinstance(found[family], float), found[family]
    assert found[family] < 1e-3


def test_every_family_is_in_the_documentation():
    table = Path("docs/models.md").read_text()
    assert all(f"| {family} |" in table for family in FAMILIES)
