"""Which files hold the rows of a set: one file, the shards of a set, or a folder that `datasets.save_to_disk` wrote.

row_files(Path("papers/train-*.parquet")).files
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wlsweep.errors import WlsweepError, refuse_all, short_path
from wlsweep.files import open_file, parse_json, read_file, refuse_no_file
from wlsweep.run.data_record import FileState
from wlsweep.spec.data_section import Columns

_TEXT = ("json", "jsonl", "ndjson", "csv", "tsv")
ENDINGS = (*(f"{e}{packed}" for e in _TEXT for packed in ("", ".gz", ".zst")), "parquet", "arrow")
"""Of files that are found by name in a folder."""
_SHARD = re.compile(r"(?P<set>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<ending>[a-z.]+)")
_SAVED_SPLITS, _SAVED = "dataset_dict.json", "state.json"


class RowFiles(NamedTuple):
    """One set of rows, and how it is read."""

    path: Path
    """What users know it by: the file, `train-*-of-00002.parquet`, or the folder."""
    files: tuple[Path, ...]
    """In the order of their rows."""
    columns: Columns | None = None
    """Which columns hold what, where rows are no chats."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """What users know it by, without the folder."""
        return self.path.name

    def content_key(self, sha256: str) -> str:
        """What decides the rows: the sha256 of the files, and the columns where any are named."""
        if self.columns is None:
            return sha256
        return hashlib.sha256(f"{sha256} {self.columns.model_dump_json()}".encode()).hexdigest()


def as_files(source: RowFiles | Path) -> RowFiles:
    """A single file as a set."""
    return source if isinstance(source, RowFiles) else RowFiles(source, (source,))


def row_files(path: Path, columns: Columns | None = None) -> RowFiles:
    """The files of a set that is given as a file, as shards with a `*`, or as a folder of `datasets.save_to_disk`.

    Raises:
        WlsweepError: if there are none, shards are missing, or one shard of several is given.
    """
    if is_file(path):
        if (m := _SHARD.fullmatch(path.name)) and int(m["count"]) > 1:
            raise WlsweepError(
                f"{path} is one of {int(m['count'])} shards; give them all as {path.parent}/{m['set']}-*-of-{m['count']}."
                f"{m['ending']} (in quotes), or their folder; to use this one alone, rename it"
            )
        return RowFiles(path, (path,), columns)
    if "*" in path.name:
        return _shards(path, columns)
    if path.is_dir() and (path / _SAVED).is_file():
        return RowFiles(path, _saved_files(path), columns)
    refuse_no_file(path, "check --data and [data]")
    raise WlsweepError(f"{short_path(path)}: no such file; check --data and [data]")


def sets_in(folder: Path, columns: Columns | None = None) -> tuple[RowFiles, RowFiles | None]:
    """(training set, test set or None) of a folder: `train.*` and `test.*`, their shards, or what `save_to_disk` wrote.

    Shards may lie in a folder `data`, as in a data set's repository on the hub.

    Raises:
        WlsweepError: if there is no training set, there are two, shards are missing, or a file beside them looks like a set
            of its own.
    """
    if (folder / _SAVED_SPLITS).is_file():
        return _saved_splits(folder, columns)
    if (folder / _SAVED).is_file():
        return RowFiles(folder, _saved_files(folder), columns), None
    train = _named(folder, "train", columns)
    if train is None and (folder / "data").is_dir() and _named(folder / "data", "train", columns) is not None:
        return sets_in(folder / "data", columns)
    if train is None:
        raise WlsweepError(
            f"{folder} holds no train.json, train.jsonl, train.csv or train.parquet (shards are named "
            "train-00000-of-00002.parquet, ...)"
        )
    return train, _named(folder, "test", columns)


def state_of(source: RowFiles, earlier: FileState | None = None) -> FileState:
    """Size, time and sha256 of a set; a file is not read again if its size and time are as they were.

    The sha256 of several files is that of their sha256 in their order.
    """
    if source.files == (source.path,):
        return _file_state(source.path, earlier)
    known = earlier.parts if earlier else []
    parts = [_file_state(f, known[n] if n < len(known) else None) for n, f in enumerate(source.files)]
    return FileState(
        path=str(source.path.resolve()),
        size=sum(part.size for part in parts),
        mtime_ns=max(part.mtime_ns for part in parts),
        sha256=hashlib.sha256(" ".join(part.sha256 for part in parts).encode()).hexdigest(),
        parts=parts,
    )


def recorded_files(state: FileState, columns: Columns | None) -> RowFiles:
    """The set of which `state_of` was recorded."""
    path = Path(state.path)
    return RowFiles(path, tuple(Path(part.path) for part in state.parts) or (path,), columns)


def is_file(path: Path) -> bool:
    """Whether a path is a file.

    Raises:
        WlsweepError: if the path cannot be asked.
    """
    try:
        return path.is_file()
    except (OSError, ValueError) as e:  # a name that is too long, a folder that may not be entered, a zero byte
        raise WlsweepError(
            f"{short_path(path)} cannot be read: {getattr(e, 'strerror', None) or e}; check --data"
        ) from None


def _file_state(path: Path, earlier: FileState | None) -> FileState:
    stat = path.stat()
    if earlier and (stat.st_size, stat.st_mtime_ns) == (earlier.size, earlier.mtime_ns):
        return earlier.model_copy(update={"path": str(path.resolve())})
    with open_file(path) as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    return FileState(path=str(path.resolve()), size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256)


def _named(folder: Path, name: str, columns: Columns | None) -> RowFiles | None:
    """The one set of a name in a folder: a file, or shards."""
    files = [f for e in ENDINGS if (f := folder / f"{name}.{e}").is_file()]
    found = [RowFiles(f, (f,), columns) for f in files]
    shards = [m for f in folder.glob(f"{name}-*") if (m := _SHARD.fullmatch(f.name)) and m["set"] == name]
    patterns = {f"{name}-*-of-{m['count']}.{m['ending']}" for m in shards if m["ending"] in ENDINGS}
    found += [_shards(folder / pattern, columns) for pattern in sorted(patterns)]
    if len(found) > 1:
        raise WlsweepError(f"{folder} holds {' and '.join(f.path.name for f in found)}; keep one of them")
    for ending in ENDINGS:
        refuse_no_file(folder / f"{name}.{ending}", "put a file in its place, or take it away")
    return found[0] if found else None


def _shards(pattern: Path, columns: Columns | None) -> RowFiles:
    """All shards of one set.

    Raises:
        WlsweepError: if files are no shards of one set, or some are missing.
    """
    files = sorted(f for f in pattern.parent.glob(pattern.name) if f.is_file())
    if not files:
        raise WlsweepError(f"{short_path(pattern)}: no such files; check --data and [data]")
    parts = [_SHARD.fullmatch(f.name) for f in files]
    sets = {(m["set"], m["count"], m["ending"]) if m else (f.name, "", "") for f, m in zip(files, parts, strict=True)}
    if len(sets) > 1 or None in parts:
        names = ", ".join(f.name for f in files[:4]) + (", ..." if len(files) > 4 else "")
        raise WlsweepError(
            f"{pattern} matches {names}, which are no shards of one set (train-00000-of-00002.parquet, "
            "train-00001-of-00002.parquet); give one file, or a folder with train.* and test.*"
        )
    ((name, count, ending),) = sets
    wanted = [pattern.parent / f"{name}-{n:05d}-of-{count}.{ending}" for n in range(int(count))]
    _refuse_missing(pattern.parent, [f for f in wanted if f not in files], int(count))
    if surplus := [f.name for f in files if f not in wanted]:
        raise WlsweepError(f"{pattern.parent} holds {surplus[0]}, a shard beyond the {int(count)} of its own name")
    return RowFiles(pattern.parent / f"{name}-*-of-{count}.{ending}", tuple(wanted), columns)


def _refuse_missing(folder: Path, missing: Sequence[Path], count: int) -> None:
    refuse_all(
        f"{folder} lacks {len(missing)} of {count} shards; fetch them, or write the set again:",
        [f.name for f in missing],
    )


def _saved_splits(folder: Path, columns: Columns | None) -> tuple[RowFiles, RowFiles | None]:
    """What `DatasetDict.save_to_disk` wrote."""
    named = _saved_json(folder / _SAVED_SPLITS).get("splits")
    splits = [str(name) for name in named] if isinstance(named, list) else []
    if "train" not in splits:
        raise WlsweepError(
            f"{folder} was written by datasets.save_to_disk with the splits {', '.join(splits) or 'none'}; one must be "
            "called train (or give the folder of one split)"
        )
    others = [name for name in splits if name not in ("train", "test")]
    if others and "test" not in splits:
        raise WlsweepError(
            f"{folder} holds the split {', '.join(others)}, which would not be read, and no test split; rename it to test, "
            "or give the folder of the training split"
        )
    train, *test = (RowFiles(folder / n, _saved_files(folder / n), columns) for n in ("train", "test") if n in splits)
    return train, test[0] if test else None


def _saved_files(folder: Path) -> tuple[Path, ...]:
    """The Arrow files of what `Dataset.save_to_disk` wrote, in order."""
    state = _saved_json(folder / _SAVED)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise WlsweepError(
            f"{folder} holds a selection of rows (indices); call flatten_indices() before save_to_disk, so that its files "
            "hold the rows themselves"
        )
    entries = state.get("_data_files")
    named = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    files = tuple(folder / name for name in named if isinstance(name, str))
    if not files:
        raise WlsweepError(f"{folder / _SAVED} names no data files; save the data set again (datasets.save_to_disk)")
    _refuse_missing(folder, [f for f in files if not f.is_file()], len(files))
    return files


def _saved_json(path: Path) -> dict[str, object]:
    try:
        found = parse_json(read_file(path))
    except (OSError, ValueError) as e:
        raise WlsweepError(f"{path} cannot be read: {e}; save the data set again (datasets.save_to_disk)") from None
    if not isinstance(found, dict):
        raise WlsweepError(f"{path} holds no object; save the data set again (datasets.save_to_disk)")
    return found
