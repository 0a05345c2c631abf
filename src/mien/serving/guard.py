"""What every request passes before anything reads it: the key, the load, the size, the time."""

import asyncio
import base64
import binascii
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mien.ports import is_loopback, is_page_of, names_this_machine

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = frozenset({"/livez", "/readyz", "/healthz"})
METRICS = "/metrics"
"""Asks for the key, but is answered under any load: that is when its figures are needed."""
MAX_BODY = 20 * 2**20
"""Bytes of a request; a larger one is cut off."""
MAX_REQUESTS = 64
"""Requests in work at once; others get 503."""
MAX_BYTES = 256 * 2**20
"""Bytes of all bodies in memory at once; what would go over it gets 503."""
UPLOAD_SECONDS = 20.0
"""In which a request must have arrived."""


def read_key() -> str | None:
    """``MIEN_API_KEY`` without white space around it, such as the end of a file's line; or None."""
    return os.environ.get("MIEN_API_KEY", "").strip() or None


class _Refused(Exception):
    """An answer instead of the service's."""

    def __init__(self, status: int, error: str, **headers: str) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers


class Guard:
    """ASGI middleware that refuses what the service should not see, and reads the body.

    Args:
        app: what comes behind it.
        key: what callers must show, as a Bearer token or (for browsers) the password of HTTP Basic;
            without a key only callers on this machine are answered, and only under its own name:
            a page elsewhere whose name leads here (DNS rebinding) could read the answers.
    """

    def __init__(self, app: App, key: str | None = None) -> None:
        self.app = app
        # what was not UTF-8 in the environment as it was
        self.key = key.encode(errors="surrogateescape") if key else None
        self.requests = self.bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on with the body read."""
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self.app(scope, receive, send)
            return
        reserved = 0
        self.requests += 1
        try:
            self._check_caller(scope)
            if self.requests > MAX_REQUESTS and scope["path"] != METRICS:
                raise _busy()
            reserved = self._reserve(_length(scope))
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    body = await _read(receive, reserved)
            except TimeoutError:
                raise _Refused(
                    408, f"the upload took longer than {UPLOAD_SECONDS:.0f} seconds"
                ) from None
            if body is not None:
                await self.app(scope, _replay(body, receive), send)
        except _Refused as refused:
            # What is left of the upload is not read: the connection can't be used again.
            headers = {"Connection": "close", **refused.headers}
            await send_error(send, refused.status, refused.error, headers)
        finally:
            self.requests -= 1
            self.bytes -= reserved

    def _check_caller(self, scope: Scope) -> None:
        if self.key is None:
            if not _is_local(scope.get("client")):
                raise _Refused(403, "set MIEN_API_KEY to serve others than this machine")
            # browsers always send it, some others do not
            host = dict(scope["headers"]).get(b"host", b"localhost")
            if not names_this_machine(host.decode("latin-1")):
                raise _Refused(403, "set MIEN_API_KEY to serve under another name than localhost")
        elif not any(
            hmac.compare_digest(shown, self.key) for shown in _shown_keys(scope["headers"])
        ):
            raise _Refused(
                401,
                "send the key as `Authorization: Bearer KEY`",
                **{"WWW-Authenticate": 'Basic realm="Mien", charset="UTF-8"'},
            )
        # With a key, too, which a browser adds by itself. The page could not read the answer, but
        # the log would have it, and the next model might learn from it.
        if scope["method"] == "POST" and _is_elsewhere(scope):
            raise _Refused(403, "a page of another site may send nothing here")

    def _reserve(self, length: int | None) -> int:
        """Bytes set aside for a body; one of unknown length may become as large as is allowed."""
        wanted = MAX_BODY if length is None else length
        if wanted > MAX_BODY:
            raise _too_large()
        if self.bytes + wanted > MAX_BYTES:
            raise _busy()
        self.bytes += wanted
        return wanted


def _length(scope: Scope) -> int | None:
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    text = headers.get(b"content-length", b"0")
    if not text.isdigit() or len(text) > 18:
        raise _Refused(400, "Content-Length is no number")
    return int(text)


async def _read(receive: Receive, most: int) -> bytes | None:
    """The body; None where the caller went away."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = True

    async def replay() -> MutableMapping[str, Any]:
        nonlocal waiting
        if waiting:
            waiting = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


async def send_error(send: Send, status: int, error: str, headers: dict[str, str]) -> None:
    """Answer ``{"error": …}``."""
    body = json.dumps({"error": error}).encode()
    headers = {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _busy() -> _Refused:
    return _Refused(503, "too many requests at once; try again", **{"Retry-After": "1"})


def _too_large() -> _Refused:
    return _Refused(413, f"a request may have {MAX_BODY // 2**20} MiB at most")


def _is_local(client: Any) -> bool:
    if not client:  # a Unix socket
        return True
    return is_loopback(client[0])


def _is_elsewhere(scope: Scope) -> bool:
    """Whether a browser sends this for a page of another site."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    told = headers.get(b"sec-fetch-site")
    if told is not None:  # which holds behind a proxy that asks here by another name, too
        return told not in ("same-origin", "none")
    # browsers tell it to HTTPS and localhost alone
    page = headers.get(b"origin")
    return page is not None and not is_page_of(page, {headers.get(b"host", "")})


def _shown_keys(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    shown = []
    for name, value in headers:
        scheme, _, rest = value.partition(b" ")
        if name != b"authorization":
            continue
        if scheme.lower() == b"bearer":
            shown.append(rest.strip())
        elif scheme.lower() == b"basic":
            try:
                shown.append(base64.b64decode(rest, validate=True).partition(b":")[2])
            except binascii.Error:
                continue
    return shown
