"""A failed run is told to a webhook and by mail, where the environment names them."""

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def told() -> Iterator[dict[str, object]]:
    """What a webhook and a mail server on this machine received, and their ports."""
    got: dict[str, object] = {}

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            got["hook"] = json.loads(self.rfile.read(length))
            self.send_response(204)
            self.end_headers()

    class Mail(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 here")
            for line in self.rfile:
                word = line.split()[0].upper()
                if word == b"DATA":
                    self.say("354 go on")
                    lines = iter(self.rfile.readline, b".\r\n")
                    got["mail"] = b"".join(lines).decode()
                self.say("250 fine" if word != b"QUIT" else "221 bye")

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as hook,
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail) as mail,
    ):
        for server in (hook, mail):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        got["ports"] = (hook.server_address[1], mail.server_address[1])
        yield got
        hook.shutdown()
        mail.shutdown()


def test_a_failed_run_is_told(make_house, told, chain):
    hook, mail = told["ports"]
    house = make_house(
        MIEN_NOTIFY_WEBHOOK=f"http://127.0.0.1:{hook}/",
        MIEN_NOTIFY_MAIL=f"mailto://localhost:{mail}?from=mien@example.org&to=team@example.org"
        "&mode=insecure",
    )
    chain.change("zero", cmd="echo 'zero: error: \"row 7\"'; exit 1")
    run = house.wait(house.start(workspace=str(chain.root)))
    assert run["state_type"] == "FAILED"
    house.until(lambda: "hook" in told and "mail" in told, 60)
    assert told["hook"]["flow"] == "training"
    assert told["hook"]["state"] == "Failed"
    assert 'zero: error: "row 7"' in told["hook"]["message"]
    assert "Subject: training: Failed" in told["mail"]
    secrets = house.log.read_text()
    assert f"127.0.0.1:{hook}/" not in secrets
