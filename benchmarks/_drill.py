"""What the drift drill needs around it: processes that end with it, and faces to send."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.data.synthetic import render, synthetic_table
from mien.data.synthetic.table import EVERYDAY
from mien.evaluation.degradations import blur, darken, zoom
from mien.params.faces import SyntheticSource
from mien.serving.client import Client

_BATCH = 64


class House:
    """Prefect's server, the flows and the service of one workspace."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.port = root, port
        self.api = f"http://127.0.0.1:{port}/api"
        self.service = f"http://127.0.0.1:{port + 1}"
        home = root / ".mien"
        os.environ |= {
            "PREFECT_HOME": str(home / "prefect"),
            "BENTOML_HOME": str(home / "bentoml"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        home.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def prefect(self) -> Iterator[None]:
        """The server, and both flows as deployments."""
        python = [sys.executable, "-m"]
        server = [*python, "prefect", "server", "start", "--host", "127.0.0.1"]
        flows = [*python, "benchmarks.drift_drill", "--serve-flows", str(self.root)]
        with self._running("server", [*server, "--port", str(self.port)]):
            self.wait(lambda: urllib.request.urlopen(f"{self.api}/health", timeout=5), 600)
            with self._running("flows", flows):
                self.wait(_deployed, 600)
                yield

    @contextmanager
    def served(self) -> Iterator[Client]:
        """The champion behind HTTP, as `make serve` starts it, with all faces kept."""
        command = [sys.executable, "-m", "mien.serving", "--port", str(self.port + 1)]
        with self._running("service", command, cwd=self.root, MIEN_LOG_IMAGES="1"):
            self.wait(lambda: urllib.request.urlopen(f"{self.service}/readyz", timeout=5), 600)
            with Client(self.service) as client:
                yield client

    def wait(self, ready: Callable[[], Any], seconds: float) -> None:
        """Until ``ready`` gives something true; what it raises counts as false."""
        last = ""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if ready():
                    return
            except Exception as error:  # not there yet, in whatever way
                last = f" ({type(error).__name__}: {error})"
            time.sleep(1)
        raise SystemExit(f"not within {seconds:.0f} s{last}; see {self.root}/.mien/*.log")

    @contextmanager
    def _running(
        self, name: str, command: list[str], cwd: Path | None = None, **environment: str
    ) -> Iterator[None]:
        with (self.root / ".mien" / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _deployed() -> bool:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return len(client.read_deployments()) >= 2


def draw(count: int, drifted: bool, seed: int, size: int) -> tuple[np.ndarray, list[str]]:
    """Faces of new people, and what they show; drifted ones are darker, blurred, tighter and
    mixed as in everyday life, ordinary ones show each expression equally often."""
    source = SyntheticSource(
        name="new", kind="synthetic", seed=seed, labelled=7, validation=7,
        test=7 if drifted else count, unlabelled=10 * count if drifted else 0,
    )  # fmt: skip
    table = synthetic_table(source, list(EVERYDAY))
    role, column = ("unlabelled", "true_label") if drifted else ("test", "label")
    table = table[(table["role"] == role) & (table[column] != "other")]
    if drifted:  # one picture of a person: eight of each, as in everyday life, are no sample
        table = table.groupby("identity").head(1)
    table = table.head(count)
    labels = table[column].tolist()
    faces = render(table["path"].tolist(), labels, seed=seed, size=size)
    if drifted:
        for change in (zoom(1.25), blur(1.2), darken(0.5)):
            faces = change(faces)
    return faces, labels


def send(client: Client, faces: np.ndarray, labels: list[str]) -> dict[str, float]:
    """Ask the service; the shares of right answers and of faces that it calls unfamiliar."""
    answers = []
    for start in range(0, len(faces), _BATCH):
        crops = [cv2.imencode(".png", face)[1].tobytes() for face in faces[start : start + _BATCH]]
        answers += client.predict(crops).faces
    right = [answer.expression == label for answer, label in zip(answers, labels, strict=True)]
    return {
        "right": float(np.mean(right)),
        "unfamiliar": float(np.mean([answer.reason == "unfamiliar" for answer in answers])),
    }
