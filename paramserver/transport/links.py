"""The outgoing connections of one peer: one an address, made on demand, shared by all requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from paramserver.errors import ConnectionLost, Unreachable
from paramserver.transport.connection import Connection, Reply, connect
from paramserver.transport.exchange import Buffer
from paramserver.wire.frames import Limits
from paramserver.wire.handshake import Identity


class Links:
    """Connections by address; a broken one is made anew by the next request."""

    def __init__(
        self,
        identity: Identity,
        secret: bytes,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._identity = identity
        self._secret = secret
        self._limits = limits
        self._open: dict[str, Connection] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Links to {', '.join(sorted(self._open)) or 'nobody'}>"

    async def connection(self, address: str, deadline: float) -> Connection:
        """Return the connection to ``address``, made within ``deadline`` seconds where needed."""
        found = self._open.get(address)
        if found is not None and not found.closed:
            return found
        if self._closed:
            raise self._leaving(address)
        lock = self._locks.setdefault(address, asyncio.Lock())
        try:
            async with asyncio.timeout(deadline), lock:
                found = self._open.get(address)
                if found is None or found.closed:
                    found = await self._connect(address, deadline)
        except TimeoutError:
            raise Unreachable(
                f"cannot reach {address}: no connection within {deadline:.1f} s; check that the "
                "peer runs there"
            ) from None
        return found

    async def _connect(self, address: str, deadline: float) -> Connection:
        made = await connect(
            address, self._identity, self._secret, deadline=deadline, limits=self._limits
        )
        if self._closed:
            await made.close()
            raise self._leaving(address)
        self._open[address] = made
        made.add_close_callback(lambda: self._forget(address, made))
        return made

    def _forget(self, address: str, connection: Connection) -> None:
        if self._open.get(address) is connection:
            del self._open[address]

    def _leaving(self, address: str) -> ConnectionLost:
        return ConnectionLost(f"not connecting to {address}: this peer is leaving")

    async def request(
        self,
        address: str,
        message: Any,
        body: Sequence[Buffer] = (),
        *,
        deadline: float,
        into: Sequence[memoryview] | None = None,
        attempt: int = 0,
        on_interim: Callable[[Any], None] | None = None,
    ) -> Reply:
        """Ask the peer at ``address``; see `Connection.request`. The deadline covers connecting.

        Raises:
            Unreachable: nobody answers there; the request was not sent.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        connection = self._open.get(address)
        if connection is None or connection.closed:
            connection = await self.connection(address, deadline)
            deadline = max(until - loop.time(), 0.001)
        return await connection.request(
            message, body, deadline=deadline, into=into, attempt=attempt, on_interim=on_interim
        )

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        await asyncio.gather(*(one.close() for one in list(self._open.values())))
