"""The dashboard draws metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DASHBOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana" / "wlsweep.json").read_text())


def test_every_gauge_of_the_sweep_is_drawn_and_no_other():
    pytest.importorskip("ray")
    from wlsweep.orchestrate.trials import GAUGES

    drawn = set(re.findall(r"ray_wlsweep_(\w+)", json.dumps(DASHBOARD["panels"])))
    assert drawn == {*GAUGES, "conditions_done"}


def test_panels_do_not_overlap():
    cells = [
        (x, y)
        for p in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
