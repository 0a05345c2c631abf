"""The limit on the time until an answer begins."""

import asyncio
import json
import weakref

import pytest
from bentoml._internal.server.http import traffic

from mien.serving.timeout import Timeout

SCOPE = {"type": "http"}


def answer(app, timeout):
    """What was sent."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(Timeout(app, timeout)(SCOPE, receive, send))
    return sent


async def finish(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def test_an_answer_in_time_is_handed_on():
    async def app(scope, receive, send):
        await finish(send)

    start, body = answer(app, 5)
    assert (start["status"], body["body"]) == (200, b"done")


def test_no_answer_in_time():
    ended = []

    async def app(scope, receive, send):
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    start, body = answer(app, 0.05)
    assert start["status"] == 504
    assert json.loads(body["body"]) == {"error": "no answer within 0.05 seconds"}
    assert ended


def test_what_has_begun_may_take_longer():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"done"})

    assert answer(app, 0.05)[-1]["body"] == b"done"


def test_a_timeout_of_the_services_own_is_not_ours():
    async def app(scope, receive, send):
        raise TimeoutError("the disk's")

    with pytest.raises(TimeoutError, match="the disk's"):
        answer(app, 5)


def test_an_answered_request_is_forgotten():
    """BentoML's own keeps it for the whole timeout; memory grew with the requests of a minute."""

    class Held(dict):
        pass

    async def app(scope, receive, send):
        await finish(send)

    async def send(message):
        pass

    async def what_is_kept():
        scope = Held(SCOPE)
        await Timeout(app, timeout=60)(scope, None, send)
        gone = weakref.ref(scope)
        del scope
        await asyncio.sleep(0)
        timers = [each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()]
        return len(timers), gone() is not None

    assert asyncio.run(what_is_kept()) == (0, False)


def test_the_service_uses_it():
    import mien.serving.service  # noqa: F401  # in its place once the service is imported

    assert traffic.TimeoutMiddleware is Timeout
