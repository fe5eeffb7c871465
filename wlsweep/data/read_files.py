"""Files of objects, as a stream: JSON arrays, JSON Lines, CSV and TSV (plain, gzip or zstd), Parquet and Arrow.

    for number, value in read_objects(Path("papers.jsonl"), "rows"): ...

The content of a file, not its name, tells its format. What holds no rows is named: a Git LFS pointer, a web page, a zip.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from wlsweep.data.read_json import array_objects, first_line, line_objects
from wlsweep.data.read_tables import csv_names, csv_rows, delimiter_of, table_names, table_rows
from wlsweep.errors import WlsweepError, short_path
from wlsweep.files import open_file

Format = Literal["JSON", "JSON Lines", "CSV", "Parquet", "Arrow"]
FORMATS = "a JSON array, JSON Lines, CSV, Parquet or Arrow"
_START = 64 << 10  # bytes that tell a format: the first line of a CSV file must end in them
_UTF8_BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ARROW_STREAM = b"\xff\xff\xff\xff"
_OTHER_KINDS = {
    b"\xff\xfe": "is UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 or UTF-32; save it as UTF-8",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch it (git lfs pull)",
    b"<": "is a web page (HTML or XML), not the file itself: a link to a page about the file, or an answer that asks for a "
    "login, was saved; fetch the file itself (hf download --repo-type dataset, or the page's raw link)",
    b"PK\x03\x04": "is a zip archive or an Excel workbook; unpack it (unzip), or save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook; save the sheet as CSV (UTF-8)",
    b"BZh": "is bzip2-compressed; unpack it (bunzip2)",
    b"\xfd7zXZ": "is xz-compressed; unpack it (unxz)",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"%PDF": "is a PDF",
    b"SQLite format 3": "is an SQLite database; export the table as CSV",
    b"\x80\x04\x95": "is a Python pickle, which can run code when it is read; save the rows as JSON Lines or Parquet",
    b"\x93NUMPY": "is a NumPy array; save the rows as JSON Lines or Parquet",
    b"\x89HDF": "is an HDF5 file; save the rows as JSON Lines or Parquet",
    b"Obj\x01": "is an Avro file; save the rows as Parquet",
    b"ORC": "is an ORC file; save the rows as Parquet",
}


def read_objects(path: Path, expected: str, columns: Sequence[str] = ()) -> Iterator[tuple[int, object]]:
    """(number from 1, decoded object or the `BadObjectError` that says why it cannot be decoded).

    Args:
        path: the file.
        expected: what it should hold, for messages.
        columns: of a Parquet or Arrow file: those that are read; all where none is named.

    Raises:
        WlsweepError: if the file is missing, unreadable or of no known format.
    """
    kind, _ = format_of(path, expected)
    if kind in ("Parquet", "Arrow"):
        yield from table_rows(path, kind, columns)
    elif kind is not None:
        with _unpacked(path) as f:
            if kind == "CSV":
                yield from csv_rows(f)
            else:
                if f.peek(3).startswith(_UTF8_BOM):
                    f.read(3)
                yield from array_objects(f) if kind == "JSON" else line_objects(f)


def column_names(path: Path) -> list[str]:
    """Column names of a Parquet, Arrow or CSV file; empty for any other file and for one that cannot be read."""
    try:
        kind, _ = format_of(path, "rows")
        if kind == "CSV":
            with _unpacked(path) as f:
                return csv_names(f)
    except WlsweepError:
        return []
    return table_names(path, kind) if kind in ("Parquet", "Arrow") else []


def format_of(path: Path, expected: str = "rows") -> tuple[Format | None, str]:
    """(format, or None where there is nothing but white space; how it is packed: `gzip`, `zstd` or nothing).

    Raises:
        WlsweepError: if the file is missing, unreadable, empty or of no known format.
    """
    with _unpacked(path) as f:
        start = f.read(_START)
        packing = _packing(path)
    if not start:
        raise WlsweepError(f"{path} is empty ({packing or '0 bytes'}): it holds no rows; fetch or make it again")
    if start[:4] == b"PAR1" or start[:6] == b"ARROW1" or start[:4] == _ARROW_STREAM:
        if packing:
            raise WlsweepError(
                f"{path} is a {packing} file around Parquet or Arrow, which pack by themselves; unpack it"
            )
        return ("Parquet" if start[:4] == b"PAR1" else "Arrow"), ""
    for magic, what in _OTHER_KINDS.items():
        if start.removeprefix(_UTF8_BOM).lstrip().startswith(magic):
            raise WlsweepError(f"{path} {what}")
    if start[257:262] == b"ustar":
        raise WlsweepError(f"{path} is a tar archive; unpack it (tar xf)")
    first = start.removeprefix(_UTF8_BOM).lstrip()[:1]
    if first == b"[":
        return "JSON", packing
    if first == b"{":
        return "JSON Lines", packing
    if first and delimiter_of(start):
        return "CSV", packing
    if first:
        raise WlsweepError(f"{path} starts with {first!r}; expected {expected} as {FORMATS}")
    if len(start) == _START:
        raise WlsweepError(f"{path} starts with {_START >> 10} kB of white space; expected {expected}")
    return None, packing


def _packing(path: Path) -> str:
    with open_file(path) as f:
        magic = f.read(4)
    return "gzip" if magic[:2] == _GZIP else "zstd" if magic == _ZSTD else ""


@contextmanager
def _unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """A file from its first byte on, unpacked; an error while it is read is one of this file.

    Raises:
        WlsweepError: if it is missing or cannot be read or unpacked.
    """
    packing = ""
    try:
        packing = _packing(path)
        with open_file(path) as f:
            if packing == "gzip":
                yield cast(io.BufferedReader, gzip.GzipFile(fileobj=f))
            elif packing == "zstd":
                import pyarrow as pa

                yield io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(f, "zstd")), 1 << 20)
            else:
                yield f
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise WlsweepError(f"{path} is no whole gzip file ({first_line(e)}); fetch or make it again") from None
    except OSError as e:
        if packing == "zstd" and e.errno is None:  # pyarrow's for what it cannot unpack
            raise WlsweepError(f"{path} is no whole zstd file ({first_line(e)}); fetch or make it again") from None
        raise WlsweepError(
            f"{short_path(path)} cannot be read: {e.strerror or e}; check the path given with --data"
        ) from None
