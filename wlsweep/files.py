"""Opening and decoding files that others made. What is no file of bytes is refused before it is opened: opening a named
pipe that nobody writes to waits for ever, and a device may never end.

    data = read_file(Path("site.toml"))
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from io import BufferedReader
from pathlib import Path
from typing import Any

from wlsweep.errors import WlsweepError, os_error_text, short_path

JsonObject = dict[str, Any]
"""An object of JSON or TOML in which any value may stand: what was read and is not checked yet, or plain data on its way to
`json.dumps`. In between a record holds it."""
_NAMES = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def kind_of_special(path: Path) -> str | None:
    """What stands at a path where it is neither file nor folder: `a named pipe`, `a socket`, `a device`; else None.

    Raises:
        OSError: if nothing is there, or the system does not say.
    """
    return _NAMES.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116 - tests let os.stat fail


def refuse_special(path: Path) -> None:
    """Refuse what is neither file nor folder.

    Raises:
        OSError: ENOTSUP, saying what it is; or what the system says.
    """
    if found := kind_of_special(path):
        raise OSError(errno.ENOTSUP, f"it is {found}, not a file", str(path))


def refuse_no_file(path: Path, remedy: str) -> None:
    """Refuse what is there and no file; a path where nothing is passes.

    Raises:
        WlsweepError: saying what stands there.
    """
    try:
        found = "a folder" if path.is_dir() else kind_of_special(path)
    except FileNotFoundError:
        found = f"a link to {path.readlink()}, where nothing is" if path.is_symlink() else None
    except OSError as e:
        raise WlsweepError(os_error_text(e, path)) from None
    except ValueError:  # a zero byte
        found = None
    if found:
        raise WlsweepError(f"{short_path(path)} is {found}, not a file; {remedy}")


def open_file(path: Path) -> BufferedReader:
    """A file of bytes, opened for reading.

    Raises:
        OSError: if it cannot be opened, or is neither file nor folder.
    """
    refuse_special(path)
    return path.open("rb")


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: as `open_file` does.
    """
    with open_file(path) as f:
        return f.read()


def parse_toml(data: bytes) -> JsonObject:
    """TOML in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: for anything else, also where it is nested too deep.
    """
    try:
        return tomllib.loads(decoded(data))
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_json(data: bytes) -> Any:
    """JSON in UTF-8, with or without a byte order mark, as the standard has it: no NaN, and no key twice in one object.

    Raises:
        ValueError: for anything else, also where it is nested too deep.
    """
    try:
        return json.loads(decoded(data), object_pairs_hook=_no_key_twice, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def decoded(data: bytes) -> str:
    """UTF-8 as text, without a byte order mark.

    Raises:
        ValueError: for other encodings, naming those that can be told.
    """
    for start, name in ((b"\xff\xfe", "UTF-16 or UTF-32"), (b"\xfe\xff", "UTF-16 or UTF-32"), (b"\x1f\x8b", "gzip")):
        if data.startswith(start):
            raise ValueError(f"it is {name}; save it as plain UTF-8 text")
    return data.decode("utf-8-sig")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> JsonObject:
    found: JsonObject = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} occurs twice in one object")
        found[key] = value
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
