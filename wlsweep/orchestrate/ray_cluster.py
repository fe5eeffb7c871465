"""The Ray cluster: join the one that the environment names, or start a local one."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from wlsweep.orchestrate.capacity import local_cpus
from wlsweep.spec.config import Sweep

_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker is noticed, and a report taken
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a group; a worker that is lost resumes from its checkpoint
    # A group that finds no room yet (another sweep's, or a lost node's) waits; else each of its conditions would fail.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(14 * 24 * 3600),
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_usage_stats_enabled": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the sweep has its own metric log
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def connect(sweep: Sweep) -> None:
    """Join the Ray cluster of RAY_ADDRESS (set inside `ray job submit`), or start one on this machine."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        # The cluster's processes were started by others: what must hold in them travels with the job.
        ray.init(runtime_env={"env_vars": _SETTINGS}, **quiet)
    else:
        # Below, a raylet warns the terminal of more than four processes a CPU; a sweep has a dozen, most of them idle.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(16, os.cpu_count() or 1)))
        ray.init(address="local", num_cpus=local_cpus(sweep), include_dashboard=False, **quiet)
    for name in ("ray.tune", "ray.train", "ray.data", "ray.air"):
        logging.getLogger(name).setLevel(logging.ERROR)


def local_nodes(sweep: Sweep) -> list[dict[str, float]]:
    """What a local cluster will have, before it is started."""
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:  # which Ray obeys
        gpus = min(gpus, len([g for g in visible.split(",") if g.strip() not in ("", "-1")]))
    return [{"CPU": float(local_cpus(sweep)), "GPU": float(gpus)}]


def cluster_nodes() -> list[dict[str, float]]:
    """Resources of each living node of the cluster that this process is connected to."""
    import ray

    return [n["Resources"] for n in ray.nodes() if n["Alive"]]
