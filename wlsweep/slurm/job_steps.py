"""What the batch script asks Python for, on the first node of the allocation.

    python -m wlsweep.slurm.job_steps begin RUN     # attempt folder, token, ports; prints folder and head address
    python -m wlsweep.slurm.job_steps announce      # waits for all nodes, then tells the login node where the cluster is
    python -m wlsweep.slurm.job_steps linger        # waits for jobs that `ray job submit` brought

An address file is written whole, after the cluster is complete; it names the job, so that
a reader can ask SLURM for it.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from wlsweep.errors import WlsweepError
from wlsweep.run.layout import write_json

PORTS = 10
"""Ports of one cluster: consecutive, so that one number tells all."""
FIRST_PORT, LAST_PORT = 20_000, 30_000
"""Between Ray's usual worker ports and the range that the system hands out."""
FORM_S = 300.0
"""Longest wait for all nodes of a cluster: imports from a cold shared file system take minutes."""


class Ports(NamedTuple):
    """The ports of a cluster."""

    gcs: int
    dashboard: int
    agent: int
    client: int
    metrics: int


def head_of(env: Mapping[str, str]) -> tuple[str, Ports]:
    """Host and ports of the cluster at RAY_ADDRESS, which names the first of its block."""
    host, _, port = env["RAY_ADDRESS"].partition(":")
    return host, Ports(*range(int(port), int(port) + len(Ports._fields)))


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError:
            return False
    return True


def free_block(host: str, job: int) -> int:
    """First port of a block that is free on this machine, a different one for each of 1,000 consecutive jobs.

    Raises:
        WlsweepError: if no block is free.
    """
    blocks = (LAST_PORT - FIRST_PORT) // PORTS
    for i in range(blocks):
        base = FIRST_PORT + PORTS * ((job + i) % blocks)
        if all(_is_free(host, base + p) and _is_free("", base + p) for p in range(PORTS)):
            return base
    raise WlsweepError(f"{host}: no {PORTS} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def own_address(listen: str) -> str:
    """IP address under which the other nodes reach this one; loopback where the site says so.

    Names are resolved here, not by Ray, whose gRPC asks name servers even for what /etc/hosts holds.

    Raises:
        WlsweepError: if the host name leads to no address but loopback.
    """
    if listen == "loopback":
        return "127.0.0.1"
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    try:
        found = [str(a[4][0]) for a in socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)]
    except OSError:
        found = []
    outside = next((a for a in found if not a.startswith("127.")), None) or _route_address()
    if outside is None:
        raise WlsweepError(f"{name} resolves to {found or 'nothing'}: no address that other nodes could reach")
    return outside


def _route_address() -> str | None:
    """Source address of the default route; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(s.getsockname()[0])


def new_attempt(logs: Path) -> Path:
    """Make the next `attempt_N` folder and point `latest` to it; safe against other jobs that do the same."""
    logs.mkdir(parents=True, exist_ok=True)
    n = max((int(p.name[8:]) for p in logs.glob("attempt_*") if p.name[8:].isdigit()), default=-1) + 1
    while True:
        try:
            (logs / f"attempt_{n}").mkdir()
            break
        except FileExistsError:
            n += 1
    link = logs / f".latest-{secrets.token_hex(4)}"
    link.symlink_to(f"attempt_{n}")
    link.replace(logs / "latest")
    return logs / f"attempt_{n}"


def new_token(path: Path) -> None:
    """Write a fresh token, readable by its owner only, into a folder that is closed to others."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
        f.write(secrets.token_hex(32))


def begin(run: Path, env: Mapping[str, str]) -> tuple[Path, str]:
    """Prepare an attempt: its log folder, the cluster's token, its ports.

    Returns:
        The attempt's folder and the `host:port` of the head.
    """
    Path(env["WLSWEEP_ADDRESS_FILE"]).unlink(missing_ok=True)
    new_token(Path(env["RAY_AUTH_TOKEN_PATH"]))
    attempt = new_attempt(run / "logs")
    host = own_address(env["WLSWEEP_LISTEN"])
    base = free_block(host, int(env["SLURM_JOB_ID"]))
    kept = ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST")
    write_json(attempt / "job.json", {k.lower(): env[k] for k in kept if k in env} | {"began_at": _now()})
    return attempt, f"{host}:{base}"


def announce(env: Mapping[str, str]) -> None:
    """Wait until all nodes have joined, then write the address file.

    Raises:
        WlsweepError: if the cluster is not complete in time.
    """
    host, ports = head_of(env)
    nodes = int(env["WLSWEEP_NODES"])
    _wait_for_nodes(nodes, time.monotonic() + FORM_S)
    write_json(
        Path(env["WLSWEEP_ADDRESS_FILE"]),
        {
            "job": int(env["SLURM_JOB_ID"]),
            "array_task": int(env["SLURM_ARRAY_TASK_ID"]) if "SLURM_ARRAY_TASK_ID" in env else None,
            "restart": int(env.get("SLURM_RESTART_COUNT", "0")),
            "user": os.getuid(),
            "gcs": env["RAY_ADDRESS"],
            "dashboard": f"http://{host}:{ports.dashboard}",
            "metrics_port": ports.metrics,
            "token_path": env["RAY_AUTH_TOKEN_PATH"],
            "head": env.get("SLURMD_NODENAME") or socket.gethostname(),
            "listen": env["WLSWEEP_LISTEN"],
            "login": env.get("WLSWEEP_LOGIN"),
            "nodes": nodes,
            "attempt": env["WLSWEEP_ATTEMPT"],
            "since": _now(),
        },
    )


def _wait_for_nodes(wanted: int, end: float) -> None:
    import logging

    import ray

    found, cause = 0, "the head does not answer"
    while time.monotonic() < end:
        try:
            if not ray.is_initialized():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL)
            found = sum(bool(n["Alive"]) for n in ray.nodes())
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as e:
            cause = str(e)
        if found >= wanted:
            return
        time.sleep(0.5)
    why = "" if found else f": {cause}"
    raise WlsweepError(f"{found} of {wanted} nodes joined the Ray cluster within {FORM_S:.0f} s{why}")


def linger(env: Mapping[str, str]) -> None:
    """Wait until no Ray job that somebody submitted to this cluster is left to run."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    host, ports = head_of(env)
    client = JobSubmissionClient(f"http://{host}:{ports.dashboard}")
    while any(j.submission_id and j.status in (JobStatus.PENDING, JobStatus.RUNNING) for j in client.list_jobs()):
        time.sleep(2)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main(arguments: list[str]) -> int:
    """Entry point of the batch script."""
    try:
        match arguments:
            case ["begin", run]:
                attempt, address = begin(Path(run), os.environ)
                sys.stdout.write(f"{attempt}\n{address}\n")
            case ["announce"]:
                announce(os.environ)
            case ["linger"]:
                linger(os.environ)
            case _:
                raise WlsweepError(f"{arguments}: expected `begin RUN`, `announce` or `linger`")
    except WlsweepError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # Ray's threads need no orderly end
