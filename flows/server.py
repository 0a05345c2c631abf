"""Prefect's server, for no other site's pages and by no other name than its own.

By itself it checks neither. A page of another site that somebody here looks at could send it what
needs no answer (a POST without a content type, a websocket), such as drift that starts a
retraining; one whose own name leads here (DNS rebinding) could read what its database holds, and
have the worker run a deployment with commands of its own.
"""

import argparse
from collections.abc import Sequence

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import (
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    PREFECT_UI_API_URL,
    PREFECT_UI_URL,
    get_current_settings,
)
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mien.ports import is_page_of, names_this_machine, site_of

_REFUSAL = "not for pages of this name; PREFECT_UI_URL says under which the UI is served\n"


def main() -> None:
    """What ``prefect server start`` does, behind `OwnPages`."""
    parser = argparse.ArgumentParser(prog="python -m flows.server", description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    origins = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")
    known = [PREFECT_UI_URL.value() or "", PREFECT_UI_API_URL.value() or "", *origins]
    server = get_current_settings().server
    uvicorn.run(
        OwnPages(create_app(final=True), known, alone=names_this_machine(options.host)),
        host=options.host,
        port=options.port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


class OwnPages:
    """ASGI middleware that refuses pages of other sites, and other names.

    Args:
        app: Prefect's.
        known: addresses under which the UI is served besides this server's own; ``*`` lets the
            pages of all sites ask.
        alone: only this machine reaches the server, or a proxy on it: it is asked by this machine's
            names and the known ones. A server that others reach has names that it does not know.
    """

    def __init__(self, app: ASGIApp, known: Sequence[str], *, alone: bool) -> None:
        self.app, self.alone = app, alone
        self.all_pages = "*" in known
        self.names = {name for each in known if (name := site_of(each))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, or answer with 403."""
        if scope["type"] == "lifespan" or self._may_ask(Headers(scope=scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is open: 403
        else:
            await PlainTextResponse(_REFUSAL, 403)(scope, receive, send)

    def _may_ask(self, headers: Headers) -> bool:
        host = headers.get("host", "")
        if self.alone and not (names_this_machine(host) or host in self.names):
            return False
        page = headers.get("origin")
        return page is None or self.all_pages or is_page_of(page, {host, *self.names})


if __name__ == "__main__":
    main()
