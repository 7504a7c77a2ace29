"""The listening side: accepts connections and hands requests to one handler."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from pathlib import Path

from paramserver.errors import AddressInUse, NotReady
from paramserver.transport.connection import Connection, Handler, Request, Response
from paramserver.transport.memory import Budget
from paramserver.wire.frames import Limits
from paramserver.wire.handshake import Identity, ServerHandshake

__all__ = ["Handler", "Request", "Response", "Server"]

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 1024


class Server:
    """Serves ``handler`` at one address."""

    def __init__(
        self,
        identity: Identity,
        secret: bytes,
        handler: Handler,
        *,
        limits: Limits | None = None,
        budget: Budget | None = None,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self._identity = identity
        self._secret = secret
        self._handler = handler
        self._limits = limits if limits is not None else Limits()
        self._budget = budget if budget is not None else Budget()
        self._most = most_connections
        self._server: asyncio.Server | None = None
        self.connections: set[Connection] = set()
        self.address = ""

    def __repr__(self) -> str:
        return f"<Server at {self.address or 'nowhere'}, {len(self.connections)} connections>"

    async def listen(self, host: str, port: int) -> str:
        """Listen, at any free port where ``port`` is 0; return host:port as bound.

        Raises:
            AddressInUse: another process has the port.
            NotReady: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            if host.startswith("unix:"):
                path = host[5:]
                self._server = await loop.create_unix_server(self._accept, path)
                Path(path).chmod(0o600)
                self.address = host
                return self.address
            self._server = await loop.create_server(self._accept, host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"port {port} of {host} is in use by another process: choose another "
                    "cluster.port (0 takes any free one), or end that process"
                ) from error
            raise NotReady(
                f"cannot listen at {host}:{port}: {error.strerror or error}: set cluster.host to an "
                "address of this machine"
            ) from error
        bound = self._server.sockets[0].getsockname()[1]
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        return self.address

    def _accept(self) -> Connection:
        connection = Connection(
            ServerHandshake(self._identity, self._secret),
            self._handler,
            self._limits,
            self._budget,
        )
        self.connections.add(connection)
        connection.add_close_callback(lambda: self.connections.discard(connection))
        if len(self.connections) > self._most:
            log.warning("refusing a connection: there are %d already", self._most)
            asyncio.get_running_loop().call_soon(connection.refuse)
        return connection

    async def close(self, deadline: float) -> None:
        """Stop listening and close every connection, within ``deadline`` seconds."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await asyncio.gather(*(one.close() for one in list(self.connections)))
