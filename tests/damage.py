"""Ways to damage a file, as disks, people and other programs do; and a run of the command line inside this process."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BOM = b"\xef\xbb\xbf"


def as_folder(path: Path) -> None:
    """A folder stands where the file was."""
    path.unlink(missing_ok=True)
    path.mkdir()


def _of_wrong_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _of_wrong_types(v) for k, v in value.items()}
    if isinstance(value, list):
        return {"list": value[:1]}
    if isinstance(value, bool) or value is None:
        return "x"
    return 7 if isinstance(value, str) else str(value)


def _of_another(value: Any) -> Any:
    """The same form with other content: of another run, model or version."""
    if isinstance(value, dict):
        return {k: _of_another(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_of_another(v) for v in value]
    if isinstance(value, str):
        return f"another {value}"
    return value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else value


def wrong_types(path: Path) -> None:
    """Every value is of another type."""
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        pq.write_table(pa.table({n: [[str(v)] for v in table[n].to_pylist()] for n in table.column_names}), path)
    elif path.suffix in (".json", ".jsonl"):
        _each_json(path, _of_wrong_types)
    else:
        path.write_text("7")


def of_another_run(path: Path) -> None:
    """Well-formed, but of another run: other fingerprints, ids and numbers."""
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        columns = {n: [_of_another(v) for v in table[n].to_pylist()] for n in table.column_names}
        pq.write_table(pa.table(columns, schema=table.schema), path)
    elif path.suffix in (".json", ".jsonl"):
        _each_json(path, _of_another)
    else:
        path.write_text(f"another {path.read_text()[:1000]}")


def _each_json(path: Path, change: Any) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    path.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in lines))


def cut(path: Path) -> None:
    """Half of it is there."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


WAYS = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": cut,
    "last bytes lost": lambda p: p.write_bytes(p.read_bytes()[:-3]),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "garbage": lambda p: p.write_bytes(bytes(range(256)) * 3),
    "{}": lambda p: p.write_bytes(b"{}"),
    "[]": lambda p: p.write_bytes(b"[]"),
    "nested": lambda p: p.write_bytes(b"[" * 100_000),
    "wrong types": wrong_types,
    "of another run": of_another_run,
    "folder": as_folder,
    "missing": lambda p: p.unlink(),
    "BOM": lambda p: p.write_bytes(BOM + p.read_bytes()),
    "named pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "link to itself": lambda p: (p.unlink(), p.symlink_to(p.name)),
}


@contextlib.contextmanager
def unreadable(*paths: Path):
    """Opening or listing any of the paths is refused; tests run as root, to whom permissions mean nothing."""
    with failing({"open": errno.EACCES, "list": errno.EACCES}, lambda path: path in {str(p) for p in paths}):
        yield


@contextlib.contextmanager
def failing(errors: dict[str, int], concerns):
    """System calls fail with an error number where `concerns(path)`: `open`, `write`, `rename`, `mkdir`, `list`, `stat`."""
    plain = {
        (io, "open"): io.open, (builtins, "open"): builtins.open, (os, "open"): os.open, (os, "listdir"): os.listdir,
        (os, "scandir"): os.scandir, (os, "replace"): os.replace, (os, "rename"): os.rename, (os, "mkdir"): os.mkdir,
        (os, "stat"): os.stat,
    }  # fmt: skip
    calls = {
        "open": "open",
        "listdir": "list",
        "scandir": "list",
        "replace": "rename",
        "rename": "rename",
        "mkdir": "mkdir",
    }
    calls |= {"stat": "stat"}

    def wrap(name, call):
        def called(path=".", *args, **kwargs):
            kind = calls[name]
            text = str(path)
            if name == "open" and isinstance(path, str | os.PathLike) and concerns(text):
                mode = args[0] if args else kwargs.get("mode", "r")
                writes = mode & (os.O_WRONLY | os.O_RDWR) if isinstance(mode, int) else set(mode) & set("wax+")
                kind = "write" if writes else "open"
            if kind in errors and isinstance(path, str | os.PathLike) and concerns(text):
                raise OSError(errors[kind], os.strerror(errors[kind]), text)
            return call(path, *args, **kwargs)

        return called

    for (module, name), call in plain.items():
        setattr(module, name, wrap(name, call))
    try:
        yield
    finally:
        for (module, name), call in plain.items():
            setattr(module, name, call)


def wlsweep(*arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command, run in this process; anything but SystemExit is raised."""
    from wlsweep.command_line import main

    out, err, kept = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["wlsweep", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    finally:
        sys.argv = kept
    return code, out.getvalue(), err.getvalue()


SECONDS = 180
"""No command of the tests of odd inputs takes so long; one that does waits for something that never comes."""


@contextlib.contextmanager
def in_time(what):
    """An error where the block waits for ever, as it does on a pipe that nobody writes to."""

    def hangs(*_):
        raise AssertionError(f"{what} hangs")

    kept = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, kept)


def _socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(path.name)
    os.chdir(here)


PLACED = {
    "named pipe": os.mkfifo,
    "endless device": lambda p: p.symlink_to("/dev/zero"),
    "socket": _socket,
    "link to itself": lambda p: p.symlink_to(p.name),
    "link to nothing": lambda p: p.symlink_to("nowhere"),
    "folder": Path.mkdir,
}
"""What stands where a file should."""
CHANGED = {
    "empty": lambda b: b"",
    "UTF-16": lambda b: b.decode(errors="replace").encode("utf-16"),
    "UTF-32": lambda b: b.decode(errors="replace").encode("utf-32"),
    "latin-1": lambda b: b[:10] + b"\xe9" + b[10:],
    "zero bytes": lambda _: bytes(1000),
    "a zero byte": lambda b: b[:10] + b"\0" + b[10:],
    "nested lists": lambda _: b"[" * 100_000,
    "nested objects": lambda _: b'{"a":' * 50_000,
    "nested TOML": lambda _: b"a = " + b"[" * 50_000,
    "a number of 6,000 digits": lambda _: b'{"a": ' + b"1" * 6000 + b"}",
    "a key twice": lambda _: b'{"name": "a", "name": "b"}',
    "not a number": lambda _: b'{"name": NaN}',
    "null": lambda _: b"null",
    "a number": lambda _: b"7",
    "a text": lambda _: b'"x"',
    "white space": lambda _: b" \n" * 5000,
}
"""What is no search space, no site, no rows and no predictions."""


def odd_files(path, good):
    """Put each odd thing in the place of a file; yields its name."""
    for name, put in PLACED.items():
        _clear(path)
        put(path)
        yield name
    for name, change in CHANGED.items():
        _clear(path)
        path.write_bytes(change(good))
        yield name
    _clear(path)


def _clear(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


def fresh_copy(template: Path, to: Path) -> Path:
    """A copy with the same times, where the last copy stood."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(template, to)
    return to
