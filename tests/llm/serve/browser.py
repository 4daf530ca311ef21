"""A real headless browser, driven through the Chrome DevTools protocol."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """The one tab of the browser. What the browser reports on its own is kept in `reports`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.reports: list[dict[str, Any]] = []
        self._socket, self._ids = socket, itertools.count(1)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a DevTools command."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.reports.append(message)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """The first true value of an expression."""
        deadline = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < deadline, f"{expression} stays false: {self.value('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        """Loads a page and waits until it has its model."""
        self.reports.clear()
        self.command("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && document.querySelector('#model')?.textContent")

    def write(self, text: str) -> None:
        """Types into what has the focus, then Enter."""
        self.command("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)

    def complaints(self) -> list[Any]:
        """Errors and policy violations that the browser has reported since the page was opened."""
        return [
            report["params"]
            for report in self.reports
            if report["method"] == "Runtime.exceptionThrown"
            or (report["method"] == "Log.entryAdded" and report["params"]["entry"]["level"] == "error")
        ]

    def requested(self) -> list[str]:
        """Addresses that the page has asked for."""
        sent = [report["params"] for report in self.reports if report["method"] == "Network.requestWillBeSent"]
        return [item["request"]["url"] for item in sent]

    def screenshot(self, path: Path) -> None:
        """Writes a picture of the page, for a person to look at."""
        import base64

        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A headless browser with one empty tab; skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on this machine ({', '.join(NAMES)})")
    options = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [program, *options, *as_root, f"--user-data-dir={folder}", "--window-size=900,700", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(tab_address(folder, process), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)


def tab_address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """The WebSocket address of the tab, when the browser is up."""
    port_file = folder / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while not (port_file.is_file() and port_file.read_text().strip()):
        assert process.poll() is None, "the browser has ended"
        assert time.monotonic() < deadline, "the browser does not start"
        time.sleep(0.05)
    with urllib.request.urlopen(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json") as response:
        tabs = json.loads(response.read())
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
