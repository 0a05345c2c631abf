"""What a connection may send before it has asked for something."""

import asyncio
import socket
import threading
import time

import httpx
import psutil
import pytest
import uvicorn

from mien.serving import connection
from mien.serving.connection import MAX_HEAD, Connection
from tests.patience import PATIENCE

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMIT = 0.5 * PATIENCE


@pytest.fixture
def port(monkeypatch):
    """An application that takes longer than the limit for ``/slow``, in this process."""
    monkeypatch.setattr(connection, "UPLOAD_SECONDS", LIMIT)

    async def app(scope, receive, send):
        if scope["path"] == "/slow":
            await asyncio.sleep(2 * LIMIT)
        if scope["path"] == "/body":
            while (await receive()).get("more_body"):
                pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    config = uvicorn.Config(app, http=Connection, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def read_to_end(sock: socket.socket) -> bytes:
    parts = b""
    while part := sock.recv(65536):
        parts += part
    return parts


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", 0),
        (GET[:20], 0),
        (b"\r\n\r\n", 0),
        (GET + GET[:20], 1),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx",
            1,
        ),  # asks for no body
    ],
    ids=["nothing", "half-head", "lines", "half-second-head", "half-body"],
)
def test_what_is_half_sent_is_closed(port, sent, answers):
    started = time.monotonic()
    with connect(port) as sock:
        sock.sendall(sent)
        assert read_to_end(sock).count(b"answer") == answers
    assert LIMIT - 0.1 < time.monotonic() - started < 6 * LIMIT


def test_a_head_that_trickles_is_closed(port):
    started = time.monotonic()
    with connect(port) as sock, pytest.raises(OSError, match=r"reset|[Bb]roken"):
        sock.sendall(GET[:-4])
        while time.monotonic() < started + 10 * LIMIT:
            sock.sendall(b"\r\nX: y")
            time.sleep(LIMIT / 10)
    assert LIMIT - 0.1 < time.monotonic() - started < 6 * LIMIT


def test_a_connection_that_is_used_stays(port):
    """Longer than the limit, whether it rests between requests or one takes its time."""
    with connect(port) as sock:
        for _ in range(10):
            sock.sendall(GET)
            assert sock.recv(65536).endswith(b"0\r\n\r\n")
            time.sleep(LIMIT / 5)
        sock.sendall(GET.replace(b"/ ", b"/slow ", 1))
        assert sock.recv(65536).endswith(b"0\r\n\r\n")
        sock.sendall(GET.replace(b"/ ", b"/slow ", 1) + GET + GET)  # all at once
        parts = b""
        while parts.count(b"answer") < 3:
            part = sock.recv(65536)
            assert part
            parts += part


def send_much(sock: socket.socket, much: int, piece: bytes) -> int:
    """How much of it was sent until the connection was closed."""
    sent = 0
    try:
        while sent < much:
            sock.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


LINES = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 4000) for i in range(16))


@pytest.mark.parametrize(
    "head",
    [
        GET[:-2],
        b"GET /",
        GET + GET[:-2],
        GET.replace(b"/ ", b"/slow ", 1) + GET[:-2],
        CHUNKED + b"1\r\nx\r\n0\r\n",
        CHUNKED.replace(b"/ ", b"/body ", 1) + b"0\r\n",
    ],
    ids=["headers", "path", "second", "pipelined", "trailers-after-answer", "trailers"],
)
def test_a_large_head_is_cut_off(port, head):
    with connect(port) as sock:
        sock.sendall(head)
        piece = b"a" * 65536 if head.endswith(b"/") else LINES
        assert (
            send_much(sock, 100 * 2**20, piece) < 20 * 2**20
        )  # most of it in the socket's buffers


def test_a_large_head_is_told(port):
    with connect(port) as sock:
        sock.sendall(GET[:-2])
        time.sleep(0.1)
        sock.sendall(b"X: " + b"a" * MAX_HEAD)
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b'{"error": "a request\'s head may have 64 KiB at most"}')


def test_large_bodies_are_no_heads(port):
    def chunks():
        for size in (1, 7, 100_000, 1_000_000):
            yield b"x" * size

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        for content in (b"x" * 5_000_000, chunks(), b"x" * 5_000_000):
            assert client.post("/body", content=content).text == "answer"
        headers = {"X": "a" * (MAX_HEAD - 1000)}
        assert client.get("/", headers=headers).text == "answer"


def test_memory_does_not_grow_with_the_heads_of_the_service(server):
    """It grew by all that was sent: 820 MB with 800 MB of headers, which nobody had a key for."""
    processes = psutil.Process(server.pid).children(recursive=True)
    before = sum(process.memory_info().rss for process in processes)
    port = int(server.url.rpartition(":")[2])
    for _ in range(3):
        with connect(port) as sock:
            sock.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n")
            assert send_much(sock, 100 * 2**20, LINES) < 20 * 2**20
    assert sum(process.memory_info().rss for process in processes) - before < 30 * 2**20
    assert httpx.get(f"{server.url}/info").status_code == 200


@pytest.mark.slow
def test_half_sent_heads_do_not_stay_at_the_service(server):
    port = int(server.url.rpartition(":")[2])
    waiting = [connect(port) for _ in range(100)]
    for sock in waiting:
        sock.sendall(GET[:20])
        sock.settimeout(40)
    assert [sock.recv(10) for sock in waiting] == [b""] * 100
    for sock in waiting:
        sock.close()
