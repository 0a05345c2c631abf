"""Which pages may ask Prefect's server, and by which names; no server is needed to know."""

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from flows.server import OwnPages

SITE = "https://prefect.example.org"


async def post(app, headers):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.post("http://here", headers=headers)


def answered(host, origin, known, alone):
    """Whether the app is asked, and nothing of it told otherwise."""
    app = OwnPages(PlainTextResponse("faces"), known, alone=alone)
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    answer = asyncio.run(post(app, headers))
    assert (answer.status_code, answer.text == "faces") in [(200, True), (403, False)]
    return answer.is_success


@pytest.mark.parametrize(
    ("host", "origin", "known", "alone", "expected"),
    [
        ("127.0.0.1:4200", None, [], True, True),  # a worker, curl
        ("localhost:4200", "http://localhost:4200", [], True, True),  # the UI
        ("localhost:4200", "http://127.0.0.1:4200", [], True, False),  # another server's page
        ("127.0.0.1:4200", "https://evil.example", [], True, False),
        ("127.0.0.1:4200", "null", [], True, False),  # a page in a sandbox
        ("127.0.0.1:4200", "http://[", [], True, False),
        ("evil.example:4200", "http://evil.example:4200", [], True, False),  # DNS rebinding
        ("evil.example:4200", None, [], True, False),
        ("", None, [], True, False),
        ("prefect.example.org", SITE, [], True, False),
        ("prefect.example.org", SITE, [SITE], True, True),  # a proxy that hands its name on
        ("127.0.0.1:4200", SITE, ["", "/api", f" {SITE}/behind"], True, True),  # one that does not
        ("127.0.0.1:4200", "https://any.example", ["*"], True, True),
        ("evil.example:4200", None, ["*"], True, False),
        ("server:4200", None, [], False, True),  # a worker elsewhere
        ("server:4200", "http://server:4200", [], False, True),
        ("server:4200", "https://evil.example", [], False, False),
        ("", "null", [], False, False),
    ],
)
def test_who_is_answered(host, origin, known, alone, expected):
    assert answered(host, origin, known, alone) == expected
