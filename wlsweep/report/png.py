"""The page's figures as image files, drawn by the Plotly of the page in a renderer that a Python package brings.

Kaleido 0.2.1 holds a small headless Chromium with the libraries and fonts that it needs, so that images are there on a
bare machine, without a browser and without root. (Later versions of Kaleido look for a browser on the machine instead.)
Of that package only the executable is used, which takes one figure as a line of JSON and answers with one.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from wlsweep.files import JsonObject
from wlsweep.report.figures.style import Figure
from wlsweep.run.layout import atomic_file

PATIENCE_S = 60.0
"""Longest wait for the start of the renderer, and for each figure: one that hangs must not hold the sweep."""
END_S = 5.0
"""Longest wait for its end, which takes 0.07 s."""
WIDTH, SCALE = 1100, 1.5
"""Width in CSS pixels, and device pixels per CSS pixel."""
TITLE = 26
"""CSS pixels for the title, which on the page stands above the figure."""
FLAGS = (
    "--disable-gpu",
    "--no-sandbox",
    "--allow-file-access-from-files",
    "--disable-breakpad",
    "--disable-dev-shm-usage",
)
"""Of the Chromium within: it draws our own figures from a file, and containers have neither a sandbox nor much /dev/shm."""

Format = Literal["png", "svg", "pdf"]


class RendererError(Exception):
    """The renderer gives no image: it did not start, ended, hung, or refused the figure."""


class Renderer(AbstractContextManager["Renderer"]):
    """One process that draws figures, one after another. It starts with the object and is awaited with the first figure."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._over = ""
        """Why there is no process any more; empty as long as there is one."""
        self._ready = False
        # a pipe that nobody reads would fill up, and hold the renderer
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        try:
            command, environment, folder = _command()
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except (ImportError, OSError) as e:
            self._over = f"the renderer of images does not start: {e}"

    def __exit__(self, *error: object) -> None:
        """End the process, if it has not ended."""
        self._end("the renderer of images was closed")
        self._errors.close()

    def _end(self, why: str) -> None:
        if self._process is not None:
            try:
                # it ends with its standard input, and then deletes the page that it wrote into /tmp
                self._process.communicate(timeout=END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process, self._over = None, why

    def image(self, figure: Figure, format: Format = "png") -> bytes:
        """One figure in its wide layout, with its title, as the contents of an image file.

        Raises:
            RendererError: saying why there is none.
        """
        if not self._ready:
            try:
                self._answer(b"")
            except RendererError as e:
                self._end(str(e))
                raise
            self._ready = True
        layout = figure.wide | {
            "title": {
                "text": figure.title,
                "x": 0.01,
                "y": 1,
                "yanchor": "top",
                "pad": {"t": 10},
                "font": {"size": 16},
            },
            "margin": figure.wide["margin"] | {"t": figure.wide["margin"]["t"] + TITLE},
            "height": figure.wide["height"] + TITLE,
        }
        wanted = {
            "data": {"data": figure.data, "layout": layout},
            "format": format,
            "width": WIDTH,
            "height": layout["height"],
            "scale": SCALE,
        }
        result = self._answer(json.dumps(wanted, allow_nan=False).encode() + b"\n")["result"]
        image: bytes = result.encode() if format == "svg" else base64.b64decode(result)
        if len(image) < 100:
            raise RendererError("the image is empty, as it is where it would be too large")
        return image

    def _answer(self, request: bytes) -> JsonObject:
        """What the renderer says next, after a request (none: what it says at its start)."""
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise RendererError(self._over)
        clock = threading.Timer(PATIENCE_S, self._process.kill)
        clock.start()
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            in_time = clock.is_alive()
            clock.cancel()
        try:
            answer: JsonObject = json.loads(line)
        except ValueError:
            self._end(self._last_words() if in_time else f"the renderer of images gave no answer in {PATIENCE_S:g} s")
            raise RendererError(self._over) from None
        if answer.get("code", 0) != 0:
            raise RendererError(str(answer.get("message")).strip().splitlines()[0])
        return answer

    def _last_words(self) -> str:
        """Why the process ended, as far as it said so."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the renderer of images ended{': ' + lines[-1] if lines else ''}"


def _command() -> tuple[list[str], dict[str, str], Path]:
    """The renderer's command line, environment and working directory, as its own start script sets them.

    That script is not used: it splits paths at spaces.
    """
    import kaleido
    import plotly

    folder = Path(kaleido.__file__).parent / "executable"
    plotly_js = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{folder / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "FONTCONFIG_PATH": str(folder / "etc" / "fonts"),
        "XDG_DATA_HOME": str(folder / "xdg"),
    }
    environment.pop("LD_PRELOAD", None)
    return [str(folder / "bin" / "kaleido"), "plotly", f"--plotlyjs='{plotly_js}'", *FLAGS], environment, folder


def write_pngs(renderer: Renderer, figures: Sequence[Figure], folder: Path) -> tuple[list[Path], str]:
    """Write SLUG.png for every figure, and delete PNGs of earlier reports.

    Returns:
        The files, and why some or all are missing (empty where none is). The page is whole without them, so that is no
        error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    failed: dict[str, list[str]] = {}
    for figure in figures:
        try:
            png = renderer.image(figure)
        except RendererError as e:
            failed.setdefault(str(e), []).append(figure.slug)
            continue
        files.append(folder / f"{figure.slug}.png")
        with atomic_file(files[-1]) as temporary:
            temporary.write_bytes(png)
    for stale in set(folder.glob("*.png")) - set(files):
        stale.unlink()
    why = "; ".join(f"{', '.join(slugs)}: {cause}" for cause, slugs in failed.items())
    return files, f"not drawn as PNG: {why}" if failed else ""
