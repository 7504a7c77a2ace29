"""What a peer's status server answers: the routes, once somebody asks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib import resources
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from paramserver.status.document import encode
from paramserver.status.events import Events
from paramserver.status.guard import add_headers, host_check
from paramserver.status.metrics import StatusCollector

# Waited twice at the most: for handlers to end, and for those cancelled to end.
CLOSE = 0.3
KEEP_ALIVE = 15.0
LINGER = 1.0
FILES = {
    "page.js": "text/javascript",
    "dom.js": "text/javascript",
    "text.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}


class Site:
    """Serves a status document at a socket; its arguments are those of `StatusServer`."""

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        ready: Callable[[], tuple[str, str]],
        host: str,
    ) -> None:
        self._status = status
        self._ready = ready
        self._events = Events(self._document)
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(StatusCollector(status, ready))
        self._runner = web.AppRunner(
            self._application(host),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE,
            lingering_time=LINGER,
            shutdown_timeout=CLOSE,
        )

    def __repr__(self) -> str:
        return f"<Site, {self._events!r}>"

    async def start(self, listening: socket.socket) -> None:
        """Answer at a socket that listens; it is closed with the site."""
        try:
            await self._runner.setup()
            await web.SockSite(self._runner, listening).start()
        except BaseException:
            await self._runner.cleanup()
            raise

    async def close(self) -> None:
        """Stop listening and end every answer under way, within a second."""
        self._events.close()
        await self._runner.cleanup()

    def _application(self, host: str) -> web.Application:
        application = web.Application(middlewares=[host_check(host)])
        application.on_response_prepare.append(add_headers)
        routes = application.router
        routes.add_get("/", _file("page.html", "text/html"))
        for name, content_type in FILES.items():
            routes.add_get(f"/static/{name}", _file(name, content_type))
        routes.add_get("/status", self._serve_status)
        routes.add_get("/metrics", self._serve_metrics)
        routes.add_get("/livez", self._serve_livez)
        routes.add_get("/readyz", self._serve_readyz)
        routes.add_get("/events", self._events.serve, allow_head=False)
        return application

    def _document(self) -> bytes:
        return encode(self._status())

    async def _serve_status(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._document(), content_type="application/json")

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        encoder, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encoder(self._registry), headers={hdrs.CONTENT_TYPE: content_type})

    async def _serve_livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _serve_readyz(self, _request: web.Request) -> web.Response:
        state, why = self._ready()
        text = state if state == "ok" else f"{state}: {' '.join(why.split())}"
        return web.Response(text=f"{text}\n", status=503 if state == "not ready" else 200)


def _file(name: str, content_type: str) -> Handler:
    """Return a handler that serves a file of this package, read once."""
    body = (resources.files(__package__) / "static" / name).read_bytes()

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return serve
