"""The documents are true: their commands are ones that the program takes, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from tests.made_run import THE_19, make_run
from wlsweep.cli import app

PAGES = sorted([Path("README.md"), Path("CONTRIBUTING.md"), *Path("docs").glob("*.md")])
NEEDS_ENGINES = {"run", "submit"}
"""Commands that are parsed here and run by the end-to-end tests."""


def commands(page):
    """Each `wlsweep ...` line of a page's code blocks, without comments."""
    for line in page.read_text().splitlines():
        m = re.match(r"(?:    )?(?:\$ )?(wlsweep [a-z].*)$", line)
        if m:
            for command in m[1].split("#")[0].split(";"):
                if command.strip().startswith("wlsweep "):
                    yield command.strip()


def concrete():
    """Commands without placeholders, each once."""
    found = {c for page in PAGES for c in commands(page) if not re.search(r"[A-Z]{3,}|\.\.\.|\[", c)}
    return sorted(found)


def test_there_are_commands_to_try():
    assert len(concrete()) > 5


@pytest.mark.parametrize("command", concrete())
def test_every_command_is_one_that_the_program_takes(command):
    name, *arguments = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    sub = group.get_command(typer.Context(group), name)
    assert sub is not None, f"wlsweep has no command {name}"
    sub.make_context(name, list(arguments))  # raises on unknown options and missing arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run in runs/demo and another model's predictions in tfidf.parquet."""
    folder = tmp_path_factory.mktemp("docs")
    run = make_run(folder / "runs" / "demo", THE_19, n=60)
    (part,) = run.prediction(THE_19[0]).glob("*.parquet")
    pq.write_table(pq.read_table(part, columns=["row_id", "p_accept"]), folder / "tfidf.parquet")
    return folder


@pytest.mark.parametrize(
    "command", [c for c in concrete() if c.split()[1] not in NEEDS_ENGINES and "runs/demo" in c and "--watch" not in c]
)
def test_every_command_on_the_demo_runs(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", "")  # no browser: PNGs are tested elsewhere
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, (command, done.output, done.exception)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_test_that_a_page_names_exists():
    named = {m for page in PAGES for m in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())}
    assert len(named) > 20
    assert [(file, test) for file, test in named if f"def {test}(" not in Path(file).read_text()] == []


def test_every_page_is_in_the_navigation():
    nav = Path("mkdocs.yml").read_text()
    assert [p.name for p in Path("docs").glob("*.md") if f"{p.name}\n" not in nav] == []
