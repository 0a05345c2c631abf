"""A packaged network of random weights, and the real service with it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.numpy import save_file

from mien import packaging
from mien.data.dataset import to_tensor
from mien.data.manifest import measure
from mien.files import write_json, write_text
from mien.model.accnn import ACCNN
from mien.model.export import Deployable, export_onnx
from mien.model.weights import save_weights
from mien.params.learning import ModelSettings

EXPRESSIONS = ("happy", "sad", "neutral")
SIZE = 48


def draw_faces(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random grey pictures ``[n, 48, 48]``, uint8."""
    rough = torch.from_numpy(np.random.default_rng(seed).random((count, 1, 6, 6), np.float32))
    smooth = torch.nn.functional.interpolate(rough, size=(SIZE, SIZE), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).to(torch.uint8).numpy()[:, 0]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "package"
    folder.mkdir()
    torch.manual_seed(0)
    settings = ModelSettings.model_validate(
        {
            "convolution": "affinity",
            "kernel": 3,
            "ratio": 2,
            "transform": "depthwise",
            "stem": 8,
            "widths": [8, 16],
            "blocks": [1, 1],
        }
    )
    model = ACCNN(settings, len(EXPRESSIONS)).train()
    faces = draw_faces(300)
    model(to_tensor(faces))
    model.eval()
    deployable = Deployable(model, 0.5)
    export_onnx(folder / packaging.ONNX, deployable, SIZE, EXPRESSIONS)
    save_weights(folder / packaging.WEIGHTS, model, EXPRESSIONS, SIZE)
    with torch.no_grad():
        probabilities, _, embeddings = (each.numpy() for each in deployable(to_tensor(faces)))
    projection = packaging.fit_projection(embeddings, 4)
    save_file(projection, folder / packaging.PROJECTION)
    rows = measure(faces).assign(face_id="", width=SIZE, height=SIZE)
    reference: pd.DataFrame = packaging.describe_reference(
        rows, probabilities, embeddings, EXPRESSIONS, projection
    )
    reference.to_parquet(folder / packaging.REFERENCE)
    metadata = {
        "name": "mien",
        "version": packaging.make_version(folder, 0.4, "lock"),
        "expressions": EXPRESSIONS,
        "image_size": SIZE,
        "embedding_size": 16,
        "temperature": 0.5,
        "abstention_threshold": 0.4,
        "accuracy": {"held_out": 0.5},
        "lock": "lock",
    }
    write_json(folder / packaging.METADATA, metadata)
    write_json(folder / packaging.LABELS, EXPRESSIONS)
    write_json(folder / packaging.CARD, {"model": {"name": "mien"}, "use": {"forbidden": ["x"]}})
    write_text(folder / packaging.CARD_TEXT, "# Mien\n")
    return folder


class Server:
    """A service that runs: where, with which log, as which process."""

    def __init__(self, url: str, logs: Path, pid: int) -> None:
        self.url, self.logs, self.pid = url, logs, pid


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def listening(pid: int) -> set[str]:
    """Where a process and those that it started listen for TCP."""
    parent = psutil.Process(pid)
    return {
        f"http://{each.laddr.ip}:{each.laddr.port}"
        for process in (parent, *parent.children(recursive=True))
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


@contextmanager
def serving(workspace: Path, **environment: str) -> Iterator[Server]:
    """``python -m mien.serving`` in a folder, as `make serve` starts it; ended with its workers."""
    port = free_port()
    workspace.mkdir(parents=True, exist_ok=True)
    output = workspace / "server.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mien.serving", "--port", str(port)],
            cwd=workspace,
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, output)
        yield Server(f"http://127.0.0.1:{port}", workspace / "logs", process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, output.read_text()
            time.sleep(0.1)
    raise AssertionError(output.read_text())


@pytest.fixture(scope="session")
def server(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served"), MIEN_MODEL=str(package)) as running:
        yield running


@pytest.fixture(scope="session")
def start() -> Callable[..., object]:
    return serving
