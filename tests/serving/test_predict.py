"""``mien predict`` and the client: alike in this process and through the service."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import cv2
import httpx
import numpy as np
import pytest

from mien.cli import main
from mien.serving.answers import FaceAnswer
from mien.serving.client import Client, ServiceError, _wait
from mien.serving.predict import _Csv


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "deep/c.png"):
        rough = rng.integers(0, 256, (6, 6), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(rough, (60, 60)))
    (folder / "notes.txt").write_text("no picture")
    return folder


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_fields_are_alike_in_process_and_by_url(package, server, faces, capsys):
    common = ["predict", str(faces), "--crop", "--format", "jsonl"]
    main([*common, "--model", str(package)])
    local = lines(capsys)
    main([*common, "--url", server.url])
    remote = lines(capsys)
    assert [row["path"] for row in local] == [
        str(faces / name) for name in ("a.png", "b.jpg", "deep/c.png")
    ]
    fields = ["path", "box", "expression", "probabilities", "abstains", "reason", "model"]
    for row, other in zip(local, remote, strict=True):
        assert list(row) == fields
        assert {**row, "probabilities": None} == {**other, "probabilities": None}
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_it_says_whose_answers_they_are_where_nobody_named_a_model(
    package, faces, tmp_path, monkeypatch, capsys
):
    """After `make run` the same command answered with another model, and did not say so."""
    monkeypatch.delenv("MIEN_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    picture = str(faces / "a.png")
    main(["predict", picture, "--crop"])
    assert capsys.readouterr().err.startswith("answers of small (")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/package").symlink_to(package)
    main(["predict", picture, "--crop"])
    assert f"answers of {tmp_path / 'models/package'} (" in capsys.readouterr().err
    main(["predict", picture, "--crop", "--model", str(package)])
    assert not capsys.readouterr().err


def test_no_face_is_a_row(package, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((90, 90), 7, np.uint8))
    main(["predict", str(tmp_path / "*.png"), "--model", str(package), "--format", "jsonl"])
    (row,) = lines(capsys)
    assert row["expression"] is row["box"] is row["probabilities"] is None
    assert (row["abstains"], row["reason"]) == (True, "no_face")


def test_csv_and_table(package, faces, capsys):
    common = ["predict", str(faces), "--crop", "--model", str(package), "--format"]
    main([*common, "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 3
    assert sum(float(rows[0][name]) for name in ("happy", "sad", "neutral")) == pytest.approx(1)
    main([*common, "table"])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4
    assert shown[1].startswith(rows[0]["expression"])


def test_a_search_passes_over_what_is_hidden_and_folders(package, faces, capsys):
    for name in ("._a.png", ".thumbnails/a.png", "__MACOSX/a.png"):
        (faces / name).parent.mkdir(exist_ok=True)
        (faces / name).write_bytes(b"no picture")
    (faces / "album.jpg").mkdir()
    main(["predict", str(faces), "--crop", "--model", str(package), "--format", "jsonl"])
    assert len(lines(capsys)) == 3


def test_a_search_follows_links_and_knows_every_suffix(package, faces, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(faces / "b.jpg", tmp_path / "elsewhere/saved.jfif")
    (faces / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(faces)
    main(["predict", str(faces), "--crop", "--model", str(package), "--format", "jsonl"])
    found = [row["path"] for row in lines(capsys)]
    assert len(found) == 4
    assert found[-1] == str(faces / "more/saved.jfif")


def test_a_pipe_is_read(package, faces, tmp_path, capsys):
    """As the shell makes one for ``<(…)``."""
    os.mkfifo(tmp_path / "pipe")
    data = (faces / "a.png").read_bytes()
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[data], daemon=True).start()
    pipe = str(tmp_path / "pipe")
    main(["predict", pipe, "--crop", "--model", str(package), "--format", "jsonl"])
    assert [row["path"] for row in lines(capsys)] == [pipe]


def test_what_is_no_file_in_a_folder_is_told_and_not_waited_for(package, faces, capsys):
    (faces / "gone.png").symlink_to("nowhere")
    os.mkfifo(faces / "pipe.png")
    # whoever does open it is let go
    pipe = threading.Thread(target=(faces / "pipe.png").write_bytes, args=[b""], daemon=True)
    pipe.start()
    with pytest.raises(SystemExit, match="2 of 5 pictures could not be used"):
        main(["predict", str(faces), "--crop", "--model", str(package), "--format", "jsonl"])
    told = capsys.readouterr().err
    assert "gone.png: [Errno 2] No such file" in told
    assert "pipe.png: no regular file" in told


def test_a_file_name_gives_the_terminal_no_orders(package, faces, capsys):
    shutil.copy(faces / "a.png", faces / "a\x1b[2J\n\u202eé.png")
    (faces / "b\x1b[2J.png").touch()
    with pytest.raises(SystemExit):
        main(["predict", str(faces), "--crop", "--model", str(package)])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 5
    assert "a\\x1b[2J\\n\\u202eé.png" in captured.out
    assert "b\\x1b[2J.png: the file is empty" in captured.err
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.parametrize("start", ["=1+", "+1", "-1", "@a"])
def test_a_path_in_a_csv_is_no_formula(package, faces, capsys, monkeypatch, start):
    monkeypatch.chdir(faces / "deep")
    (faces / "deep" / "c.png").rename(f"{start}.png")
    main(["predict", ".", "--crop", "--model", str(package), "--format", "csv"])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["path"] == f"./{start}.png"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii", "latin-1"])
@pytest.mark.parametrize("name", [b"a\xff.png", "aé😀.png".encode()])
def test_any_file_name_is_json_in_any_encoding(package, faces, name, encoding):
    """It is shown with JSON's escapes where it has to be, and what comes after it is answered."""
    shutil.copy(faces / "a.png", os.fsencode(faces) + b"/" + name)
    done = subprocess.run(
        [sys.executable, "-m", "mien", "predict", faces, "--crop", "--format", "jsonl"],
        env=os.environ | {"MIEN_MODEL": str(package), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert [os.fsencode(path).rpartition(b"/")[2] for path in paths] == [
        b"a.png", name, b"b.jpg", b"c.png",
    ]  # fmt: skip


def test_in_a_terminal_the_rows_stand_alone(package, faces):
    import termios

    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    command = [sys.executable, "-m", "mien", "predict", faces, "--crop", "--model", package]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux's way to say that the other end is closed
            while read := os.read(ours, 65536):
                shown += read
    os.close(ours)
    rows = shown.decode().splitlines()
    assert len(rows) == 4
    assert [row.rpartition("/")[2] for row in rows[1:]] == ["a.png", "b.jpg", "c.png"]
    assert not [row for row in rows if "%|" in row]


def test_a_glob_that_names_a_folder_and_pictures_of_a_phone(package, faces, capsys):
    """Both went unsaid: what a quoted glob found but no file, and what cannot be read."""
    pattern = str(faces.parent / f"{faces.name[:-1]}*")
    (faces / "d.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(SystemExit, match="1 of 4 pictures could not be used"):
        main(["predict", pattern, "--crop", "--model", str(package), "--format", "jsonl"])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "d.HEIC: not a picture" in captured.err


def test_standard_input(package, faces, capsys, monkeypatch):
    data = io.BytesIO((faces / "a.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    main(["predict", "-", "--crop", "--model", str(package), "--format", "jsonl"])
    assert lines(capsys)[0]["path"] == "-"


def test_a_bad_picture_does_not_stop_the_others(package, faces, capsys):
    (faces / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(faces), "--crop", "--model", str(package), "--format", "jsonl"])
    assert "1 of 4 pictures could not be used" in str(caught.value.code)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "broken.png: " in captured.err


def test_a_film_is_refused_unread(package, faces, capsys):
    """It may be larger than memory."""
    with (faces / "b.mov").open("wb") as film:
        film.truncate(2**43)
    common = ["--crop", "--model", str(package), "--format", "jsonl"]
    with pytest.raises(SystemExit, match="1 of 4 pictures could not be used"):
        main(["predict", str(faces / "b.mov"), str(faces), *common])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "b.mov: the file is larger than 500 MB" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "nowhere.png: no such file"),
        (["."], "no pictures in this folder"),
        ([""], "a path is empty"),
        (["fold*"], "fold*: no such file or folder, and no picture matches it"),
        (["a.png", "--model", ""], "the model's name is empty"),
        (["a.png", "--url", ""], "the service's URL is empty"),
        (["a.png", "--model", "nowhere"], "nowhere: neither a package folder nor a workspace"),
        (["a.png", "--url", "http://127.0.0.1:9"], "no answer"),
        (["a.png", "--url", "http://127.0.0.1:abc"], "http://127.0.0.1:abc: not a URL"),
        (["a.png", "--url", "http://[::1"], "http://[::1: not a URL"),
        (["a.png", "--url", "http://exämple..com"], "http://exämple..com: not a URL"),
        (["a.png", "--url", f"http://{'a' * 70}.com"], "no answer"),
    ],
)
def test_plain_messages(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIEN_MODEL", raising=False)
    (tmp_path / "folder").mkdir()
    if "a.png" in arguments:
        cv2.imwrite("a.png", np.zeros((50, 50), np.uint8))
    with pytest.raises(SystemExit) as caught:
        main(["predict", *arguments])
    assert message in str(caught.value.code)


@contextmanager
def busy_service(*statuses: int) -> Iterator[str]:
    """A service that answers its pictures with these statuses, then with the last one for ever."""
    face = {"expression": "sad", "confidence": 1.0, "probabilities": {"happy": 0.0, "sad": 1.0}}
    face |= {"abstains": False, "reason": None}
    info = {"name": "mien", "version": "v", "expressions": ["happy", "sad"], "image_size": 48}
    info |= {"abstention_threshold": 0.5, "metrics": {}, "card": {}}
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, info)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status = left.pop(0) if len(left) > 1 else left[0]
            prediction = {"model": "v2", "request_id": "1", "faces": [face]}
            self.answer(status, prediction if status == 200 else {"error": "too busy"})

        def answer(self, status: int, body: dict) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()


def test_a_service_that_is_busy_is_asked_again(faces, capsys):
    with busy_service(503, 503, 200, 503, 200) as url:
        main(["predict", str(faces), "--crop", "--url", url, "--format", "jsonl"])
    assert [row["expression"] for row in lines(capsys)] == ["sad"] * 3


def test_a_row_names_the_model_that_gave_it(faces, capsys):
    """Not the one that was served when the command began."""
    with busy_service(200) as url:
        main(["predict", str(faces), "--crop", "--url", url, "--format", "jsonl"])
    assert {row["model"] for row in lines(capsys)} == {"v2"}


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_what_was_answered_is_kept_where_the_service_ends(faces, capsys, format_):
    with busy_service(200, 200, 503) as url, pytest.raises(SystemExit, match="too busy"):
        main(["predict", str(faces), "--crop", "--url", url, "--format", format_])
    shown = capsys.readouterr().out
    assert [name in shown for name in ("a.png", "b.jpg", "c.png")] == [True, True, False]
    header = "path,box,expression,happy,sad,abstains,reason,model\n"
    assert shown.startswith(header) == (format_ == "csv")


def test_an_expression_named_like_a_column_has_its_own(capsys):
    answer = FaceAnswer(
        expression="model",
        confidence=0.75,
        probabilities={"model": 0.75, "sad": 0.25},
        abstains=False,
        reason=None,
    )
    write = _Csv(sys.stdout, ["model", "sad"])
    write("a.png", [(None, answer)], "v1")
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["model"], row["probability_model"], row["sad"]) == ("v1", "0.75", "0.25")


def test_a_wait_is_bounded():
    waits = {"": 1, "3": 3, "0": 0, "86400": 10, "Fri, 31 Dec 1999 23:59:59 GMT": 1, "-1": 1}
    for text, seconds in waits.items():
        assert _wait(httpx.Response(503, headers={"Retry-After": text})) == seconds


def test_client(server, faces):
    with Client(server.url) as client:
        data = (faces / "a.png").read_bytes()
        assert len(client.predict([data, data]).faces) == 2
        assert client.analyze(data).message == "no face was found"
        assert client.info().version == client.predict([data]).model
        with pytest.raises(ServiceError, match="not a picture") as caught:
            client.predict([b"text"])
        assert caught.value.status == 400
    with (
        Client(f"{server.url}/wrong") as client,
        pytest.raises(ServiceError, match=f"^{server.url}/wrong/info: Not Found$"),
    ):
        client.info()


def test_no_message_shows_the_key(server):
    with Client(server.url, "se\ncret") as client, pytest.raises(ServiceError) as caught:
        client.info()
    assert str(caught.value) == "the key (MIEN_API_KEY) holds a line break or the like"
    with Client("http://any:secret@127.0.0.1:9") as client, pytest.raises(ServiceError) as caught:
        client.info()
    assert str(caught.value).startswith("http://127.0.0.1:9: no answer")
