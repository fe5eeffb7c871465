"""How a command begins and ends: what it refuses to start with, and which error is which message and exit code."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer

from wlsweep.errors import WlsweepError, is_of_files, os_error_text
from wlsweep.interrupts import remove_unfinished
from wlsweep.supervise import ends_in_order


def main() -> None:
    """Entry point: errors that a user can fix are one message and exit code 2."""
    if not sys.stdout.isatty():
        os.environ["COLUMNS"] = "1000"  # rich would wrap tables and causes at 80 columns in files and pipes
    try:
        _refuse_what_is_no_text([*sys.argv[1:], str(_working_directory())])
        from wlsweep.cli import app

        try:
            app(prog_name="wlsweep")
        finally:
            sys.stdout.flush()  # a full disk is an error here, and a complaint of the interpreter later
    except WlsweepError as e:
        typer.echo(f"error: {e}", err=True)
        sys.exit(2)
    except BrokenPipeError:  # wlsweep status | head
        _drop_output()
        sys.exit(141)
    except OSError as e:
        if not is_of_files(e):
            raise
        _drop_output()
        typer.echo(f"error: {os_error_text(e, doing='used')}", err=True)
        sys.exit(2)


def _drop_output() -> None:
    """What is still to be written to standard output goes nowhere: it cannot be written where it should."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_what_is_no_text(words: list[str]) -> None:
    """Refuse names with bytes that are no UTF-8: records, tables and pages name their files, and hold text."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode(errors="backslashreplace").decode()
            raise WlsweepError(f"{shown}: not UTF-8; rename the file or folder, or work in another one") from None


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise WlsweepError("the working directory was deleted; change to one that exists (cd)") from None


def end_at_once(code: int) -> NoReturn:
    """End a launch: Ray's and torch's threads need no orderly end, which would cost seconds, and everything is on disk."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    if "ray" in sys.modules:
        from wlsweep.orchestrate.ray_cluster import leave

        leave()
    remove_unfinished()  # of a thread that was left
    ends_in_order()
    os._exit(code)


def open_page(page: Path) -> None:
    """Show a page in the user's browser; where there is none, say how to see it from elsewhere."""
    import webbrowser

    on_a_desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not ((on_a_desktop or os.environ.get("BROWSER")) and webbrowser.open(page.resolve().as_uri())):
        host = platform.node()
        typer.echo(
            f"open:    no browser to open it in here; from your machine: scp {host}:{page.resolve()} . and open it"
        )
