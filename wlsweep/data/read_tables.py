"""Tables as a stream of objects, one a row, by column name: CSV and TSV, Parquet, and the Arrow files of `datasets`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from wlsweep.data.read_json import LONGEST, BadObjectError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

_AT_A_TIME = 16  # rows of a Parquet or Arrow file in memory: 16 rows of 10 MB still fit anywhere
_DELIMITERS = ",\t;"


def delimiter_of(start: bytes) -> str | None:
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


def csv_rows(f: BinaryIO) -> Iterator[tuple[int, object]]:
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


def csv_names(f: BinaryIO) -> list[str]:
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
    reader = csv.reader(chain([first], text), delimiter=delimiter_of(first.encode()) or ",", strict=True)
    names = [name.strip() or f"column {n}" for n, name in enumerate(next(reader, []), 1)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadObjectError(f"the header has the column {twice[0][:60]!r} twice")
    return reader, names


def table_rows(path: Path, kind: str, columns: Sequence[str]) -> Iterator[tuple[int, object]]:
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


def table_names(path: Path, kind: str) -> list[str]:
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
