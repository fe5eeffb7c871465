"""The sweep's own metrics, beside Ray's: Prometheus scrapes them from every node, Grafana draws `cluster/grafana/`.

    ray_wlsweep_loss{sweep="iclr19", condition="accept_gamma2.0_prop1_2"} 0.61

Those of a condition are set in the process of its Tune trial, which lives as long as its worker group; the number of those
that are done in the driver's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ray.util.metrics import Gauge

GAUGES = {
    "loss": "weighted loss of the last logged steps",
    "tokens_per_s": "training speed over all ranks",
    "predicted_accept_rate": "share of training rows that the model would give the positive label",
    "step": "optimizer steps so far",
    "of": "optimizer steps in all",
}
"""Gauges of one condition: keys of its metric log, and what they mean."""


@lru_cache(maxsize=1)
def _gauges() -> tuple[dict[str, Any], Any]:
    each = {k: Gauge(f"wlsweep_{k}", text, tag_keys=("sweep", "condition")) for k, text in GAUGES.items()}
    return each, Gauge("wlsweep_conditions_done", "conditions that are trained", tag_keys=("sweep",))


def show_line(sweep: str, condition: str, line: Mapping[str, Any]) -> None:
    """Set a condition's gauges from a line of its metric log."""
    for key, gauge in _gauges()[0].items():
        if line.get(key) is not None:
            gauge.set(float(line[key]), tags={"sweep": sweep, "condition": condition})


def show_done(sweep: str, count: int) -> None:
    """Set how many conditions of a sweep are trained."""
    _gauges()[1].set(count, tags={"sweep": sweep})
