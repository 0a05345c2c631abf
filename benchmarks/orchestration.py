"""What Prefect costs: a run with nothing to do, and its share of the default run.

    python benchmarks/orchestration.py
    python benchmarks/orchestration.py --only idle      # a minute; the other part's figures stay

Brings up `make ui` with a home and workspaces of its own. Part ``idle`` makes all eight stages run
once on ``configs/tiny.yaml`` and then times, ``--repeats`` times, runs of the deployment with
nothing to do, from the request to the end. Part ``default`` makes one run of the deployment with
the project's own settings and, while the worker executes it, notes when a stage's processes (DVC
and what it starts) are alive. All the rest of that run is counted as Prefect's: its own work, the
artifacts, and also what the flow asks DVC in between, so that the share is an upper bound. Both
halves lie in one run, so that a busy machine slows both. Writes
``benchmarks/results/orchestration.json``.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from _results import FOLDER, machine, write_result

from mien.files import read_json
from mien.workspace import default_params, make_workspace
from mien.yaml_files import merge, read_yaml

ROOT = FOLDER.parents[1]
PORT = 4390
API = f"http://127.0.0.1:{PORT}/api"
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PARTS = ("idle", "default")
POLL = 0.1
"""Seconds between two looks at the processes."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="one part; the other's figures stay")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    parts = [options.only] if options.only else PARTS
    written = FOLDER / "orchestration.json"
    result = read_json(written) if written.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="mien-orchestration-") as folder:
        home = Path(folder)
        os.environ["BENTOML_HOME"] = str(home / "bentoml")
        with prefect(home) as (ui, up):
            if "idle" in parts:
                result["idle"] = {"seconds_until_up": up, **idle(home / "tiny", options.repeats)}
            if "default" in parts:
                result["default"] = default(home / "default", ui)
    result["machine"] = {**machine(), "prefect": version("prefect"), "dvc": version("dvc")}
    for part in PARTS:
        for key, value in result.get(part, {}).items():
            print(f"{part:8} {key:32} {value}")
    write_result("orchestration", result)


def idle(workspace: Path, repeats: int) -> dict[str, Any]:
    """Runs with nothing to do on a running server."""
    make(workspace, read_yaml(ROOT / "configs" / "tiny.yaml"))
    execute(workspace)
    runs = [execute(workspace) for _ in range(repeats)]
    assert all(run["name"] == "nothing changed" for run in runs)
    return {
        "median_seconds_from_request_to_end": statistics.median(run["total"] for run in runs),
        "median_seconds_of_the_run": statistics.median(run["total_run_time"] for run in runs),
        "seconds_from_request_to_end": [run["total"] for run in runs],
    }


def default(workspace: Path, ui: int) -> dict[str, Any]:
    """The default run, and how much of it no stage was at work."""
    make(workspace, {})
    with stages_at_work(ui) as seconds:
        run = execute(workspace)
    stages = sum(seconds)
    return {
        "seconds_of_the_run": run["total_run_time"],
        "seconds_of_stages": stages,
        "stages": len(seconds),
        "prefect_share": 1 - stages / run["total_run_time"],
        "seconds_from_request_to_end": run["total"],
        "prefect_share_from_request_to_end": 1 - stages / run["total"],
    }


def make(workspace: Path, settings: Mapping[str, Any]) -> None:
    """A workspace with the project's settings and these laid over them."""
    make_workspace(workspace, merge(default_params(), settings))


@contextmanager
def prefect(home: Path) -> Iterator[tuple[int, float]]:
    """`make ui` on a fresh machine: its process, and the seconds until it was up."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "flows.ui", "--port", str(PORT), "--workspace", str(home)],
        cwd=ROOT,
        env={**os.environ, "PREFECT_HOME": str(home / "prefect")},
        stdout=subprocess.PIPE,
        text=True,
    ) as ui:
        try:
            assert ui.stdout is not None
            if not any("Ctrl-C stops" in line for line in ui.stdout):
                raise RuntimeError("`make ui` ended by itself; see above")
            # Whoever reads no more would stop the server at its next line.
            threading.Thread(target=ui.stdout.read, daemon=True).start()
            yield ui.pid, time.monotonic() - started
        finally:
            ui.send_signal(signal.SIGINT)
            ui.wait()


@contextmanager
def stages_at_work(ui: int) -> Iterator[list[float]]:
    """The seconds for which each stage's processes lived; complete when the context ends."""
    seconds: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for guard in guards(ui):
                started = time.monotonic()
                with suppress(psutil.NoSuchProcess):
                    while guard.is_running() and guard.status() != psutil.STATUS_ZOMBIE:
                        time.sleep(POLL)
                seconds.append(time.monotonic() - started)
            time.sleep(POLL)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seconds
    finally:
        ended.set()
        thread.join()


def guards(ui: int) -> list[psutil.Process]:
    """The processes below ``ui`` that hold a stage's process group (`mien.guard`)."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(ui).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.cmdline()[1:3] == ["-m", "mien.guard"]:
                    found.append(process)
    return found


def execute(workspace: Path) -> dict[str, Any]:
    """A run of the deployment once it has ended; ``total`` is the time since the request."""
    started = time.monotonic()
    deployment = call("GET", "deployments/name/training/weekly")
    run = call(
        "POST",
        f"deployments/{deployment['id']}/create_flow_run",
        parameters={"workspace": str(workspace)},
        state={"type": "SCHEDULED"},
    )
    while run["state_type"] not in ENDS:
        time.sleep(0.2)
        run = call("GET", f"flow_runs/{run['id']}")
    if run["state_type"] != "COMPLETED":
        raise RuntimeError(run["state"]["message"])
    return {**run, "total": time.monotonic() - started}


def call(method: str, path: str, **body: Any) -> Any:
    """The server's answer."""
    response = httpx.request(method, f"{API}/{path}", json=body or None, timeout=60)
    response.raise_for_status()
    return response.json()


if __name__ == "__main__":
    main()
