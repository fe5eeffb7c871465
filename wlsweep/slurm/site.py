"""What one cluster site is like: a TOML file with everything that differs between sites, and nothing else does.

    site = load_site("gpu-4")

Values end up in a batch script, so each has a narrow pattern here and is quoted there: no value can add a line or a
command. `setup` alone is shell code, by its purpose; it is as trusted as the person who submits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from wlsweep.errors import WlsweepError, os_error_text
from wlsweep.files import parse_toml, read_file
from wlsweep.shipped import SITES, find_file
from wlsweep.spec.section import wrong_fields

_OURS = set(
    re.findall(
        r"[a-z-]+",
        "array chdir cpus-per-task dependency error exclusive export gres input job-name mem nodes ntasks "
        "ntasks-per-node no-requeue open-mode output partition account qos requeue signal time wrap get-user-env "
        "parsable test-only wait",
    )
)
SCRATCH_LENGTH = 30
"""Longest scratch path: the paths of Ray's sockets below it must stay within 107 characters."""


def refuse_control(value: str, what: str = "value") -> str:
    """The value itself.

    Raises:
        ValueError: if it holds a newline or another control character.
    """
    if any(not c.isprintable() for c in value):
        raise ValueError(f"{what} {value!r} holds a line break or another control character")
    return value


def _like(pattern: str, otherwise: str) -> AfterValidator:
    """A check that the whole value has this pattern."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r}: {otherwise}")
        return value

    return AfterValidator(check)


def _option(value: str) -> str:
    m = re.fullmatch(r"--([a-z][a-z-]*)(=[A-Za-z0-9_.,:@+/*&|()\[\]-]+)?", value)
    if not m:
        raise ValueError(f"{value!r}: write an sbatch option as --name or --name=value, without spaces and quotes")
    if m[1] in _OURS:
        raise ValueError(f"{value!r}: --{m[1]} is set from another key of the site or from the command line")
    return value


Line = Annotated[str, AfterValidator(refuse_control)]
Word = Annotated[
    str, _like(r"[A-Za-z0-9_][A-Za-z0-9_.,:@+-]*", "only letters, digits and _ . , : @ + - can stand here")
]
Folder = Annotated[Line, _like("/.*", "give an absolute path")]
Program = Annotated[Line, _like(r"(?!-).*\S.*", "give the name or path of a Python")]
Time = Annotated[
    str,
    _like(
        r"[0-9]{1,7}((:[0-9]{2}){0,2}|-[0-9]{1,2}(:[0-9]{2}){0,2})",
        "write a time as SLURM does: minutes, HH:MM:SS or D-HH:MM:SS",
    ),
]
Host = Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class Site(BaseModel):
    """One cluster, as its users see it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )

    partition: Word | None = None
    """SLURM partition; without it the site's default."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    gpus_per_node: int = Field(0, ge=0, le=1_000)
    """GPUs that one job may use on a node."""
    gres: Word = "gpu"
    """GRES name of the GPUs, with a type where the site has several: `gpu` or `gpu:a100`."""
    cpus_per_node: int = Field(ge=2, le=100_000)
    """CPU cores that one job may use on a node."""
    memory_gb: float = Field(ge=1, le=1_000_000)
    """Memory that one job may use on a node, in GiB."""
    time: Time
    """Time limit of one job; the sweep goes on in the next."""
    warning_s: int = Field(300, ge=10, le=65535)
    """Seconds before the time limit at which running conditions save their checkpoints."""
    write_mb_s: float | None = Field(None, ge=0.1, le=1e9)
    """MB/s at which one node writes to `shared`, for the check that `warning_s` suffices; without it it is measured when a
    job with large checkpoints is submitted."""
    setup: list[Line] = []
    """Shell lines before anything else: modules, `source .venv/bin/activate`, network settings."""
    prefix: list[Line] = []
    """Words before every Python command, such as a container: `["apptainer", "exec", "--nv", "/images/wl.sif"]`."""
    python: Program = "python"
    """Python that has wlsweep and its engines installed, after `setup` and within `prefix`."""
    shared: Folder
    """Directory that the login node and all compute nodes see under this name; runs must lie in it."""
    scratch: Folder = "/tmp"  # noqa: S108 - the job makes its own closed directory in it
    """Node-local directory for temporary files; the job removes what it puts there."""
    whole_nodes: bool = False
    """Whether jobs get whole nodes (`--exclusive`) instead of sharing them."""
    requeue: bool = True
    """Whether jobs may requeue themselves; where not, a job submits its continuation."""
    listen: Literal["loopback", "network"] = "loopback"
    """Where Ray and its dashboard listen: `loopback` limits a cluster to one node, reached by an SSH tunnel; `network`
    opens them to the site's network, behind the token."""
    login: Host | None = None
    """Login node as SSH knows it, for `wlsweep submit --tunnel`; without it the machine that this runs on."""
    sbatch: list[Annotated[str, AfterValidator(_option)]] = []
    """Further `#SBATCH` options, such as `--constraint=a100`."""

    @model_validator(mode="after")
    def _short_scratch(self) -> Self:
        if len(self.scratch) > SCRATCH_LENGTH:
            raise ValueError(
                f"scratch {self.scratch!r} has more than {SCRATCH_LENGTH} characters; Ray's sockets need a short path"
            )
        return self

    @model_validator(mode="after")
    def _warned_after_the_start(self) -> Self:
        if self.warning_s >= (limit := seconds_of(self.time)):
            raise ValueError(
                f"warning_s {self.warning_s} is not shorter than the time limit {self.time} ({limit} s): each job would be "
                "told to stop as it starts, and come back again and again"
            )
        return self


def seconds_of(time: str) -> int:
    """Seconds of a SLURM time limit: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS."""
    days, dash, rest = time.partition("-") if "-" in time else ("0", "", time)
    parts = [int(p) for p in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, minutes, seconds = parts if len(parts) == 3 else (0, parts[0], parts[1] if len(parts) == 2 else 0)
    return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds


def load_site(path: str | Path) -> Site:
    """Read a site file: a path, or the name of a shipped one.

    Raises:
        WlsweepError: naming the file and every wrong field at once.
    """
    path = find_file(SITES, path)
    try:
        raw = parse_toml(read_file(path))
    except OSError as e:
        raise WlsweepError(os_error_text(e, path)) from None
    except ValueError as e:
        raise WlsweepError(f"{path}: no readable TOML: {e}") from None
    try:
        return Site.model_validate(raw)
    except ValidationError as e:
        raise WlsweepError(f"{path} is no valid site:\n{wrong_fields(e, 'site')}") from None
