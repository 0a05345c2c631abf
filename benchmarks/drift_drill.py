"""The drift drill: the whole loop turns on small data, unattended, and every step is in the UI.

A small model is trained and promoted. Ordinary faces come, then darker, blurred, tighter cropped
and differently mixed ones. Monitoring (a Prefect deployment) finds the drift and emits its event;
the event starts retraining (another deployment), which takes in the kept faces; the gate lets the
challenger through, and it answers from then on. At last a challenger that was spoilt on purpose
meets the gate.

    make drift-drill

Leaves everything under `runs/drill` and writes `benchmarks/results/drift_drill.json`.
Prefect's UI is at http://127.0.0.1:4747 while it runs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
ROOT = Path("runs/drill")
PORT = 4747
SERVER = f"http://127.0.0.1:{PORT}/api"
SMALL: dict[str, Any] = {
    "model": {"stem": 16, "widths": [16, 32, 64], "blocks": [1, 1, 1]},
    "compute": {"threads": 1, "workers": 1},
    "prepare": {
        "image_size": 24,
        "sources": [
            {"name": "synthetic", "kind": "synthetic", "seed": 0, "labelled": 420,
             "validation": 210, "test": 700, "unlabelled": 1500},
        ],
    },
    "pretrain": {"epochs": 8, "steps_per_epoch": 30},
    "cluster": {"rounds": 2, "epochs": 2, "steps_per_epoch": 30},
    "finetune": {"epochs": 6, "steps_per_epoch": 30},
    "package": {"reference_faces": 900},
    "promotion": {"min_accuracy": 0.3, "max_accuracy_loss": 0.06, "max_recall_loss": 0.25,
                  "significance": 0.001, "max_ece": 0.2},
    "monitoring": {"cooldown_hours": 0.0, "retrainings_per_day": 10},
}  # fmt: skip
SPOILT: dict[str, Any] = {
    "finetune": {"epochs": 1, "steps_per_epoch": 10, "learning_rate": 1.0, "ema_decay": 0.5}
}
SEED = 99


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--serve-flows", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().serve_flows:
        serve_flows(ROOT.resolve())
        return
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    os.environ |= {
        "PREFECT_HOME": str(ROOT.resolve() / "prefect"),
        "BENTOML_HOME": str(ROOT.resolve() / "bentoml"),
        "PREFECT_API_URL": SERVER,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--port", str(PORT)]
    with running([*prefect, "--host", "127.0.0.1"], "server.log"):
        wait(lambda: urllib.request.urlopen(f"{SERVER}/health", timeout=5), 180, "the server")
        with running(
            [sys.executable, "-m", "benchmarks.drift_drill", "--serve-flows"], "flows.log"
        ):
            drill(ROOT.resolve())


def serve_flows(root: Path) -> None:
    """Both flows as deployments; the event of one starts the other."""
    from prefect import serve
    from prefect.events import DeploymentEventTrigger

    from flows.monitoring import EVENT, monitoring
    from flows.retraining import retraining

    trigger = DeploymentEventTrigger(
        expect={EVENT}, parameters={"reason": "{{ event.payload.reason }}"}
    )
    serve(
        monitoring.to_deployment("drill", parameters={"workspace": str(root)}),
        retraining.to_deployment(
            "drill", parameters={"workspace": str(root)}, triggers=[trigger], concurrency_limit=1
        ),
    )


def drill(root: Path) -> None:
    from _results import machine, write_result

    from flows.training import training
    from mien.errors import MienError
    from mien.params import merge, read_yaml
    from mien.promotion import commands, releases
    from mien.workspace import default_params, make_workspace

    started = time.perf_counter()
    steps: list[dict[str, Any]] = []

    def say(step: str, **figures: Any) -> None:
        seconds = round(time.perf_counter() - started)
        steps.append({"step": step, "second": seconds, **figures})
        print(f"{seconds:5d} s  {step}  {figures or ''}", flush=True)

    wait(deployed, 180, "the deployments")
    make_workspace(root / "workspace", merge(default_params(), SMALL))
    trained = root / "workspace"
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(trained / name, root / name)
    assert training(workspace=trained, return_state=True).is_completed()
    commands.promote(root, trained)
    first = releases.read_champion(root)
    assert first is not None
    say("the first champion", tag=first["tag"])

    send(root, 300, drifted=False)
    say("300 ordinary faces", verdict=look())
    send(root, 600, drifted=True)
    say("600 drifted faces", verdict=look())
    wait(lambda: changed(root, first["tag"]), 1500, "a new champion")
    second = releases.read_champion(root)
    assert second is not None
    say("a new champion answers", tag=second["tag"])

    figures = {
        which: {
            name: accuracy(releases.find_model(pointer["tag"]), which == "drifted")
            for name, pointer in (("before", first), ("after", second))
        }
        for which in ("ordinary", "drifted")
    }
    lost = figures["ordinary"]["before"] - figures["drifted"]["before"]
    regained = figures["drifted"]["after"] - figures["drifted"]["before"]
    say("accuracy", **figures, regained_share=regained / lost)

    renewal = root / "runs" / "renewal"
    make_workspace(renewal, merge(read_yaml(renewal / "params.yaml"), SPOILT))
    assert training(workspace=renewal, return_state=True).is_completed()
    try:
        commands.promote(root, renewal)
        raise SystemExit("the gate let a spoilt challenger through")
    except MienError as error:
        say("a spoilt challenger is refused", reason=str(error))
    assert releases.read_champion(root) == second
    write_result("drift_drill", {"steps": steps, "settings": SMALL, "machine": machine()})


def send(root: Path, count: int, drifted: bool) -> None:
    """Faces to the champion; its answers go to the log, and drifted faces are kept."""
    import json

    import cv2
    from drift import Network

    from mien.files import write_text
    from mien.monitoring.reference import read_reference
    from mien.promotion.releases import served_package

    package = served_package(root)
    reference = read_reference(package)
    faces, _ = draw(count, drifted, SEED)
    described = Network(package, reference).describe(faces)
    data = root / "logs" / "predictions" / "data"
    kept = root / "logs" / "predictions" / "images"
    for folder in (data, kept):
        folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(described.to_dict("records")):
        name = f"{time.time_ns()}-{number}.png"
        if drifted:
            cv2.imwrite(str(kept / name), faces[number])
        size = row.pop("face_size")
        lines.append(
            json.dumps(
                {
                    "time": datetime.now(UTC).isoformat(),
                    "request_id": name[:-4],
                    "model": reference.version,
                    "faces": 1,
                    "face": 0,
                    "width": size,
                    "height": size,
                    "image": name if drifted else None,
                    **row,
                }
            )
        )
    write_text(data / f"data.{time.time_ns()}.log", "\n".join(lines) + "\n")


def draw(count: int, drifted: bool, seed: int) -> tuple[np.ndarray, list[str]]:
    """New faces and what they show; drifted ones are darker, blurred, tighter and happier."""
    from _degradations import blur, darken, zoom

    from mien.data.synthetic import render, synthetic_table
    from mien.data.synthetic.table import EVERYDAY
    from mien.params import SyntheticSource

    source = SyntheticSource(
        name="new", kind="synthetic", seed=seed, labelled=7, validation=7,
        test=7 if drifted else count, unlabelled=2 * count if drifted else 0,
    )  # fmt: skip
    table = synthetic_table(source, list(EVERYDAY))
    if drifted:
        table = table[(table["role"] == "unlabelled") & (table["true_label"] != "other")]
        labels = table["true_label"].tolist()[:count]
    else:
        table = table[table["role"] == "test"]
        labels = table["label"].tolist()[:count]
    faces = render(table["path"].tolist()[:count], labels, seed=seed, size=24)
    if drifted:
        for change in (zoom(1.25), blur(0.6), darken(0.5)):
            faces = change(faces)
    return faces, labels


def accuracy(package: Path, drifted: bool) -> float:
    """On faces that were never sent."""
    from mien.files import read_json
    from mien.promotion.gate import predict

    faces, labels = draw(700, drifted, SEED + 1)
    expressions = read_json(package / "labels.json")
    predicted = predict(package, faces).argmax(axis=1)
    return float(
        np.mean([expressions[p] == label for p, label in zip(predicted, labels, strict=True)])
    )


def look() -> str:
    """Run the monitoring deployment; returns the verdict."""
    from prefect.deployments import run_deployment

    run = run_deployment("monitoring/drill", timeout=300)
    name: str = run.state.name
    return name


def deployed() -> bool:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return len(client.read_deployments()) >= 2


def changed(root: Path, tag: str) -> bool:
    from mien.promotion.releases import read_champion

    pointer = read_champion(root)
    return pointer is not None and pointer["tag"] != tag


def wait(ready: Any, seconds: float, what: str) -> None:
    """Until ``ready`` gives something true; what it raises counts as false, and is told at last."""
    last = ""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except Exception as error:  # not there yet, in whatever way
            last = f" ({type(error).__name__}: {error})"
        time.sleep(2)
    raise SystemExit(f"{what} did not come within {seconds:.0f} s{last}; see {ROOT}/*.log")


@contextmanager
def running(command: list[str], log: str) -> Iterator[None]:
    with (ROOT / log).open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    main()
