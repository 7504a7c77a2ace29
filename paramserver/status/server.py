"""The HTTP server of a peer's status: routes and life."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from importlib import resources
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from paramserver.errors import AddressInUse, NotReady
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


class StatusServer:
    """Serves what ``status`` and ``ready`` return; see `paramserver.status` for the paths.

    ``status`` makes the status document. ``ready`` says "ok", "degraded" or "not ready", and why.
    Both are called on the event loop for each request and must be quick.

        server = StatusServer(status, ready)
        address = await server.start("127.0.0.1", 0)
        ...
        await server.close()
    """

    def __init__(
        self, status: Callable[[], dict[str, Any]], ready: Callable[[], tuple[str, str]]
    ) -> None:
        self._status = status
        self._ready = ready
        self._events = Events(self._document)
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(StatusCollector(status, ready))
        self._runner: web.AppRunner | None = None
        self.address: str | None = None

    def __repr__(self) -> str:
        return f"<StatusServer at {self.address}, {self._events!r}>"

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the address as bound, such as ``127.0.0.1:41234``.

        Port 0 is any free one. A host name is listened on at its first address only, so that there
        is one port to announce.

        Raises:
            AddressInUse: another process listens there.
            NotReady: the host is no address of this machine, or the port is not allowed.
        """
        listening = await _bind(host, port)
        runner = web.AppRunner(
            self._application(host),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE,
            lingering_time=LINGER,
            shutdown_timeout=CLOSE,
        )
        try:
            await runner.setup()
            await web.SockSite(runner, listening).start()
        except BaseException:
            listening.close()
            await runner.cleanup()
            raise
        self._runner = runner
        self.address = _text(listening.getsockname())
        return self.address

    async def close(self) -> None:
        """Stop listening and end every answer under way, within a second."""
        self._events.close()
        runner, self._runner, self.address = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

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


async def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the first address of ``host``."""
    bare = host.strip("[]")
    where = _text((bare, port))
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _listen(found[0])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"cannot serve the status page at {where}: another process listens there; "
                "set status.port to another port, or to 0 for any free one",
                address=where,
            ) from error
        raise NotReady(
            f"cannot serve the status page at {where}: {error.strerror or error}; set status.host "
            "to an address of this machine and status.port to a port you may use, or to 0",
            address=where,
        ) from error


def _listen(found: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = found
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind(address)
        # With SO_REUSEADDR some ports in use are refused only here.
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


def _text(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
