"""What every JSON record of a run directory has in common: how it is read, checked and written.

A file of another form is one clear error that names file, field and remedy, instead of a KeyError far away. Keys that a
record does not know are ignored, so that a file of a newer version can be read; a key that is missing or of another type
is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from wlsweep.errors import DamagedError, UnreadableError, os_error_text
from wlsweep.files import JsonObject, read_file
from wlsweep.run.layout import write_json


class Part(BaseModel):
    """A part of a record: frozen, types taken strictly, no NaN."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Record(Part):
    """A file of the run directory."""

    REMEDY: ClassVar[str] = "delete it and run the sweep again"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file.

        Raises:
            DamagedError: if it is missing or not whole, naming file, field and remedy.
            UnreadableError: if the system does not let this process read it.
        """
        found = cls.find(path)
        if found is None:
            raise DamagedError(f"{path} is missing; {cls.REMEDY}")
        return found

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """The same, or None where there is no such file."""
        data = read_bytes(path)
        if data is None:
            return None
        try:
            return cls.model_validate_json(data)
        except ValidationError as e:
            raise DamagedError(f"{path} is damaged ({first_problem(e, data)}); {cls.REMEDY}") from None

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


def read_bytes(path: Path) -> bytes | None:
    """The bytes of a file, None where there is none.

    Raises:
        UnreadableError: if the system does not let this process read it.
    """
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UnreadableError(os_error_text(e, path)) from None


def first_problem(e: ValidationError, data: bytes) -> str:
    """The first thing that is wrong, in one line."""
    if not data.strip(b"\0 \t\r\n"):
        return "it is empty"
    first = e.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"no whole JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    at = ".".join(str(part) for part in first["loc"])
    return f"{at or 'the whole'}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def plain(record: BaseModel | None) -> JsonObject:
    """A record as plain data; empty for None."""
    return {} if record is None else json.loads(record.model_dump_json())
