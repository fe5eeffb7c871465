"""What fits on a cluster is known before anything starts."""

import os

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.orchestrate.capacity import Capacity, capacity, local_cpus
from wlsweep.spec.config import load_sweep

ICLR = load_sweep("search_spaces/iclr19.toml")  # 4 GPUs and 4 x 4 CPUs a condition, 1 GPU an engine
DEMO = load_sweep("search_spaces/demo.toml")
NODE = {"CPU": 64.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([NODE], Capacity(1, 4)),
        ([NODE] * 3, Capacity(3, 12, late=4)),
        ([{"CPU": 64.0, "GPU": 2.0}] * 2, Capacity(1, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}] * 2, Capacity(1, 8, beside=3)),
        ([{"CPU": 64.0, "GPU": 6.0}], Capacity(1, 6, beside=2)),
        ([{"CPU": 64.0, "GPU": 3.0}] * 2, Capacity(1, 6, beside=2)),
    ],
)
def test_groups_and_engines_fill_the_gpus(nodes, expected):
    assert capacity(ICLR, nodes) == expected


def test_a_laptop_holds_one_group_and_one_engine():
    assert capacity(DEMO, [{"CPU": float(local_cpus(DEMO))}]) == Capacity(1, 1)


def test_a_machine_holds_the_groups_that_fit_and_an_engine_in_the_room_of_one_of_them(monkeypatch):
    def rooms(cores, workers, groups):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        sweep = DEMO.model_copy(update={"train": DEMO.train.model_copy(update={"workers": workers, "groups": groups})})
        return capacity(sweep, [{"CPU": float(local_cpus(sweep))}])

    assert rooms(2, 1, 2) == Capacity(2, 1, late=1)
    assert rooms(2, 2, 2) == Capacity(1, 1)
    assert rooms(4, 1, 8) == Capacity(3, 1)
    assert rooms(16, 1, 2) == Capacity(2, 1, beside=1, late=1)


@pytest.mark.parametrize(("cpus", "beside"), [([6], 1), ([5], 0), ([3, 3], 0), ([3, 3, 3], 1), ([4, 4, 4], 1)])
def test_an_engine_runs_beside_training_only_where_no_placement_leaves_either_waiting(cpus, beside):
    """Demo: two workers of one CPU, an engine of two on one node, one CPU for Tune and one for Ray Data."""
    assert capacity(DEMO, [{"CPU": float(n)} for n in cpus]) == Capacity(1, 1, beside)


@pytest.mark.parametrize(
    ("sweep", "nodes", "message"),
    [
        (ICLR, [{"CPU": 64.0, "GPU": 3.0}], "training needs 4 workers .* room is for 3"),
        (ICLR, [{"CPU": 64.0}], "a vLLM engine needs 2 CPUs and 1 GPUs"),
        (DEMO, [{"CPU": 2.0}], "needs one more for its own bookkeeping"),
        (DEMO, [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}], "engine needs 2 CPUs and 0 GPUs on one node"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_missing(sweep, nodes, message):
    with pytest.raises(WlsweepError, match=message):
        capacity(sweep, nodes)
