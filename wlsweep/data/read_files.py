"""Files of objects, as a stream: JSON arrays, JSON Lines, CSV and TSV (plain, gzip or zstd), Parquet and Arrow.

    for number, value in read_objects(Path("papers.jsonl"), "rows"): ...

The content of a file, not its name, tells its format. What holds no rows is named: a Git LFS pointer, a web page, a zip.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from wlsweep.data.read_json import LONGEST, BadObjectError, array_objects, first_line, line_objects
from wlsweep.errors import WlsweepError, short_path
from wlsweep.files import open_file

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["JSON", "JSON Lines", "CSV", "Parquet", "Arrow"]
FORMATS = "a JSON array, JSON Lines, CSV, Parquet or Arrow"
_START = 64 << 10  # bytes that tell a format: the first line of a CSV file must end in them
_AT_A_TIME = 16  # rows of a Parquet or Arrow file in memory: 16 rows of 10 MB still fit anywhere
_DELIMITERS = ",\t;"
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
        yield from _table_rows(path, kind, columns)
    elif kind is not None:
        with _unpacked(path) as f:
            if kind == "CSV":
                yield from _csv_rows(f)
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
                return _csv_names(f)
    except WlsweepError:
        return []
    return _table_names(path, kind) if kind in ("Parquet", "Arrow") else []


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
    if first and _delimiter_of(start):
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


def _delimiter_of(start: bytes) -> str | None:
    """What separates the columns of a CSV file: the comma, tab or semicolon that its header has most of; None without one.

    Args:
        start: of the file, at least its header.
    """
    try:
        header = next(iter(start.decode("utf-8-sig", errors="ignore").lstrip().splitlines()))
    except StopIteration:
        return None
    if not header.isprintable() and not header.replace("\t", "").isprintable():
        return None
    fields = {sign: len(next(csv.reader([header], delimiter=sign), ())) for sign in _DELIMITERS}
    best = max(fields, key=fields.__getitem__)
    return best if fields[best] > 1 else None


def _csv_rows(f: BinaryIO) -> Iterator[tuple[int, object]]:
    """(number of the row from 1, without the header; its cells as text by column name, or why there are none)."""
    number = 0
    try:
        reader, names = _csv_reader(f)
        for cells in reader:
            if not cells:
                continue  # an empty line
            number += 1
            if len(cells) == len(names):
                yield number, dict(zip(names, cells, strict=True))
            else:
                yield (
                    number,
                    BadObjectError(
                        f"{len(cells)} cells where the header has {len(names)} (line {reader.line_num}; a text with commas, "
                        "quotes or line breaks must stand in quotes)"
                    ),
                )
    except UnicodeDecodeError as e:
        found = f"byte 0x{e.object[e.start]:02x}"
        yield (
            number + 1,
            BadObjectError(f"{found} here or soon after is no UTF-8; save the file as UTF-8; later rows were not read"),
        )
    except BadObjectError as e:
        yield 1, e
    except csv.Error as e:
        yield number + 1, BadObjectError(f"the CSV breaks here ({first_line(e)}); later rows were not read")


def _csv_names(f: BinaryIO) -> list[str]:
    """The header of a CSV file; empty if it cannot be read."""
    try:
        return _csv_reader(f)[1]
    except (UnicodeDecodeError, csv.Error, BadObjectError):
        return []


def _csv_reader(f: BinaryIO) -> tuple[Any, list[str]]:
    """A reader that stands behind the header, and the columns' names: `column N` where the header has none."""
    csv.field_size_limit(LONGEST)
    text = io.TextIOWrapper(f, encoding="utf-8-sig", newline="")
    first = next((line for line in text if line.strip()), "")
    reader = csv.reader(chain([first], text), delimiter=_delimiter_of(first.encode()) or ",", strict=True)
    names = [name.strip() or f"column {n}" for n, name in enumerate(next(reader, []), 1)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadObjectError(f"the header has the column {twice[0][:60]!r} twice")
    return reader, names


def _table_rows(path: Path, kind: str, columns: Sequence[str]) -> Iterator[tuple[int, object]]:
    """(number from 1, the row's values by column name, or why there are none) of a Parquet or an Arrow file."""
    import pyarrow as pa

    number = 0
    try:
        with _table_file(path, kind) as (schema, batches):
            chosen = [c for c in columns if c in schema.names] if columns else schema.names
            for number, raw in enumerate(_rows(batches(chosen), _class_names(schema)), 1):  # used where it breaks
                yield number, raw
    except (pa.ArrowException, ValueError, OSError) as e:
        yield number + 1, BadObjectError(f"the {kind} file breaks here ({first_line(e)}); later rows were not read")


def _table_names(path: Path, kind: str) -> list[str]:
    """Column names of a Parquet or an Arrow file; empty if it cannot be read."""
    import pyarrow as pa

    try:
        with _table_file(path, kind) as (schema, _):
            return list(schema.names)
    except (OSError, ValueError, pa.ArrowException):
        return []


@contextmanager
def _table_file(path: Path, kind: str) -> Iterator[tuple[pa.Schema, Callable[[list[str]], Iterable[pa.RecordBatch]]]]:
    """Schema, and the batches of some columns. Arrow has two forms: a file, and a stream as `datasets` writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "Parquet":
        with pq.ParquetFile(path) as file:
            yield file.schema_arrow, lambda columns: file.iter_batches(batch_size=_AT_A_TIME, columns=columns)
        return
    with pa.OSFile(str(path)) as f:
        is_file = f.read(6) == b"ARROW1"
        f.seek(0)
        reader = pa.ipc.open_file(f) if is_file else pa.ipc.open_stream(f)

        def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
            for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
                chosen = batch.select(columns)
                chosen.validate(full=True)  # Arrow reads damaged offsets without looking, and would crash later
                yield chosen

        yield reader.schema, batches


def _rows(batches: Iterable[pa.RecordBatch], classes: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for start in range(0, batch.num_rows, _AT_A_TIME):
            for raw in batch.slice(start, _AT_A_TIME).to_pylist():
                for name, values in classes.items():
                    if name in raw:
                        raw[name] = _class_name(raw[name], values)
                yield raw


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes of each `ClassLabel` column, as `datasets` writes them into the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(name): [str(value) for value in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_name(value: object, names: Sequence[str]) -> object:
    """The name of a class that is stored as its number; -1 stands for no class."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return names[value] if 0 <= value < len(names) else None if value == -1 else value
