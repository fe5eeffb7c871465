"""Files of objects, as a stream: JSON arrays, JSON Lines and Parquet, told apart by their content, plain or gzipped.

    for number, value in read_objects(Path("papers.jsonl"), "ShareGPT rows"): ...

One reader for rows and for predictions made elsewhere, so that both take the same files: with a byte order mark, with the
line separators of Unicode inside of text, with NaN in a field that nobody reads.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from wlsweep.errors import WlsweepError

_LONGEST = 256 << 20  # bytes of one JSON Lines row, characters of one row of an array
_CHUNK = 1 << 20
_UNSURE = 16  # characters from the end of what was read at which a syntax error may be a value that goes on
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_OTHER_KINDS = {
    b"\x28\xb5\x2f\xfd": "is zstd-compressed; unpack it (zstd -d)",
    b"BZh": "is bzip2-compressed; unpack it (bunzip2)",
    b"\xfd7zXZ": "is xz-compressed; unpack it (unxz)",
    b"PK\x03\x04": "is a zip archive; unpack it (unzip)",
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch it (git lfs pull)",
    b"ARROW1": "is an Arrow file; save it as Parquet",
}


class BadObjectError(ValueError):
    """Why an object cannot be decoded or used."""


def read_objects(
    path: Path, expected: str, columns: Sequence[str] = (), needed: str | None = None
) -> Iterator[tuple[int, object]]:
    """(number from 1, decoded object or the `BadObjectError` that says why it cannot be decoded).

    Args:
        path: the file.
        expected: what it should hold, for messages.
        columns: of a Parquet file: those that are read; all where none is named.
        needed: of a Parquet file: a column that must be there.

    Raises:
        WlsweepError: if the file is missing, unreadable or of no known format.
    """
    try:
        with path.open("rb") as f:
            start = f.read(4096)
            if start[:4] == b"PAR1":
                yield from _parquet_rows(path, columns, needed)
                return
            if start[:2] == _GZIP:
                f.seek(0)
                with gzip.open(f) as unpacked:
                    yield from _json_objects(path, unpacked, expected)  # type: ignore[arg-type] # reads like a file
                return
            f.seek(0)
            yield from _json_objects(path, f, expected)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise WlsweepError(f"{path} is no whole gzip file ({first_line(e)}); fetch or make it again") from None
    except OSError as e:
        raise WlsweepError(
            f"{shortened(path)} cannot be read: {e.strerror or e}; check the path given with --data"
        ) from None


def _json_objects(path: Path, f: BinaryIO, expected: str) -> Iterator[tuple[int, object]]:
    start = f.read(4096)
    if start[:2] in _WIDE_BOMS:
        raise WlsweepError(f"{path} is UTF-16 or UTF-32; save it as UTF-8")
    for magic, what in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise WlsweepError(f"{path} {what}")
    f.seek(len(_UTF8_BOM) if start.startswith(_UTF8_BOM) else 0)
    first = start.removeprefix(_UTF8_BOM).lstrip()[:1]
    if first == b"[":
        yield from _array_objects(f)
    elif first == b"{":
        yield from _line_objects(f)
    elif first:
        raise WlsweepError(f"{path} starts with {first!r}; expected {expected} as a JSON array, JSON Lines or Parquet")
    elif len(start) == 4096:
        raise WlsweepError(f"{path} starts with 4 kB of white space; expected {expected}")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadObjectError(f"the key {twice[:60]!r} occurs twice in one object; which is meant?")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_no_key_twice)


class _Text:
    """What was read of a file and not yet decoded, as text."""

    def __init__(self, f: BinaryIO) -> None:
        self._f, self._decoder = f, codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.ended = "", 0, False

    def more(self) -> None:
        """Read as much again as is kept, so that a long value is tried a few times only."""
        data = self._f.read(max(_CHUNK, len(self.text) - self.at))
        self.ended = not data
        self.text = self.text[self.at :] + self._decoder.decode(data, final=self.ended)
        self.at = 0

    def next_sign(self) -> str:
        """The next character that is no white space, not taken; empty at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def value(self) -> object:
        """The next JSON value.

        Raises:
            ValueError: if there is none.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as e:
                cut = e.msg.startswith("Unterminated string") or e.pos >= len(self.text) - _UNSURE
                if self.ended or not cut:
                    raise
            else:
                if end < len(self.text) or self.ended:  # else a number might go on
                    self.at = end
                    return value
            if len(self.text) - self.at > _LONGEST:
                raise BadObjectError(f"a row of more than {_LONGEST >> 20} million characters")
            self.more()


def _array_objects(f: BinaryIO) -> Iterator[tuple[int, object]]:
    number, text = 0, _Text(f)
    try:
        text.next_sign()
        text.at += 1  # the bracket
        if text.next_sign() == "]":
            text.at += 1
        else:
            while True:
                text.next_sign()
                value = text.value()
                number += 1
                yield number, value
                sign = text.next_sign()
                text.at += 1
                if sign == "]":
                    break
                if sign != ",":
                    raise BadObjectError(f"expected a comma or the closing bracket, found {sign or 'the end'!r}")
        if rest := text.next_sign():
            raise BadObjectError(f"found {rest!r} after the closing bracket")
    except RecursionError:
        yield number + 1, BadObjectError("nested too deep; later rows were not read")
    except ValueError as e:  # also UnicodeDecodeError, and whole numbers of more digits than Python takes
        yield number + 1, BadObjectError(f"the JSON ends or breaks here ({first_line(e)}); later rows were not read")


def _line_objects(f: BinaryIO) -> Iterator[tuple[int, object]]:
    number = 0
    while line := f.readline(_LONGEST):
        number += 1
        if len(line) >= _LONGEST:
            yield number, BadObjectError(f"a line of more than {_LONGEST >> 20} MB; later rows were not read")
            return
        if not line.strip():
            continue
        try:
            yield number, _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as e:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            yield number, BadObjectError(f"no JSON object on this line: {first_line(e)}")


def _parquet_rows(path: Path, columns: Sequence[str], needed: str | None) -> Iterator[tuple[int, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if needed is not None and needed not in names:
                raise WlsweepError(f"{path} has no column {needed!r}; it has {', '.join(names)[:200]}")
            chosen = [c for c in columns if c in names] if columns else names
            for batch in file.iter_batches(batch_size=16, columns=chosen):  # 16 rows of 10 MB still fit anywhere
                for raw in batch.to_pylist():
                    number += 1
                    yield number, raw
    except (pa.ArrowException, ValueError, OSError) as e:
        yield number + 1, BadObjectError(f"the Parquet file breaks here ({first_line(e)}); later rows were not read")


def parquet_names(path: Path) -> list[str]:
    """Column names of a Parquet file; empty for any other file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as f:
            return list(pq.ParquetFile(f).schema_arrow.names) if f.read(4) == b"PAR1" else []
    except (OSError, ValueError, pa.ArrowException):
        return []


def first_line(e: BaseException) -> str:
    """An error in one short line."""
    return " ".join((str(e) or type(e).__name__).split("\n")[0].split())[:160]


def shortened(path: Path | str) -> str:
    """A path that fits a message."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:90]} ... {text[-90:]} ({len(text):,} characters)"
