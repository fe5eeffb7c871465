"""One Ray node inside a SLURM step, from start to clean-up.

    srun python -m wlsweep.slurm.node

It runs `ray start --block` in a closed temporary directory and removes it afterwards. It never calls `ray stop`, which
would end every Ray process of the user on the machine, those of other jobs too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from wlsweep.slurm.job_steps import FORM_S, head_of

END_S = 3.0
"""How long Ray's processes may take to end after SIGTERM: SLURM sends SIGKILL soon, and files must be gone by then."""
HEAD_GONE_S = 10
"""After how many seconds without its head a node ends; Ray's own 60 would keep the job's nodes busy."""
JOB_STOP_S = 120
"""How long `ray job stop` waits for a sweep to save its conditions; Ray's own 3 s are too short for that."""


def ray_command(python: str, env: Mapping[str, str], head: bool, own_ip: str) -> list[str]:
    """The `ray start` call of this node.

    Every limit is explicit: without them each job would offer the whole machine. Worker ports are left to the system,
    so that two clusters on one machine do not fight for Ray's fixed range.
    """
    host, ports = head_of(env)
    mib = 1024 * 1024
    command = [python, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    if head:
        command += ["--head", f"--port={ports.gcs}", f"--dashboard-host={host}", f"--dashboard-port={ports.dashboard}"]
        command += [f"--ray-client-server-port={ports.client}", "--include-dashboard=true"]
    else:
        command += [f"--address={env['RAY_ADDRESS']}"]
    return [
        *command,
        f"--node-ip-address={own_ip}",
        f"--num-cpus={env['WLSWEEP_CPUS']}",
        f"--num-gpus={env['WLSWEEP_GPUS']}",
        f"--memory={int(env['WLSWEEP_HEAP_MB']) * mib}",
        f"--object-store-memory={int(env['WLSWEEP_STORE_MB']) * mib}",
        f"--temp-dir={env['WLSWEEP_SCRATCH']}/r",  # below a closed folder: Ray opens its own to all
        f"--dashboard-agent-listen-port={ports.agent}",
        f"--metrics-export-port={ports.metrics}",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]


def ray_environment(env: Mapping[str, str], head: bool) -> dict[str, str]:
    """The environment of `ray start` on this node."""
    found = {**env, "TMPDIR": env["WLSWEEP_SCRATCH"], "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_S)}
    found["RAY_process_group_cleanup_enabled"] = "true"  # what an engine started ends with it
    # Tries 2 s apart: a head on a slow machine listens long before it can be joined, and Ray's own 20 are too few then.
    found["RAY_NUM_REDIS_GET_RETRIES"] = str(int(FORM_S / 2))
    if not head:
        found["RAY_gcs_rpc_server_reconnect_timeout_s"] = str(HEAD_GONE_S)
    return found


def address_towards(host: str, port: int, end: float) -> str | None:
    """This machine's address on the way to the head, once the head listens; None if it does not in time."""
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, port), timeout=5) as s:
                return str(s.getsockname()[0])
        except OSError:
            time.sleep(0.5)
    return None


def main() -> int:
    """Run the node until it ends or is told to."""
    host, ports = head_of(os.environ)
    head = os.environ.get("SLURM_NODEID", "0") == "0"
    own_ip = host if head else address_towards(host, ports.gcs, time.monotonic() + FORM_S)
    if own_ip is None:
        sys.stderr.write(f"error: the head {host}:{ports.gcs} does not listen after {FORM_S:.0f} s\n")
        return 1
    if head:
        (Path(os.environ["WLSWEEP_ATTEMPT"]) / "step").write_text(os.environ["SLURM_STEP_ID"])
    scratch = Path(os.environ["WLSWEEP_SCRATCH"])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: told.set())
    ray = psutil.Popen(ray_command(sys.executable, os.environ, head, own_ip), env=ray_environment(os.environ, head))
    try:
        while ray.poll() is None and not told.wait(0.2):
            pass
    finally:
        end_tree(ray)
        shutil.rmtree(scratch, ignore_errors=True)
    return 0 if told.is_set() else ray.returncode or 1  # a node that ends by itself is a fault


def end_tree(process: psutil.Process) -> None:
    """End a process and all that it started: kindly, then, after `END_S`, by SIGKILL. By number, never by name."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [*process.children(recursive=True), process]
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(tree, END_S)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(tree, END_S)


if __name__ == "__main__":
    sys.exit(main())
