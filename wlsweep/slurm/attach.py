"""Find the running cluster of a run from the login node, and say how to reach it.

An address file outlives a killed job, so SLURM is asked whether its job runs, in the attempt that wrote it.
"""

from __future__ import annotations

import getpass
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

from wlsweep.errors import WlsweepError
from wlsweep.run.layout import read_json


def slurm(*command: str) -> str:
    """Standard output of a SLURM command.

    Raises:
        WlsweepError: if it is missing or fails, with what it said.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise WlsweepError(f"{command[0]} is not to be found: run this on a login node of the cluster") from None
    except subprocess.CalledProcessError as e:
        raise WlsweepError(f"{shlex.join(command)} failed: {(e.stderr or e.stdout).strip()}") from None


def running_restart(job: int) -> int | None:
    """How often a running job was restarted, or None if it does not run (any more)."""
    try:
        lines = slurm("squeue", "--noheader", f"--jobs={job}", "--Format=State:20,RestartCnt:12").splitlines()
    except WlsweepError as e:
        if "Invalid job id" in str(e):
            return None
        raise
    for line in lines:
        state, _, restarts = line.strip().partition(" ")
        if state == "RUNNING":
            return int(restarts)
    return None


def find_cluster(run: Path) -> dict[str, Any]:
    """The newest cluster of a run that SLURM confirms.

    Raises:
        WlsweepError: if there is none.
    """
    files = sorted((run / "slurm").glob("cluster-*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    stale = []
    for path in files:
        found: dict[str, Any] = read_json(path)
        if running_restart(found["job"]) == found["restart"]:
            return found
        stale.append(str(found["job"]))
    was = f" (no longer running: job {', '.join(stale)})" if stale else ""
    raise WlsweepError(
        f"{run}: no running cluster{was}. See squeue --me; a cluster that starts is announced within a minute or two"
    )


def environment_line(cluster: dict[str, Any]) -> str:
    """What a shell needs to talk to the cluster; names the token's file, never the token."""
    return f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(cluster['token_path'])}"


def tunnel_line(cluster: dict[str, Any]) -> str:
    """The `ssh` call, to be made on a user's own machine, that brings the dashboard to http://127.0.0.1:8265."""
    login = cluster["login"] or socket.getfqdn()
    if "@" not in login:
        login = f"{getpass.getuser()}@{login}"
    host, _, port = cluster["dashboard"].removeprefix("http://").partition(":")
    if cluster["listen"] == "network":
        return shlex.join(["ssh", "-N", "-L", f"127.0.0.1:8265:{host}:{port}", login])
    user = login.partition("@")[0]
    return shlex.join(["ssh", "-N", "-L", f"127.0.0.1:8265:127.0.0.1:{port}", "-J", login, f"{user}@{cluster['head']}"])
