"""Take the pictures of the report, the served page and Prefect's UI in ``docs/images/`` with a
headless Chromium.

    make run
    python docs/screenshots.py report

    make serve                           # in another terminal, after `make run`
    python docs/screenshots.py service

    make ui                              # in another terminal
    python docs/screenshots.py prefect   # after a few runs, one of which failed its validation

Of Prefect's the longest run of the deployment is shown, and the newest results and failing rows.
"""

import argparse
import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from websockets.sync.client import ClientConnection, connect

IMAGES = Path(__file__).resolve().parent / "images"
ROOT = IMAGES.parents[1]
REPORT = ROOT / "reports" / "evaluation" / "index.html"
SERVICE = "http://127.0.0.1:3000"
PORT = 9333
SETTLES = 6.0
"""Seconds that a page has to fetch and draw its parts."""


def main() -> None:
    """Take the pictures that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["report", "service", "prefect"])
    parser.add_argument("--url", default="http://127.0.0.1:4200", help="of Prefect")
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="such as prefect-run")
    options = parser.parse_args()

    if options.what == "report":
        if not REPORT.is_file():
            parser.error(f"{REPORT} is not there; run the pipeline first")
        pages = {"report": (REPORT.as_uri(), 1338, "")}
    elif options.what == "service":
        pages = {"serving-page": (SERVICE, 1400, "")}
    else:
        pages = prefect_pages(options.url)
    if missing := set(options.only) - set(pages):
        parser.error(f"no such picture, or nothing there to show: {', '.join(sorted(missing))}")
    IMAGES.mkdir(exist_ok=True)
    with browser(options.chromium) as page:
        for name in options.only or pages:
            photo = drawn_photo() if options.what == "service" else None
            picture = shoot(page, *pages[name], photo)
            (IMAGES / f"{name}.png").write_bytes(picture)
            print(f"written: docs/images/{name}.png ({len(picture) // 1024} kB)")


def prefect_pages(url: str) -> dict[str, tuple[str, int, str]]:
    """Address, height in pixels and tab of each picture of the UI at ``url``."""

    def newest(path: str, **body: Any) -> list[dict[str, Any]]:
        response = httpx.post(f"{url}/api/{path}/filter", json=body, timeout=30)
        response.raise_for_status()
        return response.json()

    runs = newest("flow_runs", sort="START_TIME_DESC", flow_runs={"tags": {"all_": ["training"]}})
    longest = max(runs, key=lambda run: run["total_run_time"])
    (deployment,) = (d for d in newest("deployments") if d["name"] == "weekly")
    newest_of = {known["key"]: known["latest_id"] for known in newest("artifacts/latest")}
    run = f"{url}/runs/flow-run/{longest['id']}"
    schedule = f"{url}/deployments/deployment/{deployment['id']}"
    pages = {
        "prefect-run": (run, 900, ""),
        "prefect-artifacts": (run, 1500, "Artifacts"),
        "prefect-schedule": (schedule, 900, ""),
        "prefect-custom-run": (f"{schedule}/run", 1400, ""),
    }
    shown = {"results": "training-results", "failing-rows": "validate-failing-rows"}
    for name, key in {**shown, "prototypes": "cluster-prototypes"}.items():
        if key in newest_of:
            pages[f"prefect-{name}"] = (f"{url}/artifacts/artifact/{newest_of[key]}", 1000, "")
    return pages


@contextmanager
def browser(chromium: str) -> Iterator[ClientConnection]:
    """A page of a headless Chromium, spoken to in the DevTools protocol."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                chromium,
                "--headless=new",
                "--no-sandbox",
                "--hide-scrollbars",
                f"--remote-debugging-port={PORT}",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(100):
                try:
                    targets = httpx.get(f"http://127.0.0.1:{PORT}/json", timeout=5).json()
                    break
                except httpx.HTTPError:
                    time.sleep(0.3)
            (target,) = (target for target in targets if target["type"] == "page")
            with connect(target["webSocketDebuggerUrl"], max_size=2**26) as page:
                yield page
        finally:
            process.terminate()
            process.wait()


def drawn_photo() -> Path:
    """A photo of three test faces that `make run` has drawn, in which the service finds them."""
    from mien.data.manifest import read_manifest

    prepared = ROOT / "data" / "prepared"
    table = read_manifest(prepared / "manifest.parquet")
    store = np.load(prepared / "faces.npy", mmap_mode="r")
    tests = table[table["split"] == "test"]
    photo = np.full((240, 680), 150, np.uint8)
    for place, label in enumerate(("surprise", "happy", "neutral")):
        row = tests.loc[tests["label"] == label, "row"].iloc[0]
        left = 40 + 210 * place
        photo[30:210, left : left + 180] = cv2.resize(np.asarray(store[row]), (180, 180))
    path = Path(tempfile.gettempdir()) / "photo.png"
    cv2.imwrite(str(path), photo)
    return path


def shoot(page: ClientConnection, url: str, height: int, tab: str, photo: Path | None) -> bytes:
    """PNG of a page, 1300 pixels wide; ``tab`` is clicked on, or ``photo`` chosen, first."""
    say(
        page,
        "Emulation.setDeviceMetricsOverride",
        width=1300,
        height=height,
        deviceScaleFactor=1,
        mobile=False,
    )
    say(page, "Page.navigate", url=url)
    time.sleep(SETTLES)
    if tab:
        found = (
            "[...document.querySelectorAll('*')]"
            f".find(e => !e.children.length && e.textContent.trim() == '{tab}')"
        )
        say(page, "Runtime.evaluate", expression=f"{found}.click()")
        time.sleep(SETTLES)
    if photo:
        root = say(page, "DOM.getDocument")["root"]["nodeId"]
        chooser = say(page, "DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        say(page, "DOM.setFileInputFiles", nodeId=chooser, files=[str(photo)])
        time.sleep(SETTLES)
    return base64.b64decode(say(page, "Page.captureScreenshot", format="png")["data"])


def say(page: ClientConnection, method: str, **parameters: Any) -> dict[str, Any]:
    """One command, and its answer; events in between are let go."""
    page.send(json.dumps({"id": 1, "method": method, "params": parameters}))
    while True:
        answer = json.loads(page.recv(timeout=60))
        if answer.get("id") == 1:
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            return answer["result"]


if __name__ == "__main__":
    main()
