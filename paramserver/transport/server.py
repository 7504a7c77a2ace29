"""The listening side: accepts connections and hands requests to one handler."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path

from paramserver.errors import AddressInUse, NotReady
from paramserver.transport.connection import HANDSHAKE_DEADLINE, STALL_DEADLINE, Connection
from paramserver.transport.exchange import Handler, Request, Response
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
        handshake_deadline: float = HANDSHAKE_DEADLINE,
        stall_deadline: float = STALL_DEADLINE,
    ) -> None:
        self._identity = identity
        self._secret = secret
        self._handler = handler
        self._limits = limits if limits is not None else Limits()
        self._budget = budget if budget is not None else Budget()
        self._most = most_connections
        self._handshake_deadline = handshake_deadline
        self._stall_deadline = stall_deadline
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._connections: dict[Connection, None] = {}
        self.address = ""

    def __repr__(self) -> str:
        return f"<Server at {self.address or 'nowhere'}, {len(self._connections)} connections>"

    @property
    def connections(self) -> list[Connection]:
        """The connections accepted and not closed, the oldest first."""
        return list(self._connections)

    async def listen(self, host: str, port: int) -> str:
        """Listen, at any free port where ``port`` is 0; return host:port as bound.

        Raises:
            AddressInUse: another process has the port.
            NotReady: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            if host.startswith("unix:"):
                self._path = Path(host[5:])
                self._server = await loop.create_unix_server(self._accept, self._path)
                self._path.chmod(0o600)
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
            handshake_deadline=self._handshake_deadline,
            stall_deadline=self._stall_deadline,
        )
        if len(self._connections) >= self._most:
            self._make_room(connection)
        self._connections[connection] = None
        connection.add_close_callback(lambda: self._connections.pop(connection, None))
        return connection

    def _make_room(self, newcomer: Connection) -> None:
        """Refuse one connection: the oldest that has not shown yet who it is, else the newcomer."""
        strangers = (one for one in self._connections if not one.opened.done())
        log.warning("refusing a connection: there are %d already", self._most)
        next(strangers, newcomer).refuse(
            NotReady(f"{self._identity.name} has {self._most} connections already: try again later")
        )

    async def close(self, deadline: float) -> None:
        """Stop listening and close every connection, within ``deadline`` seconds."""
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        connections = self.connections
        try:
            async with asyncio.timeout(deadline):
                await asyncio.gather(*(one.close() for one in connections))
        except TimeoutError:
            log.info("%s did not close in %g s", self, deadline)
        finally:
            for connection in connections:
                connection.abort()
