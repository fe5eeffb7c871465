"""A real browser, driven over the DevTools protocol: what the page does when a person opens it."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """The first of Chromium and Chrome on PATH."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Tab:
    """One tab: calls, and the events that came in meanwhile."""

    def __init__(self, socket):
        self._socket, self._ids, self.events = socket, itertools.count(1), []

    def call(self, method, **params):
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def eval(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, page: Path, width=1280, height=900, before="") -> dict[str, float]:
        """Open a file and wait until every figure is drawn.

        Returns the seconds until the first content, the load event, the first figure and the last one were there.
        `before` is a script that runs in the page before those of the page.
        """
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=page.absolute().as_uri())
        start = time.monotonic()
        while time.monotonic() - start < 60:
            if self.eval("document.body && document.body.dataset.drawn") == "true":
                return self.eval(
                    "Object.fromEntries(performance.getEntries().flatMap(e => e.entryType === 'navigation' ?"
                    " [['load', e.loadEventEnd / 1000]] : ['paint', 'mark'].includes(e.entryType) ?"
                    " [[e.name, e.startTime / 1000]] : []))"
                )
            time.sleep(0.05)
        raise AssertionError("the figures were not drawn within 60 s")

    def requests(self):
        """URLs that were asked for, without the page itself and data in it."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [u for u in urls if not u.startswith(("data:", "blob:"))][1:]

    def complaints(self):
        """Console errors and warnings, uncaught exceptions, log entries."""
        found = []
        for e in self.events:
            kind, p = e["method"], e.get("params", {})
            if kind == "Runtime.exceptionThrown":
                found.append(p["exceptionDetails"])
            if kind == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
                found.append(p["args"])
            if kind == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
                found.append(p["entry"])
        return found

    def screenshot(self, path: Path):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def tab(executable: str):
    """A tab of a fresh browser with a profile of its own; both are gone afterwards."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory() as profile:
        browser = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            for _ in range(400):
                if port_file.exists() and port_file.read_text().count("\n"):
                    break
                time.sleep(0.05)
            port, path = port_file.read_text().split()
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as root:
                main = Tab(root)
                target = main.call("Target.createTarget", url="about:blank")["targetId"]
                with connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None, proxy=None) as socket:
                    yield Tab(socket)
                main.call("Browser.close")
        finally:
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()
