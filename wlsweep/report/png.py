"""The page's figures as PNG, through kaleido and a browser of this machine; without a browser, how to get them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from wlsweep.report.style import Figure

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S, PATIENCE_EACH_S = 60, 10
"""Longest wait for the browser in all, and for each figure on top: one that hangs must not hold the sweep."""
HOW = "no browser was found, so there are no PNGs: install Chromium (apt-get install chromium) and report again"


def browser() -> str | None:
    """The browser that draws PNGs: the first of Chromium and Chrome on PATH."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def write_pngs(
    figures: Sequence[Figure], folder: Path, width: int = 1100, scale: float = 1.5
) -> tuple[list[Path], str]:
    """Write SLUG.png for every figure.

    Args:
        figures: what to draw, in the wide layout.
        folder: where to.
        width: in CSS pixels.
        scale: device pixels per CSS pixel.

    Returns:
        The files, and why there are none (empty where there are): no browser, or one that does not start. The page
        is whole without them, so neither is an error.
    """
    path = browser()
    if path is None:
        return [], HOW
    import asyncio

    import kaleido
    from choreographer.errors import BrowserClosedError, BrowserFailedError, ChannelClosedError

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{f.slug}.png" for f in figures]

    async def draw() -> None:
        async with kaleido.Kaleido(n=1, timeout=60, path=path, enable_sandbox=False, mathjax=False) as k:
            for figure, file in zip(figures, files, strict=True):
                plain = {"data": figure.data, "layout": figure.wide | {"title": {"text": figure.title, "x": 0.01}}}
                height = figure.wide.get("height", 420)
                await k.write_fig(
                    plain, path=file, opts={"format": "png", "width": width, "height": height, "scale": scale}
                )

    try:
        asyncio.run(asyncio.wait_for(draw(), PATIENCE_S + PATIENCE_EACH_S * len(figures)))
    except (BrowserFailedError, BrowserClosedError, ChannelClosedError, OSError, TimeoutError) as e:
        return [], f"{path} did not draw the PNGs ({type(e).__name__}: {e}); mend or replace it and report again"
    return files, ""
