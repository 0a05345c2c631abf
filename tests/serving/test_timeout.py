"""The limit on the time until an answer begins."""

import asyncio
import gc
import json
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from bentoml._internal.server.http import traffic
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mien.serving import service
from mien.serving.guard import Guard
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


def test_a_thread_that_works_on_keeps_its_place(monkeypatch):
    """504 gives neither the thread's place nor the request's bytes to the next one."""
    busy, most, told = [], [], []
    threads = ThreadPoolExecutor(service._THREADS)
    worker = SimpleNamespace(threads=threads)
    complaints = []
    monkeypatch.setattr(service, "_worker", lambda: worker)

    def work(effort):
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.4)
        busy.pop()
        raise HTTPException(400, "a refusal that comes too late")

    async def app(scope, receive, send):
        await service._in_thread(Request(scope, receive), work)
        await finish(send)

    async def send(message):
        if message["type"] == "http.response.start":
            told.append((message["status"], time.monotonic()))

    async def receive():
        return {"type": "http.request", "body": b"1234", "more_body": False}

    scope = SCOPE | {
        "path": "/predict", "method": "POST", "headers": [(b"content-length", b"4")],
        "client": ("127.0.0.1", 1),
    }  # fmt: skip

    async def six():
        worker.places = asyncio.Semaphore(service._THREADS)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        guard = Guard(Timeout(app, 0.1))
        began = time.monotonic()
        asked = [asyncio.ensure_future(guard(scope, receive, send)) for _ in range(6)]
        await asyncio.sleep(0.25)
        assert [status for status, _ in told] == [504] * 6
        assert max(when - began for _, when in told) < 0.2  # at once, not when the thread ends
        assert (guard.requests, guard.bytes) == (2, 8)  # those that waited have given up
        await asyncio.gather(*asked, return_exceptions=True)
        del asked
        gc.collect()
        assert (guard.requests, guard.bytes) == (0, 0)

    asyncio.run(six())
    threads.shutdown()
    assert not complaints
    assert max(most) == len(most) == service._THREADS


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
    assert traffic.TimeoutMiddleware is Timeout
