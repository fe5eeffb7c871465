"""The README is true: its tree, its commands and its search spaces exist."""

import re
import struct
from pathlib import Path

from wlsweep.cli import app

README = Path("README.md").read_text()


def tree():
    lines = README[README.index("    wlsweep/\n") :].splitlines()
    folder, found = Path(), []
    for line in lines:
        m = re.match(r"    (  )?(\S.*?)(  +\S.*)?$", line)
        if not m:
            break
        for name in m[2].split():
            found.append((folder if m[1] else Path()) / name)
            if not m[1] and name.endswith("/"):
                folder = Path(name)
    return found


def test_every_entry_of_the_tree_exists():
    assert len(tree()) > 15
    assert [str(p) for p in tree() if not p.exists()] == []


def test_every_part_of_the_package_is_in_the_tree():
    parts = {p.name for p in Path("wlsweep").iterdir() if not p.name.startswith(("_", ".")) and p.name != "py.typed"}
    assert parts - {p.name for p in tree()} == set()


def test_every_shipped_search_space_is_described():
    assert [p.name for p in Path("search_spaces").glob("*.toml") if f"`{p.name}`" not in README] == []


def test_every_command_of_the_readme_exists_and_none_is_left_out():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert commands == set(re.findall(r"^    wlsweep (\w+)", README, re.M))


def test_the_picture_of_the_page_is_there_and_small():
    (picture,) = re.findall(r"!\[[^\]]+\]\((docs/\S+\.png)\)", README)
    data = Path(picture).read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG") and (width, height) == (1280, 900) and len(data) <= 200_000
