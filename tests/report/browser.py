"""A headless Chromium, driven over chromedriver's W3C WebDriver interface: plain HTTP, so no client library is needed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.debian import need

PATIENCE = 300
"""Seconds for what a busy machine does slowly."""


PACKAGES = ["chromium", "chromium-driver", "fonts-noto-cjk"]


class Browser:
    """One window."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.session = ""

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.root}{path}", data=data, method=method)
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self.call("POST", f"{self.session}/url", {"url": page.resolve().as_uri()})

    def js(self, script: str) -> Any:
        return self.call("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def devtools(self, command: str, **params: Any) -> Any:
        return self.call("POST", f"{self.session}/goog/cdp/execute", {"cmd": command, "params": params})

    def console(self) -> list[str]:
        """Everything in the console that is an error or a warning."""
        entries = self.call("POST", f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def wait(self, condition: str) -> Any:
        """Return what a script returns as soon as it is true."""
        for _ in range(PATIENCE * 10):
            if value := self.js(condition):
                return value
            time.sleep(0.1)
        raise AssertionError(f"never true: {condition}")

    def until(self, act: Callable[[], None], condition: str) -> Any:
        """Act, and again where nothing has come of it: the page may have been moving under the pointer."""
        for _ in range(PATIENCE // 2):
            act()
            for _ in range(20):
                if value := self.js(condition):
                    return value
                time.sleep(0.1)
        raise AssertionError(f"never true: {condition}")

    def mouse(self, x: float, y: float, *, click: bool = False) -> None:
        place = {"x": x, "y": y, "pointerType": "mouse"}
        self.devtools("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.devtools("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def window(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("POST", f"{self.session}/print", {})))


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start a Chromium with an empty profile; the test is skipped where there is none."""
    need(PACKAGES, lambda: bool(_chromium() and shutil.which("chromedriver")))
    chromium, driver = _chromium(), shutil.which("chromedriver")
    assert chromium and driver
    log = folder / "chromedriver.log"
    process = subprocess.Popen([driver, "--port=0"], stdout=log.open("wb"), stderr=subprocess.STDOUT)
    try:
        for _ in range(PATIENCE * 10):
            text = log.read_text()
            if "started successfully on port" in text:
                break
            time.sleep(0.1)
        window = Browser(int(text.split("started successfully on port")[1].split(".")[0]))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
        options = {"binary": chromium, "args": flags}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = window.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        window.session = f"/session/{made['sessionId']}"
        try:
            yield window
        finally:
            window.call("DELETE", window.session)
    finally:
        process.terminate()
        process.wait()
