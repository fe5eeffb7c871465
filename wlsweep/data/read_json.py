"""JSON arrays and JSON Lines as a stream of objects, in the memory of a few rows.

One reader for rows and for predictions made elsewhere, so that both take the same files: with a byte order mark, with the
line separators of Unicode inside of text, with NaN in a field that nobody reads.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

LONGEST = 256 << 20
"""Bytes of one JSON Lines row, characters of one row of an array."""
_CHUNK = 1 << 20
_UNSURE = 16  # characters from the end of what was read at which a syntax error may be a value that goes on


class BadObjectError(ValueError):
    """Why an object cannot be decoded or used."""


def array_objects(f: BinaryIO) -> Iterator[tuple[int, object]]:
    """(number from 1, object or the `BadObjectError` that ends the reading) of a JSON array, from its bracket on."""
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


def line_objects(f: BinaryIO) -> Iterator[tuple[int, object]]:
    """(line number from 1, object or the `BadObjectError` that says why there is none) of JSON Lines."""
    number = 0
    while line := f.readline(LONGEST):
        number += 1
        if len(line) >= LONGEST:
            yield number, BadObjectError(f"a line of more than {LONGEST >> 20} MB; later rows were not read")
            return
        if not line.strip():
            continue
        try:
            yield number, _DECODER.decode(line.decode())
        except json.JSONDecodeError as e:
            if number == 1 and e.pos >= len(e.doc.rstrip()) and line.endswith(b"\n"):
                yield (
                    1,
                    BadObjectError(
                        "an object that goes on over several lines (or whose line is cut); write one object a line, or "
                        "all as one JSON array (jq -c . FILE writes lines)"
                    ),
                )
                return
            yield number, BadObjectError(f"no JSON object on this line: {first_line(e)}")
        except (ValueError, RecursionError) as e:  # UnicodeDecodeError is a ValueError
            yield number, BadObjectError(f"no JSON object on this line: {first_line(e)}")


def first_line(e: BaseException) -> str:
    """An error in one short line."""
    return " ".join((str(e) or type(e).__name__).split("\n")[0].split())[:160]


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
            if len(self.text) - self.at > LONGEST:
                raise BadObjectError(f"a row of more than {LONGEST >> 20} million characters")
            self.more()
