"""The bounds of what is done for one request."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mien.data.faces import PictureError
from mien.serving import service
from mien.serving.effort import MOST_PIXELS, Effort


def test_pixels_are_bounded_over_all_pictures():
    effort = Effort()
    effort.spend(MOST_PIXELS - 1)
    effort.spend(1)
    with pytest.raises(PictureError, match="over the 100,000,000 pixels"):
        effort.spend(1)


@pytest.mark.parametrize("reason", ["the caller hangs up", "an answer in its place"])
def test_work_ends_soon_after_nobody_waits(monkeypatch, reason):
    """Where two hung up, the next caller waited until their 128 pictures were classified."""
    threads = ThreadPoolExecutor(1)
    worker = SimpleNamespace(threads=threads, places=asyncio.Semaphore(1))
    monkeypatch.setattr(service, "_worker", lambda: worker)
    monkeypatch.setattr(service, "_LOOK", 0.02)
    began = time.monotonic()

    def work(effort):
        while time.monotonic() < began + 5:
            effort.go_on()
            time.sleep(0.01)

    async def receive():
        if reason == "the caller hangs up" and time.monotonic() > began + 0.1:
            return {"type": "http.disconnect"}
        return await asyncio.Event().wait()

    async def ask():
        async with asyncio.timeout(0.2):  # as that of 504 does, it cancels
            await service._in_thread(Request({"type": "http"}, receive), work)

    with pytest.raises((HTTPException, TimeoutError)) as caught:
        asyncio.run(ask())
    assert isinstance(caught.value, HTTPException) == (reason == "the caller hangs up")
    assert time.monotonic() - began < 2
    threads.shutdown()
