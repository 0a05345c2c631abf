"""A real browser for tests of pages: headless Chromium, driven over its own protocol."""

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.patience import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.numbers = socket, itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=30 * PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def value(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            with suppress(AssertionError):  # between two pages there is nothing to ask
                if self.value(f"!!({expression})"):
                    return
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}; {self.value('document.body.innerText')}")

    def click(self, element: str, seconds: float = 15) -> None:
        """Click what ``element`` (JavaScript) names, as soon as it is there."""
        self.wait(f"{element} && ({element}.click(), true)", seconds)


@contextmanager
def open_page(url: str, folder: Path, *options: str) -> Iterator[Page]:
    """A page in a browser of its own, which keeps its things in ``folder``."""
    process = subprocess.Popen(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1100,1400",
            *options, "about:blank",
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port_file = folder / "DevToolsActivePort"
        for _ in range(int(300 * PATIENCE)):
            if port_file.is_file() and port_file.read_text():
                break
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        tabs = httpx.get(f"http://127.0.0.1:{port}/json").json()
        tab = next(each for each in tabs if each["type"] == "page")
        with connect(tab["webSocketDebuggerUrl"], max_size=None, ping_interval=None) as socket:
            page = Page(socket)
            for domain in ("Page", "Network", "Runtime", "Log"):
                page.call(f"{domain}.enable")
            page.call("Page.navigate", url=url)
            yield page
    finally:
        process.terminate()
        process.wait(20 * PATIENCE)
