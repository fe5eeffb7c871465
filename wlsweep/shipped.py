"""Files that come with wlsweep, found by name wherever it is installed: search spaces, sites, lock files.

    >>> find_file(SEARCH_SPACES, "demo").name
    'demo.toml'

A checkout keeps them in its top-level folders, and an installed package beside this module: the build maps the one onto
the other (`setup.py`), so that there is one copy of each.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from wlsweep.errors import WlsweepError, short_path
from wlsweep.files import refuse_no_file

PACKAGE = Path(__file__).resolve().parent


class Kind(NamedTuple):
    """One kind of shipped files."""

    what: str
    in_package: str
    in_checkout: str

    @property
    def folder(self) -> Path:
        """Where they lie in this installation."""
        installed = PACKAGE / self.in_package
        return installed if installed.is_dir() else PACKAGE.parent / self.in_checkout

    @property
    def names(self) -> list[str]:
        """What `find_file` finds by name."""
        return sorted(path.stem for path in self.folder.glob("*.toml"))


SEARCH_SPACES = Kind("search space", "search_spaces", "search_spaces")
SITES = Kind("site file", "sites", "cluster/sites")
LOCKS = Kind("lock file", "locks", "locks")


def find_file(kind: Kind, name: str | Path) -> Path:
    """The file that a user means: a path, or the name of a shipped file with or without `.toml`.

    Raises:
        WlsweepError: if there is neither, or if `NAME` could be the shipped file or an edited copy in this folder.
    """
    path = Path(name)
    if _is_file(path):
        return path
    shipped = kind.folder / f"{path.name.removesuffix('.toml')}.toml"
    refuse_no_file(path, f"give the path of a {kind.what}")
    if path.name != str(name) or not _is_file(shipped):
        raise WlsweepError(
            f"{name}: no such {kind.what}; give the path of a file, or the name of a shipped one: {', '.join(kind.names)}"
        )
    here = Path(shipped.name)
    if _is_file(here) and not here.samefile(shipped):
        raise WlsweepError(
            f"{name} could be ./{here}, which lies in this folder, or the {kind.what} that comes with wlsweep: write "
            f"{here} for the file here, or rename it"
        )
    return shipped


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as e:  # a folder that may not be entered, a name that is too long, a zero byte
        said = getattr(e, "strerror", None) or str(e)
        raise WlsweepError(f"{short_path(path)} cannot be read: {said}; check the path") from None


def copy_here(name: str) -> Path:
    """Copy a shipped search space or site file into the working directory, to be edited; returns the copy.

    Raises:
        WlsweepError: if nothing of that name is shipped, or a file of that name is here.
    """
    kinds = [kind for kind in (SEARCH_SPACES, SITES) if name.removesuffix(".toml") in kind.names]
    if not kinds:
        known = "; ".join(f"{kind.what}s: {', '.join(kind.names)}" for kind in (SEARCH_SPACES, SITES))
        raise WlsweepError(f"{name}: nothing of that name comes with wlsweep ({known})")
    source = kinds[0].folder / f"{name.removesuffix('.toml')}.toml"
    target = Path(source.name)
    try:
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        raise WlsweepError(
            f"{target} exists already, and is left as it is; rename it or work in another folder"
        ) from None
    return target


def how_to_install() -> str:
    """The commands that install the engines in the versions that the shipped lock files name."""
    lines = []
    for machine, extra in (("on CPUs", "cpu"), ("on NVIDIA GPUs", "gpu")):
        lock = LOCKS.folder / f"{extra}.lock"
        torch = next(line for line in lock.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
        lines.append(f"  {machine}: pip install {torch} && pip install --no-deps -r {shlex.quote(str(lock))}")
    return "\n".join(lines)


def first_line(kind: Kind, name: str) -> str:
    """What a shipped file says of itself in its first line."""
    return (kind.folder / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
