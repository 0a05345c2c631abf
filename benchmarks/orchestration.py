"""What Prefect costs: a run with nothing to do, and its share of the default run.

    python benchmarks/orchestration.py

Brings up `make ui` with a home and a workspace of its own (``configs/tiny.yaml``: all eight stages,
seconds of work each) and times, alternating, ``--repeats`` times each:

- all stages by force without Prefect (`mien.pipeline` alone, as `mien run` does it),
- the same as a run of the deployment, executed by the worker,
- a run of the deployment with nothing to do, from the request to its end.

The difference of the first two is what Prefect adds; its share is of the default run's seconds in
``benchmarks/results/pipeline-default.json``. Writes ``benchmarks/results/orchestration.json``.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from _results import FOLDER, machine, write_result

from mien.files import read_json
from mien.params import merge, read_yaml
from mien.pipeline import open_pipeline
from mien.workspace import default_params, make_workspace

ROOT = FOLDER.parents[1]
PORT = 4390
API = f"http://127.0.0.1:{PORT}/api"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mien-orchestration-") as folder:
        home = Path(folder)
        workspace = home / "run"
        tiny = read_yaml(ROOT / "configs" / "tiny.yaml")
        os.environ["BENTOML_HOME"] = str(home / "bentoml")
        make_workspace(workspace, merge(default_params(), tiny))
        seconds_without(workspace)  # the first one fills caches
        started = time.monotonic()
        ui = subprocess.Popen(
            [sys.executable, "-m", "flows.ui", "--port", str(PORT), "--workspace", workspace],
            cwd=ROOT,
            env={**os.environ, "PREFECT_HOME": str(home / "prefect")},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert ui.stdout is not None
            for line in ui.stdout:
                if "Ctrl-C stops" in line:
                    break
            up = time.monotonic() - started
            without, with_prefect, idle = [], [], []
            for _ in range(options.repeats):
                without.append(seconds_without(workspace))
                with_prefect.append(seconds_with(workspace, force=True))
                idle.append(seconds_with(workspace, force=False))
        finally:
            ui.send_signal(signal.SIGINT)
            ui.wait()
    default = [run["seconds"] for run in read_json(FOLDER / "pipeline-default.json")["runs"]]
    added = statistics.median(w["run"] - o for w, o in zip(with_prefect, without, strict=True))
    result = {
        "machine": {**machine(), "prefect": version("prefect"), "dvc": version("dvc")},
        "seconds_until_up_on_a_fresh_machine": up,
        "nothing_to_do": idle,
        "all_stages_with_prefect": with_prefect,
        "all_stages_without": without,
        "summary": {
            "nothing_to_do_total_seconds": statistics.median(run["total"] for run in idle),
            "nothing_to_do_run_seconds": statistics.median(run["run"] for run in idle),
            "prefect_adds_seconds": added,
            "default_run_seconds": statistics.median(default),
            "share_of_default_run": added / statistics.median(default),
        },
    }
    for key, value in result["summary"].items():
        print(f"{key:30} {value:.4g}")
    write_result("orchestration", result)


def seconds_without(workspace: Path) -> float:
    """All stages by force, in the order of the graph, by DVC alone."""
    started = time.monotonic()
    with open_pipeline(workspace) as pipeline:
        for stage in pipeline.stages():
            pipeline.run(stage, lambda line: None, force=True)
    return time.monotonic() - started


def seconds_with(workspace: Path, force: bool) -> dict[str, float]:
    """A run of the deployment: from the request to the end, and Prefect's own figure for it."""
    started = time.monotonic()
    deployment = call("GET", "deployments/name/training/weekly")
    run = call(
        "POST",
        f"deployments/{deployment['id']}/create_flow_run",
        parameters={"workspace": str(workspace), "force": force},
        state={"type": "SCHEDULED"},
    )
    while run["state_type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        time.sleep(0.1)
        run = call("GET", f"flow_runs/{run['id']}")
    if run["state_type"] != "COMPLETED":
        raise RuntimeError(run["state"]["message"])
    return {"total": time.monotonic() - started, "run": run["total_run_time"]}


def call(method: str, path: str, **body: Any) -> Any:
    """The server's answer."""
    response = httpx.request(method, f"{API}/{path}", json=body or None, timeout=30)
    response.raise_for_status()
    return response.json()


if __name__ == "__main__":
    main()
