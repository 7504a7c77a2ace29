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
        listening = await _bind(host, port)
        self._listening = listening
        loop = asyncio.get_running_loop()

        def visited() -> None:
            loop.remove_reader(listening)
            self._opening = loop.create_task(self._open(listening, host))

        loop.add_reader(listening, visited)
        self.address = _text(listening.getsockname())
        return self.address

    async def _open(self, listening: socket.socket, host: str) -> None:
        """Answer the first connection, which waits, and all others."""

        def imported() -> type[Site]:
            from paramserver.status.site import Site

            return Site

        kind = await asyncio.to_thread(imported)
        site = self._site = kind(self._status, self._ready, host)
        try:
            await site.start(listening)
        except OSError as error:
            log.error("cannot serve the status page: %s", error)
            listening.close()

    async def close(self) -> None:
        """Stop listening and end every answer under way, within a second."""
        listening, self._listening, self.address = self._listening, None, None
        if listening is None:
            return
        if self._opening is not None:
            await end(self._opening)
        else:
            asyncio.get_running_loop().remove_reader(listening)
        if self._site is not None:
            await self._site.close()
        listening.close()


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
