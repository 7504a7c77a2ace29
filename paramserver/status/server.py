"""The HTTP server of a peer's status: its socket, and its life.

What answers is imported for the first connection: it takes longer to import than any other part of a
peer, and most peers are never looked at.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paramserver.errors import AddressInUse, NotReady
from paramserver.waiting import end

if TYPE_CHECKING:
    from paramserver.status.site import Site

log = logging.getLogger(__name__)

RETRY = 5.0
"""Seconds until it is tried again to answer."""
OPENS_WITHIN = 0.3
"""Seconds that `StatusServer.close` waits for a server that is about to answer."""


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
        self._listening: socket.socket | None = None
        self._host = ""
        self._opening: asyncio.Task[None] | None = None
        self._site: Site | None = None
        self.address: str | None = None

    def __repr__(self) -> str:
        return f"<StatusServer at {self.address}, {self._site or 'not asked yet'}>"

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the address as bound, such as ``127.0.0.1:41234``.

        Port 0 is any free one. A host name is listened on at its first address only, so that there
        is one port to announce.

        Raises:
            AddressInUse: another process listens there.
            NotReady: the host is no address of this machine, or the port is not allowed.
        """
        self._listening = await _bind(host, port)
        self._host = host
        self.address = _text(self._listening.getsockname())
        self._await_visitor(self._listening)
        return self.address

    def _await_visitor(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def visited() -> None:
            loop.remove_reader(listening)
            self._opening = loop.create_task(self._open(listening))

        self._opening = None
        loop.add_reader(listening, visited)

    async def _open(self, listening: socket.socket) -> None:
        """Answer the first connection, which waits, and all others."""
        while True:
            try:
                kind = await asyncio.to_thread(_imported)
                site = kind(self._status, self._ready, self._host)
                await site.start(listening)
            except (OSError, ImportError) as error:  # too many open files, a broken installation
                log.error("cannot serve the status page: %s", error)
                await asyncio.sleep(RETRY)
            else:
                self._site = site
                return

    async def close(self) -> None:
        """Stop listening and end every answer under way, within a second."""
        listening, self._listening, self.address = self._listening, None, None
        if listening is None:
            return
        try:
            if self._opening is None:
                asyncio.get_running_loop().remove_reader(listening)
            else:  # half open it could not be closed
                await asyncio.wait({self._opening}, timeout=OPENS_WITHIN)
                await end(self._opening)
            if self._site is not None:
                await self._site.close()
        finally:
            listening.close()


def _imported() -> type[Site]:
    from paramserver.status.site import Site

    return Site


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
