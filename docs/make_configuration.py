"""Writes docs/configuration.md, the reference of search spaces and site files, from the docstrings of their models.

make configuration
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wlsweep.slurm.site import Site
from wlsweep.spec.config import Sweep

PAGE = Path(__file__).with_name("configuration.md")
INTRODUCTION = """# Configuration: every key

This page is made from the models' own docstrings by `make configuration`; a test compares. Unknown keys are refused, and all errors of a file are reported at once.

## Search spaces

A search space is one TOML file. `wlsweep init` lists the shipped ones, `wlsweep init NAME` copies one here.

    extends = "iclr19"        # a path that starts at this file's folder, or the name of a shipped search space
    name = "mine"

    [train]
    lr = 2e-5

    [[grid]]
    proportion = ["1/2", "1/4"]
    variant = ["accept", "reject"]
    gamma = [2.0, 4.0]
    seed = [0, 1, 2]

With `extends`, a file says only what differs. Sections are merged key by key; a list, such as `[[grid]]`, replaces the inherited one; `false` in place of a section removes it (`synthetic = false`). `data.source` and `data.synthetic` replace each other, and so do `model.path` and `model.tiny`. The name is never inherited.

`--set KEY=VALUE` on `plan`, `run` and `submit` is the last layer: `--set train.lr=2e-5 --set data.cutoff=8192`. Its value has the type of the key. What was set is kept in `sweep.json` (`sweep.settings`), and in the command there.
"""
SITES = """
## Site files

What differs between clusters, for `wlsweep submit SWEEP --site SITE`: a TOML file, or the name of a shipped one. See [cluster.md](cluster.md).
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *_section(Sweep.model_json_schema()), SITES, *_section(Site.model_json_schema())])


def _section(schema: dict[str, Any]) -> list[str]:
    """The tables of a model and of the models that it holds, in the order of their keys."""
    lines: list[str] = []
    todo: list[tuple[str, dict[str, Any]]] = [("", schema)]
    while todo:
        at, model = todo.pop(0)
        if at:
            lines += [f"### {at}", "", model.get("description", ""), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        inner = []
        for key, field in model["properties"].items():
            if key == "settings":
                continue  # a record of --set, and no key of a file
            lines.append(_row(key, field, key in model.get("required", ()), schema))
            if held := _held(field):
                path = f"{at.strip('[]')}.{key}".lstrip(".")
                inner.append((f"[[{path}]]" if "items" in field else f"[{path}]", schema["$defs"][held]))
        lines.append("")
        todo = [*inner, *todo]
    return lines


def _held(field: dict[str, Any]) -> str | None:
    """The name of the model that a field holds, or None."""
    for part in (field, field.get("items", {}), *field.get("anyOf", ())):
        if "$ref" in part:
            return str(part["$ref"]).rpartition("/")[2]
    return None


def _row(key: str, field: dict[str, Any], required: bool, schema: dict[str, Any]) -> str:
    default = "required" if required else "" if field.get("default") is None else _toml(field["default"])
    held = _held(field)
    meaning = field.get("description") or (schema["$defs"][held].get("description", "") if held else "")
    if held and not required:
        default = ""
    cells = [f"`{key}`", _type(field), default, " ".join(meaning.split())]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: dict[str, Any]) -> str:
    """A type with its bounds, such as `integer >= 1`."""
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"] if part.get("type") != "null")
    if "$ref" in field:
        return "section"
    if "enum" in field or "const" in field:
        return ", ".join(_toml(value) for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "any")
    if kind == "array":
        if "prefixItems" in field:
            return "list of " + ", ".join(_type(item) for item in field["prefixItems"])
        items = field.get("items", {})
        return "sections" if "$ref" in items else f"list of {_type(items)}"
    if kind == "object":
        return f"table of {_type(field.get('additionalProperties', {}))}"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    said = [f"{sign} {field[name]:g}" for name, sign in bounds.items() if name in field]
    return " ".join([kind, ", ".join(said)]).strip()


def _toml(value: Any) -> str:
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
