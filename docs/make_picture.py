"""Writes docs/page.png, or another file, the first screen of a finished run's page, as Chromium draws it.

make sweep && make picture
python -m docs.make_picture runs/smollm2 docs/smollm2.png
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from tests.report.browser import browser, tab

PICTURE = Path(__file__).with_name("page.png")
WIDTH, HEIGHT = 1280, 900
"""Of the window, in CSS pixels."""
MOST_BYTES = 200_000
COLOURS = 256
"""Of the picture's palette."""


def screen(page: Path) -> bytes:
    """PNG of what a window of `WIDTH` x `HEIGHT` shows of a page.

    Raises:
        SystemExit: if there is no browser.
    """
    executable = browser()
    if executable is None:
        sys.exit("the picture needs Chromium or Chrome on PATH: apt-get install chromium")
    with tab(executable) as opened:
        opened.open(page, WIDTH, HEIGHT)
        shot = opened.call("Page.captureScreenshot")
    return base64.b64decode(shot["data"])


def reduced(png: bytes) -> bytes:
    """The same with a palette of `COLOURS`, a third of the bytes."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    page = run / "report" / "index.html"
    if not page.is_file():
        sys.exit(f"{page} is missing: make sweep, then make picture")
    found = reduced(screen(page))
    if len(found) > MOST_BYTES:
        sys.exit(f"the picture has {len(found):,} bytes, more than {MOST_BYTES:,}: lower COLOURS")
    to = Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURE
    to.write_bytes(found)
    print(f"{to}: {len(found):,} bytes")
