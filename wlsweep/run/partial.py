"""What a step that failed or was killed leaves half-written, and its removal: 15 GB of `.model.tmp` keep a full disk full.

Everything that is written whole or not at all is first written under a hidden name that ends in `.tmp`. Such a name whose
owner is gone is garbage. It is removed where a step fails, and for whatever was killed when the next launch begins.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from wlsweep.run.layout import RunDir
from wlsweep.run.lease import hold

_BEING_WRITTEN_S = 10.0
"""Age from which a half-written account of usage, which takes milliseconds to write, is garbage."""
_SHARED_S = 24 * 3600.0
"""Age from which half-written parts of the cache, which other runs may be writing, are garbage."""


def remove_temporaries(folder: Path) -> list[Path]:
    """Remove the half-written files and folders in a folder and one level below it; returns what was removed."""
    return _remove(_temporaries(folder))


def remove_partial_artifacts(run: RunDir) -> list[Path]:
    """Remove what earlier launches of a run left half-written; what another launch writes right now stays.

    Parts of a condition, the data stage and the report are removed only under their lease, so they are nobody's. Returns
    what was removed. Never raises for what cannot be removed: the step that needs the room will say so.
    """
    removed: list[Path] = []
    predictions: dict[str, list[Path]] = {p.name: [] for p in _entries(run.condition("x").parent)}
    for path in run.predictions.glob(".condition=?*.*.tmp"):  # .condition=NAME.1a2b3c4d.tmp
        name = path.name.removeprefix(".condition=").removesuffix(".tmp").rpartition(".")[0]
        predictions.setdefault(name, []).append(path)
    for name, half_written in sorted(predictions.items()):
        removed += _remove_under(run.lease(name), _temporaries(run.condition(name)), half_written)
    removed += _remove_under(run.data_lease, _hidden(run.root), _temporaries(run.data))
    results = (run.metrics_json.parent, run.report.parent, run.root / "export", run.logs)
    removed += _remove_under(run.report_lease, *(_temporaries(folder) for folder in results))
    removed += remove_partial_accounts(run)
    return removed + _remove_older(_temporaries(run.cache), _SHARED_S)


def remove_partial_accounts(run: RunDir) -> list[Path]:
    """Remove half-written accounts of usage, which have no lease, unless they may be being written right now.

    The next launch may begin sooner than that after a kill, so it also does this when it ends.
    """
    return _remove_older(_hidden(run.usage), _BEING_WRITTEN_S)


def _remove_under(lease: Path, *found: Iterable[Path]) -> list[Path]:
    paths = [p for part in found for p in part if not p.name.startswith(f".{lease.name}.")]
    if not paths:
        return []
    with suppress(Exception), hold(lease, f"process {os.getpid()}, which removes what a killed launch left") as mine:
        return _remove(paths) if mine else []
    return []


def _remove(paths: Iterable[Path]) -> list[Path]:
    removed = []
    for path in paths:
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed.append(path)
    return removed


def _remove_older(paths: Iterable[Path], age_s: float) -> list[Path]:
    removed = []
    for path in paths:
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - age_s:
                removed += _remove([path])
    return removed


def _temporaries(folder: Path) -> list[Path]:
    """Hidden temporaries in a folder and in its subfolders."""
    inside = [p for p in _entries(folder) if not _is_temporary(p) and p.is_dir() and not p.is_symlink()]
    return [*_hidden(folder), *(p for sub in inside for p in _hidden(sub))]


def _hidden(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if _is_temporary(p)]


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
