"""The running service: what it answers, and what it answers to what it can't use."""

import asyncio
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from mien.data.dataset import to_tensor
from mien.data.faces import decode_picture
from mien.data.manifest import measure
from mien.model.export import Deployable
from mien.model.weights import load_weights
from mien.monitoring.log import read_window
from mien.monitoring.reference import read_reference
from mien.serving.answers import Analysis, Info, Prediction
from mien.serving.client import Client
from mien.serving.guard import MAX_REQUESTS
from tests.serving.conftest import draw_faces, free_port, listening


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


FACE = draw_faces(1)[0]


def send(server, data: bytes, route: str = "predict", kind: str = "image/png") -> httpx.Response:
    return httpx.post(f"{server.url}/{route}", content=data, headers={"Content-Type": kind})


def test_endpoint_onnx_and_pytorch_agree(server, package):
    faces = draw_faces(1000)
    deployable = Deployable(load_weights(package / "weights.safetensors").model, 0.5).eval()
    with torch.inference_mode():
        expected = deployable(to_tensor(faces))[0].numpy()
    found = []
    for start in range(0, len(faces), 64):
        files = [("images", encode(face)) for face in faces[start : start + 64]]
        answer = Prediction.model_validate(
            httpx.post(f"{server.url}/predict", files=files).raise_for_status().json()
        )
        found += [list(face.probabilities.values()) for face in answer.faces]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_photo_without_a_face_is_an_answer(server):
    answer = Analysis.model_validate(
        send(server, encode(np.full((90, 120), 99, np.uint8)), "analyze").json()
    )
    assert answer.faces == []
    assert answer.message == "no face was found"
    assert (answer.width, answer.height) == (120, 90)


def test_info(server):
    info = Info.model_validate(httpx.get(f"{server.url}/info").json())
    assert info.expressions == ["happy", "sad", "neutral"]
    assert info.card["model"]["name"] == "mien"


def logged(server, request_id):
    """The log's rows by request, once that of ``request_id`` is among them."""
    deadline = time.monotonic() + 20
    while True:
        rows = {
            row["request_id"]: row
            for path in (server.logs / "predictions/data").glob("data.*.log*")
            for row in map(json.loads, path.read_text().splitlines())
        }
        if request_id in rows:
            return rows
        assert time.monotonic() < deadline, "the row was never written"
        time.sleep(0.05)


def test_the_watcher_reads_what_the_service_writes(server, package):
    """Serving and monitoring share a format and no code: all rows count, each exactly once."""
    reference = read_reference(package)
    logged(server, send(server, encode(FACE)).json()["request_id"])
    before = read_window(server.logs, {}, reference)
    faces = draw_faces(3, seed=1)
    files = [("images", encode(face)) for face in faces]
    httpx.post(f"{server.url}/predict", files=files).raise_for_status()
    last = send(server, encode(np.full((50, 60), 9, np.uint8)), "analyze").json()
    logged(server, last["request_id"])
    window = read_window(server.logs, before.mark, reference)
    assert len(window.faces) == 3
    assert (window.pictures, window.photos, window.photos_without_face) == (4, 1, 1)
    assert window.skipped == {}
    assert not window.faces.isna().to_numpy().any()
    assert len(read_window(server.logs, window.mark, reference).faces) == 0


def test_each_face_is_a_row_of_the_log(server):
    pixels = np.kron(FACE, np.ones((2, 2), np.uint8))
    answer = send(server, encode(pixels)).json()
    empty = send(server, encode(np.full((50, 60), 9, np.uint8)), "analyze").json()
    rows = logged(server, empty["request_id"])
    row = rows[answer["request_id"]]
    face = answer["faces"][0]
    assert row["time"].endswith("+00:00")
    assert (row["route"], row["model"]) == ("predict", answer["model"])
    assert (row["faces"], row["face"], row["image"]) == (1, 0, None)
    assert (row["width"], row["height"]) == (96, 96)
    assert row["expression"] == face["expression"]
    assert row["abstains"] is face["abstains"]
    assert {name: row[f"probability_{name}"] for name in face["probabilities"]} == face[
        "probabilities"
    ]
    measured = measure(FACE[None]).iloc[0]
    for name in ("brightness", "contrast", "sharpness"):
        assert row[name] == pytest.approx(measured[name], rel=1e-5)
    assert {f"component_{i}" for i in range(1, 5)} <= set(row)
    row = rows[empty["request_id"]]
    assert row["faces"] == 0
    assert row["face"] is row["expression"] is row["component_4"] is row["width"] is None
    assert not list(server.logs.rglob("*.png"))


def test_metrics_count_faces(server):
    before = counted(server, "mien_predictions_total")
    send(server, encode(FACE))
    assert counted(server, "mien_predictions_total") == before + 1


def test_metrics_know_the_services_paths_alone(server):
    """Each path that anybody asked for left series for ever, also without the key."""
    send(server, encode(FACE))
    assert httpx.get(f"{server.url}/wp-login.php").status_code == 404
    text = httpx.get(f"{server.url}/metrics").text
    assert re.search('bentoml_service_request_total{endpoint="/predict"', text)
    assert "wp-login" not in text


def test_services_count_each_for_itself(server, package, tmp_path, start):
    before = counted(server, "mien_predictions_total")
    with start(tmp_path, MIEN_MODEL=str(package)) as other:
        send(other, encode(FACE))
        assert counted(other, "mien_predictions_total") == 1
        # a temporary folder stayed behind with each start
        assert any((tmp_path / f".mien/figures-{httpx.URL(other.url).port}").iterdir())
    send(server, encode(FACE))
    assert counted(server, "mien_predictions_total") == before + 1


def counted(server, name: str) -> float:
    """What a counter says, whatever its labels."""
    text = httpx.get(f"{server.url}/metrics").text
    return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.M)))


# --- pictures that are handled ------------------------------------------------------------------


def test_kinds_of_pictures(server):
    colour = np.stack([FACE] * 3, axis=-1)
    deep = io.BytesIO()
    Image.fromarray(FACE.astype(np.uint16) * 257).save(deep, "PNG")
    cmyk, palette = io.BytesIO(), io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(cmyk, "JPEG", quality=95)
    Image.fromarray(colour).convert("P").save(palette, "PNG")
    alpha = np.concatenate([colour, np.full((48, 48, 1), 255, np.uint8)], axis=-1)
    for data in (deep.getvalue(), cmyk.getvalue(), palette.getvalue(), encode(alpha)):
        assert send(server, data).status_code == 200
    exact = send(server, encode(FACE)).json()["faces"]
    for data in (deep.getvalue(), encode(alpha), encode(FACE, "TIFF")):
        assert send(server, data).json()["faces"] == exact


@pytest.mark.parametrize("kind", ["image/jpg", "image/jpeg", "image/anything"])
def test_the_bytes_say_what_a_picture_is(server, kind):
    assert send(server, encode(FACE, "JPEG"), kind=kind).status_code == 200


def test_a_turned_picture_is_put_upright(server):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = encode(np.rot90(FACE), "PNG", exif=exif)
    assert decode_picture(turned).tolist() == FACE.tolist()
    assert send(server, turned).json()["faces"] == send(server, encode(FACE)).json()["faces"]


# --- what can't be used -------------------------------------------------------------------------


def encode_large(side: int, mode: str = "1") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(face) for face in draw_faces(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("route", ["predict", "analyze"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is text", "not a picture"),
        (encode(draw_faces(1)[0], "JPEG")[:400], "truncated or broken"),
        (animated(), "animated"),
        (encode(np.zeros((1, 1), np.uint8)), "too small"),
        (encode_large(20_000), "giant"),
        (encode_large(8_000), "giant"),
        (b"GIF89a" + b"\xff" * 200, "not a picture"),
    ],
    ids=["empty", "text", "truncated", "animated", "1x1", "20000", "bomb", "broken-gif"],
)
def test_bad_pictures(server, route, data, message):
    answer = send(server, data, route)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert "/tmp" not in answer.text
    form = httpx.post(f"{server.url}/{route}", files={"images": ("a.png", data)})
    assert form.status_code == 400
    assert form.json()["error"].startswith("the picture: ")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/json", "application/vnd.bentoml+pickle"]
)
def test_wrong_content_type(server, kind):
    answer = send(server, encode(FACE), kind=kind)
    assert answer.status_code == 415
    assert kind in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"files": {"photo": encode(FACE)}}, 'unknown field "photo"'),
        ({"data": {"images": "http://127.0.0.1/x"}, "files": {"images": encode(FACE)}}, "text"),
        ({"data": {"temperature": "NaN"}, "files": {"images": encode(FACE)}}, "unknown field"),
        ({"files": {"images": encode(FACE)}, "params": {"top": "NaN"}}, 'unknown parameter "top"'),
        ({"files": [("images", b"x")] * 500}, "at most 64 pictures"),
        (
            {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data"}},
            "can't be read",
        ),
        (
            {
                "content": b"\x00\xff",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            "",
        ),
    ],
    ids=["field", "url", "nan", "parameter", "500-files", "no-boundary", "garbage"],
)
def test_bad_requests(server, request_, message):
    answer = httpx.post(f"{server.url}/predict", **request_)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_unknown_route_and_method(server):
    assert httpx.post(f"{server.url}/nothing", content=b"").status_code in (404, 405)
    answer = httpx.put(f"{server.url}/predict")
    assert answer.status_code == 405
    assert answer.json() == {"error": "Method Not Allowed"}


def raw(server, data: bytes, wait: float = 60) -> bytes:
    """What the service answers on a bare connection to which ``data`` are sent."""
    with connect(server, wait) as sock:
        sock.sendall(data)
        parts = b""
        while part := sock.recv(65536):
            parts += part
        return parts


def connect(server, wait: float = 60) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=wait)


def test_a_huge_upload_is_refused_from_its_header(server):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    started = time.monotonic()
    answer = raw(server, head + b"Content-Length: 209715200\r\n\r\n" + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - started < 5


def test_a_huge_chunked_upload_is_cut_off(server):
    def chunks():
        for _ in range(200):
            yield b"x" * 2**20

    try:
        answer = httpx.post(
            f"{server.url}/predict", content=chunks(), headers={"Content-Type": "image/png"}
        )
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # the service closed the connection before all was sent
    else:
        assert answer.status_code == 413
    assert send(server, encode(FACE)).status_code == 200


@pytest.mark.slow
def test_a_slow_upload_is_ended(server):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    assert raw(server, head + b"Content-Length: 100\r\n\r\nx").startswith(b"HTTP/1.1 408")


def test_overload_is_refused_and_passes(server):
    photo = np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)
    data = encode(photo, "JPEG")

    async def storm() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            return await asyncio.gather(
                *(
                    client.post(
                        f"{server.url}/analyze",
                        content=data,
                        headers={"Content-Type": "image/jpeg"},
                    )
                    for _ in range(100)
                )
            )

    answers = asyncio.run(storm())
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)
    assert send(server, encode(FACE)).status_code == 200


def test_metrics_are_answered_under_any_load(server):
    """They got 503, so that the figures of an overload were missing."""
    with ExitStack() as held:
        for _ in range(MAX_REQUESTS):  # uploads that have begun
            begin(server, held, "predict", b"x", length=100)
        while send(server, encode(FACE)).status_code != 503:
            time.sleep(0.05)
        assert "mien_predictions_total" in httpx.get(f"{server.url}/metrics").text
        assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_nobody_works_for_a_caller_who_has_hung_up(server):
    """Photos that nobody waited for any more kept the next callers waiting."""
    photo = encode(np.zeros((3000, 3000), np.uint8))
    before = counted(server, "mien_photos_total")
    with ExitStack() as held:
        for _ in range(40):
            begin(server, held, "analyze", photo, length=len(photo))
    assert send(server, photo, "analyze").status_code == 200
    # those at work, or begun before the last hung up
    assert 1 <= counted(server, "mien_photos_total") - before < 20


def test_the_work_for_a_caller_who_has_hung_up_ends_before_its_last_picture(server):
    """Its 64 pictures were classified while the next caller waited."""
    form = httpx.Request("POST", server.url, files=[("images", encode_large(1200, "RGBA"))] * 64)
    body, kind = form.read(), form.headers["Content-Type"]
    before = counted(server, "mien_predictions_total")
    with ExitStack() as held:
        for _ in range(2):
            begin(server, held, "predict", body, length=len(body), kind=kind)
        time.sleep(0.1)
    assert send(server, encode(FACE)).status_code == 200
    assert counted(server, "mien_predictions_total") == before + 1


def test_a_request_has_so_many_pixels_in_all_its_pictures(server):
    files = [("images", encode_large(side)) for side in (7000, 7000, 2000)]
    answer = httpx.post(f"{server.url}/predict", files=files)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "picture 3 of 3: with those before it over the 100,000,000"
    )
    described = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    for route, pixels in (("/predict", "100,000,000"), ("/analyze", "50,000,000")):
        assert pixels in described[route]["post"]["requestBody"]["description"]


def test_the_memory_of_large_pictures_is_given_back(server):
    """Some 500 MiB of each stayed for ever."""
    buffer = io.BytesIO()
    Image.new("RGBA", (7000, 7000)).save(buffer, "WEBP", lossless=True, method=0)
    (worker,) = [
        psutil.Process(each.pid)
        for each in psutil.net_connections("tcp")
        if each.status == "LISTEN" and server.url.endswith(f":{each.laddr.port}")
    ]
    before = worker.memory_info().rss
    assert send(server, buffer.getvalue()).status_code == 200
    assert worker.memory_info().rss - before < 200e6


def begin(
    server, held: ExitStack, route: str, body: bytes, length: int, kind: str = "image/png"
) -> None:
    """Send a request, or its beginning, on a connection that stays open until ``held`` ends."""
    head = f"POST /{route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    sock = held.enter_context(connect(server))
    sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)


def test_many_clients_get_their_own_answers(server):
    faces = draw_faces(32, seed=3)
    alone = [send(server, encode(face)).json()["faces"] for face in faces]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda face: send(server, encode(face)).json()["faces"], faces))
    assert [f[0]["expression"] for f in together] == [f[0]["expression"] for f in alone]
    assert together == alone


# --- OpenAPI, page, key -------------------------------------------------------------------------


def test_openapi_lists_every_route_and_answer(server):
    spec = httpx.get(f"{server.url}/openapi.json").json()
    assert set(spec["paths"]) == {"/predict", "/analyze", "/info"}
    codes = set(spec["paths"]["/predict"]["post"]["responses"])
    assert {"200", "400", "401", "403", "408", "413", "415", "503"} <= codes


def test_the_page_loads_nothing_from_elsewhere(server):
    page = httpx.get(server.url).text
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page)


def test_without_a_key_it_answers_to_its_own_name_alone(server):
    """A page elsewhere whose name has come to lead here could read the answers."""
    port = server.url.rpartition(":")[2]
    for host in (
        f"localhost:{port}",
        "LOCALHOST",
        f"127.0.0.1:{port}",
        f"[::1]:{port}",
        "mien.localhost",
    ):
        assert httpx.get(f"{server.url}/info", headers={"Host": host}).status_code == 200, host
    for host in (
        f"evil.example:{port}",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        "[",
        "notlocalhost",
    ):
        answer = httpx.get(f"{server.url}/info", headers={"Host": host})
        assert answer.status_code == 403, host
        assert "another name than localhost" in answer.json()["error"]
        assert httpx.get(f"{server.url}/readyz", headers={"Host": host}).status_code == 200
    assert raw(server, b"GET /info HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_page_of_another_site_sends_nothing(server):
    """The page could not read the answer, but the log would have it."""

    def sent_from(**headers: str) -> httpx.Response:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(
            f"{server.url}/predict", files=[("images", encode(FACE))], headers=headers
        )

    assert sent_from(Sec_Fetch_Site="same-origin").status_code == 200
    assert sent_from(Sec_Fetch_Site="none").status_code == 200
    # through a proxy that asks by another name
    assert sent_from(Sec_Fetch_Site="same-origin", Origin="https://mien.example").status_code == 200
    assert sent_from(Sec_Fetch_Site="same-site").status_code == 403  # another port's
    assert sent_from(Sec_Fetch_Site="cross-site").status_code == 403
    assert "another site" in sent_from(Sec_Fetch_Site="cross-site").json()["error"]
    assert (
        httpx.get(server.url, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    )  # a link


KEY = "a-secrét"


@pytest.fixture(scope="module")
def guarded(package, tmp_path_factory, start):
    """A service that asks for the key."""
    folder = tmp_path_factory.mktemp("guarded")
    with start(folder, MIEN_MODEL=str(package), MIEN_API_KEY=f"{KEY}\n") as running:
        yield running


def test_a_page_of_another_site_sends_nothing_over_plain_http(guarded):
    """Browsers name its relation to HTTPS and localhost alone, but everywhere the page's origin."""

    def status(origin: str | None, method: str = "POST", route: str = "predict") -> int:
        headers = {"Host": "10.1.2.3:3000", "Content-Type": "image/png"}
        headers |= {} if origin is None else {"Origin": origin}
        return httpx.request(
            method,
            f"{guarded.url}/{route}",
            content=encode(FACE),
            headers=headers,
            auth=("anyone", KEY),  # which a browser adds by itself
        ).status_code

    assert status("http://10.1.2.3:3000") == 200
    assert status(None) == 200  # no browser
    for origin in (
        "http://evil.example",
        "http://10.1.2.3",
        "http://10.1.2.3:3001",
        "null",  # a page in a sandbox
        "",
        "http://[",
    ):
        assert status(origin) == 403, origin
    assert status("http://evil.example", "GET", "info") == 200


def test_key(guarded):
    for route in ("", "info", "metrics", "openapi.json", "docs.json", "schema.json", "nothing"):
        answer = httpx.get(f"{guarded.url}/{route}")
        assert answer.status_code == 401, route
        assert "Bearer" in answer.json()["error"]
    for route in ("livez", "readyz"):
        assert httpx.get(f"{guarded.url}/{route}").status_code == 200
    url = f"{guarded.url}/info"
    wrong = {"Authorization": "Bearer a-secret2"}
    assert httpx.get(url, headers=wrong).status_code == 401
    assert Client(guarded.url, KEY).info().expressions == ["happy", "sad", "neutral"]
    assert httpx.get(url, auth=("anyone", KEY)).status_code == 200


def test_nothing_but_the_service_listens(server):
    """Circus did at a port of its own what anybody on the machine told it: run this program."""
    assert listening(server.pid) == {server.url}


def refused_start(folder: Path, *arguments: str, **environment: str) -> str:
    """The one line with which the service does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "mien.serving", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_folder_that_may_not_be_written_ends_the_start(package, tmp_path):
    (tmp_path / ".mien").touch()
    line = refused_start(tmp_path, "--port", str(free_port()), MIEN_MODEL=str(package))
    assert re.search(r"\.mien/figures-\d+: .*; start where you may write$", line)


def test_a_model_that_is_not_there_ends_the_start(tmp_path):
    line = refused_start(tmp_path, MIEN_MODEL="nowhere")
    assert "nowhere: neither a package folder nor a workspace" in line
    assert "here: base, nano, small" in line
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("MIEN_MODEL", ".", ".: neither a package folder"),
        ("MIEN_LOG_DAYS", "abc", "MIEN_LOG_DAYS=abc: expected a number"),
        ("MIEN_YUNET", "nowhere.onnx", "MIEN_YUNET=nowhere.onnx: no such file"),
    ],
)
def test_a_wrong_setting_ends_the_start(package, tmp_path, setting, value, message):
    """BentoML would start one worker after the other, each with a traceback."""
    environment = {"MIEN_MODEL": str(package), setting: value}
    assert f"error: {message}" in refused_start(tmp_path, **environment)


def test_a_port_in_use_ends_the_start(package, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused_start(tmp_path, "--port", port, MIEN_MODEL=str(package))
    assert f"port {port} at 127.0.0.1: " in line
    assert "in use" in line
