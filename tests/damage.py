"""Ways to damage a file, as disks, people and other programs do."""

from __future__ import annotations

import builtins
import errno
import io
import os
from pathlib import Path


def as_folder(path: Path) -> None:
    """A folder stands where the file was."""
    path.unlink(missing_ok=True)
    path.mkdir()


def unreadable(monkeypatch, *paths: Path) -> None:
    """Opening or listing any of the paths is refused; tests run as root, to whom permissions mean nothing."""
    refused = {str(p) for p in paths}
    plain_open, plain_listdir, plain_scandir = io.open, os.listdir, os.scandir

    def opened(file, *args, **kwargs):
        if str(file) in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return plain_open(file, *args, **kwargs)

    def listed(path="."):
        if str(path) in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain_listdir(path)

    def scanned(path="."):
        if str(path) in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain_scandir(path)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(os, "listdir", listed)
    monkeypatch.setattr(os, "scandir", scanned)
