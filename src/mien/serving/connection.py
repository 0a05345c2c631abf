"""What a connection may send before anything has asked for the key: so much, and for so long."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mien.serving.guard import UPLOAD_SECONDS

MAX_HEAD = 64 * 2**10
"""Bytes of a request's head, or of what follows a chunked body; a larger one is cut off. The piece
in which it begins is not counted, for more may be in it: event loops read 256 KiB at most."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\n\r\n"
    b'{"error": "a request\'s head may have %d KiB at most"}' % (MAX_HEAD // 2**10)
)


class Connection(HttpToolsProtocol):
    """Uvicorn's protocol, which closes what asks for nothing.

    Uvicorn 0.54 itself keeps a head of any size, and waits for the rest of it for ever. Both come
    before `Guard`, which is not asked until the head is complete.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._piece = 0
        self._head: int | None = None
        self._deadline = self.loop.call_later(UPLOAD_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request; when its first byte is late, uvicorn closes by itself."""
        super().on_response_complete()
        self._deadline.cancel()
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(UPLOAD_SECONDS, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head has become too large."""
        self._piece = len(data)
        super().data_received(data)
        if self._head is None:
            return
        self._head += len(data)
        if self._head > MAX_HEAD:
            if self._is_idle():
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head = -self._piece

    def on_headers_complete(self) -> None:
        """A head ends."""
        self._head = None
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """It may be the last chunk's: trailers follow, which uvicorn keeps with the headers."""
        self._head = -self._piece

    def on_body(self, body: bytes) -> None:
        """It was not the last chunk."""
        self._head = None
        super().on_body(body)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()
