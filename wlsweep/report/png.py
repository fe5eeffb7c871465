"""The page's figures as PNG, through kaleido and a browser of this machine; without a browser, how to get them.

Kaleido starts the browser on a page that holds Plotly. Its own `write_fig` loads that page anew after every figure,
which costs more than drawing; here two loaded pages, on two cores, draw them all.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wlsweep.report.figures.style import Figure
from wlsweep.run.layout import atomic_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 60
"""Longest wait for the browser to start, and for each figure: one that hangs must not hold the sweep."""
WIDTH, SCALE = 1100, 1.5
"""Width in CSS pixels, and device pixels per CSS pixel."""
TITLE = 26
"""CSS pixels for the title, which on the page stands above the figure."""
LEAN = (
    # else the engine parses Plotly again for the place of every exception that Plotly catches itself: 0.4 s
    "--js-flags=--no-enable-lazy-source-positions",
    # the address bar's list, a page of its own that is loaded beside ours: half a CPU-s
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup",
)
"""Flags of the browser, beside kaleido's, that make it start sooner; a browser ignores those that it does not know."""
HOW = "no browser was found, so there are no PNGs: install Chromium (apt-get install chromium) and report again"


def browser() -> str | None:
    """The browser that draws PNGs: the first of Chromium and Chrome on PATH."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def write_pngs(make: Callable[[], Sequence[Figure]], folder: Path) -> tuple[list[Path], str]:
    """Write SLUG.png for every figure, and delete PNGs of earlier reports.

    Args:
        make: makes the figures; called exactly once, beside the start of the browser. What it raises is raised here.
        folder: where to.

    Returns:
        The files, and why some or all are missing (empty where none is): no browser, one that does not start, a figure
        that it could not draw. The page is whole without them, so none of these is an error.
    """
    path = browser()
    if path is None:
        make()
    pngs, note = ({}, HOW) if path is None else asyncio.run(_draw(make, path))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{slug}.png" for slug in pngs]
    for stale in set(folder.glob("*.png")) - set(files):
        stale.unlink()
    for file, png in zip(files, pngs.values(), strict=True):
        with atomic_file(file) as temporary:
            temporary.write_bytes(png)
    return files, note


async def _draw(make: Callable[[], Sequence[Figure]], path: str) -> tuple[dict[str, bytes], str]:
    """The pictures by slug, and what went wrong."""
    making = asyncio.create_task(asyncio.to_thread(make))
    import kaleido
    from choreographer.browsers.chromium import Chromium
    from choreographer.errors import BrowserClosedError, BrowserFailedError, ChannelClosedError

    class Lean(Chromium):
        def get_cli(self) -> list[str]:
            return [*super().get_cli(), *LEAN]

    drawn: dict[str, bytes] = {}
    failed: list[str] = []

    async def draw(tab: Any, figures: Iterator[Figure]) -> None:
        for figure in figures:
            said = await asyncio.wait_for(_picture(tab, figure), PATIENCE_S)
            if "exceptionDetails" in said:
                failed.append(f"{figure.slug} ({said['exceptionDetails'].get('exception', {}).get('description')})")
            else:
                drawn[figure.slug] = base64.b64decode(said["result"]["value"])

    chrome = kaleido.Kaleido(n=1, path=path, browser_cls=Lean, enable_sandbox=False, mathjax=False)
    try:
        try:
            await asyncio.wait_for(chrome.open(), PATIENCE_S)
            queue: asyncio.Future[Iterator[Figure]] = asyncio.get_running_loop().create_future()

            async def beside(first: Any) -> None:
                await draw(await asyncio.wait_for(_copy(chrome, first), PATIENCE_S), await queue)

            async def at_once(first: Any) -> None:
                queue.set_result(iter(await making))
                await draw(first, await queue)

            await asyncio.gather(at_once(chrome.get_tab()), beside(chrome.get_tab()))
        finally:
            await asyncio.wait_for(chrome.close(), PATIENCE_S)
    except (BrowserFailedError, BrowserClosedError, ChannelClosedError, OSError, TimeoutError) as e:
        failed.append(f"{type(e).__name__}: {e.args[0] if e.args else 'no answer'}")
    figures = await making
    note = f"{path} did not draw the PNGs ({'; '.join(failed)}); mend or replace it and report again" if failed else ""
    return {figure.slug: drawn[figure.slug] for figure in figures if figure.slug in drawn}, note


async def _copy(chrome: Any, tab: Any) -> Any:
    """Another tab on the page of `tab`, with Plotly loaded; opened while `tab` draws, since loading takes half a second."""
    page = (await _evaluate(tab, "location.href")).get("result", {}).get("value", "")
    other = await chrome.create_tab(page)
    loaded = "document.readyState === 'complete' && !!window.Plotly"
    while not (await _evaluate(other, loaded)).get("result", {}).get("value"):
        await asyncio.sleep(0.02)
    return other


async def _evaluate(tab: Any, expression: str) -> dict[str, Any]:
    """What the browser answers to an expression, once its promise is kept; as an exception, too, if it cannot be asked."""
    answer = await tab.send_command(
        "Runtime.evaluate", params={"expression": expression, "awaitPromise": True, "returnByValue": True}
    )
    return dict(answer.get("result") or {"exceptionDetails": {"exception": {"description": answer.get("error")}}})


async def _picture(tab: Any, figure: Figure) -> dict[str, Any]:
    """What the browser answers to drawing one figure in its wide layout."""
    room = figure.wide["margin"]["t"] + TITLE
    layout = figure.wide | {
        "title": {"text": figure.title, "x": 0.01, "y": 1, "yanchor": "top", "pad": {"t": 10}, "font": {"size": 16}},
        "margin": figure.wide["margin"] | {"t": room},
        "height": figure.height + TITLE,
    }
    drawn = json.dumps({"data": figure.data, "layout": layout}, allow_nan=False)
    asked = {"format": "png", "width": WIDTH, "height": layout["height"], "scale": SCALE, "imageDataOnly": True}
    return await _evaluate(tab, f"Plotly.toImage({drawn}, {json.dumps(asked)})")
