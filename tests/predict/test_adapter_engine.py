"""One real vLLM engine gives each adapter's own scores, however rows are mixed, and no wrong adapter gets by."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.train.made_rows import make_adapter, make_base

pytestmark = pytest.mark.slow
ADAPTERS = 3


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    base = make_base(folder / "base")
    adapters = [make_adapter(base, folder / f"condition{i}" / "model", seed=i) for i in range(ADAPTERS)]
    out = folder / "found.json"
    command = [sys.executable, "-m", "tests.predict.adapters", *map(str, (base, out, *adapters))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def labels(scored):
    return np.array([[row[1:] for row in rows] for rows in scored])


@pytest.mark.parametrize("how", ["mixed", "mixed again, from cached prefixes", "one by one"])
def test_label_scores_are_pefts_own_however_rows_were_batched(found, how):
    assert found["sound"] == [None] * ADAPTERS
    expected = np.array(found["expected"])
    assert np.abs(labels(found[how]) - expected).max() < 1e-4
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_batching_moves_scores_by_float32_rounding_and_changes_no_text(found):
    alone, mixed = (labels(found[how]) for how in ("one by one", "mixed"))
    assert np.abs(alone - mixed).max() < 1e-5
    texts = [[[row[0] for row in rows] for rows in found[how]] for how in ("one by one", "mixed")]
    assert texts[0] == texts[1]


def test_rows_without_an_adapter_get_none_where_a_batch_holds_both(found):
    alone, beside = map(np.array, found["base beside an adapter"])
    assert np.abs(alone - beside).max() < 1e-5
    assert np.abs(alone - np.array(found["expected"][0])).max() > 0.05


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("another adapter's scores", "nothing was predicted"),
        ("another adapter's file", "and training left"),
        ("another base", "an adapter works on its own base alone"),
        ("no adapter applied", "what the base gives"),
    ],
)
def test_a_wrong_or_missing_adapter_is_found_out(found, fault, message):
    assert message in (found[fault] or "")
