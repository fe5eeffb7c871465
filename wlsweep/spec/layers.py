"""A search space in layers: the file that it extends, the file itself, and what `--set` says. Later layers win.

    extends = "iclr19"    # a path that starts at this file's folder, or the name of a shipped search space
    name = "mine"

Sections are merged key by key; a list, such as `[[grid]]`, replaces the inherited one. `false` in place of a section
removes the inherited one. `data.source` and `data.synthetic` replace each other, and so do `model.path` and `model.tiny`.
The name is never inherited, since it names the run directory.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from wlsweep.errors import WlsweepError, os_error_text
from wlsweep.files import parse_json, parse_toml, read_file
from wlsweep.shipped import SEARCH_SPACES, find_file

REPLACES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("data", "source"): ("synthetic",),
    ("data", "synthetic"): ("source", "test", "pool", "columns"),
    ("model", "path"): ("tiny",),
    ("model", "tiny"): ("path",),
}
"""Keys that a later layer's key removes from what it inherits, since they exclude each other."""


class Setting(NamedTuple):
    """One `--set KEY=VALUE`."""

    keys: tuple[str, ...]
    value: Any


def read_layers(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A search space file merged over what it extends.

    Raises:
        WlsweepError: for a file that cannot be read, and for files that extend each other.
    """
    if path.resolve() in extended_by:
        raise WlsweepError(f"{path} extends itself by way of {', '.join(map(str, extended_by))}")
    raw = _parse(path)
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise WlsweepError(f"{path}: extends = {base!r}: give a file or the name of a shipped search space")
    beside = path.parent / base
    try:
        found = beside if beside.is_file() else find_file(SEARCH_SPACES, base)
    except WlsweepError as e:
        raise WlsweepError(f"{path}: extends = {base!r}: {e}") from None
    inherited = read_layers(found, (*extended_by, path.resolve()))
    inherited.pop("name", None)
    return merged(inherited, raw)


def _parse(path: Path) -> dict[str, Any]:
    """TOML, or JSON as `wlsweep submit` writes a resolved search space."""
    try:
        data = read_file(path)
        raw = parse_json(data) if path.suffix == ".json" else parse_toml(data)
    except OSError as e:
        raise WlsweepError(os_error_text(e, path)) from None
    except ValueError as e:
        raise WlsweepError(f"{path}: no readable {'JSON' if path.suffix == '.json' else 'TOML'}: {e}") from None
    if not isinstance(raw, dict):
        raise WlsweepError(f"{path}: expected an object of a search space's keys")
    return raw


def merged(inherited: Mapping[str, Any], layer: Mapping[str, Any], at: tuple[str, ...] = ()) -> dict[str, Any]:
    """One layer over another, by the rules at the top of this module. `at` is where both lie in the search space."""
    found = dict(inherited)
    for key, value in layer.items():
        if value is not False:
            for excluded in set(REPLACES.get((*at, key), ())) - set(layer):
                found.pop(excluded, None)
    for key, value in layer.items():
        old = found.get(key)
        if isinstance(old, Mapping) and value is False:
            del found[key]
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            found[key] = merged(old, value, (*at, key))
        else:
            found[key] = value
    return found


def with_settings(raw: Mapping[str, Any], settings: Iterable[Setting]) -> dict[str, Any]:
    """The search space with settings over it, in their order."""
    found = dict(raw)
    for keys, value in settings:
        layer: Any = value
        for key in reversed(keys):
            layer = {key: layer}
        found = merged(found, layer)
    return found


def parse_setting(text: str, model: type[BaseModel]) -> Setting:
    """`KEY=VALUE` as a setting of the model, whose types decide how VALUE is read: as TOML, or as bare text.

    Raises:
        WlsweepError: for a key that the model does not have, and a value that the key cannot take.
    """
    key, equals, value_text = text.partition("=")
    text = text if len(text) <= 200 else f"{text[:200]} ..."
    if not (equals and key):
        raise WlsweepError(f"--set {text}: write KEY=VALUE, such as train.lr=2e-5")
    keys = tuple(key.strip().split("."))
    annotation = _type_of(text, keys, model)
    value = value_text.strip()
    try:
        candidates = [parse_toml(f"value = {value}".encode())["value"], value]
    except ValueError:
        candidates = [value]
    if candidates[0] is False and _section_of(annotation) is not None:
        return Setting(keys, False)
    adapter, problem = TypeAdapter(annotation), ""
    for candidate in candidates:
        try:
            adapter.validate_python(candidate)
        except ValidationError as e:
            problem = problem or e.errors()[0]["msg"].removeprefix("Value error, ")
        else:
            return Setting(keys, candidate)
    raise WlsweepError(f"--set {text}: {problem}")


def _type_of(text: str, keys: tuple[str, ...], model: type[BaseModel]) -> Any:
    """The type that a dotted key has in the model."""
    annotation: Any = model
    for depth, key in enumerate(keys):
        section = _section_of(annotation)
        if get_origin(section) is dict:
            annotation = get_args(section)[1]
            continue
        where = ".".join(keys[:depth])
        if section is None:
            hint = "is a list: set it as a whole, or edit a copy of the file (wlsweep init)"
            is_list = get_origin(_bare(annotation)) is list
            raise WlsweepError(f"--set {text}: {where} {hint if is_list else 'holds a value, and no further keys'}")
        fields: dict[str, FieldInfo] = section.model_fields
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            known = f"did you mean {'.'.join((*keys[:depth], close[0]))}?" if close else f"keys: {', '.join(fields)}"
            raise WlsweepError(f"--set {text}: unknown key{f' in [{where}]' if where else ''}: {key}; {known}")
        field = fields[key]
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return annotation


def _section_of(annotation: Any) -> Any:
    """The model or dict type that an annotation holds (without `| None`), or None where it holds plain values."""
    annotation = _bare(annotation)
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for part in parts:
        if get_origin(part) is dict or (isinstance(part, type) and issubclass(part, BaseModel)):
            return part
    return None


def _bare(annotation: Any) -> Any:
    """The type itself, without what is annotated to it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
