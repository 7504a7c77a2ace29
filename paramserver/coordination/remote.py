"""The store of a peer whose coordinator lives in another process, over the project's own wire."""

from __future__ import annotations

import time
from typing import Any

from paramserver.coordination.port import Clock, Store
from paramserver.coordination.session_store import Dial, Link, SessionStore
from paramserver.errors import Unreachable
from paramserver.transport.connection import Connection, Identity, connect


class RemoteLink:
    """A `Link` over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def request(self, message: object, *, deadline: float) -> Any:
        """Send a message once and return the answer, within ``deadline`` seconds."""
        if self._connection.closed:
            raise Unreachable(f"the connection to {self._connection.address} has ended")
        return (await self._connection.request(message, deadline=deadline)).message

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


def dial(address: str, identity: Identity, secret: bytes) -> Dial:
    """Return the function that connects to the coordinator's host at ``address``."""

    async def connect_once(seconds: float) -> Link:
        return RemoteLink(await connect(address, identity, secret, deadline=seconds))

    return connect_once


async def open_remote(
    address: str,
    identity: Identity,
    secret: bytes,
    *,
    session_timeout: float,
    deadline: float,
    clock: Clock = time.monotonic,
) -> Store:
    """Open a session with the coordinator at ``address`` (host:port), within ``deadline`` seconds.

    Raises:
        Unavailable: it could not be reached.
        NotReady: it holds another secret, belongs to another cluster, or speaks another version.
    """
    store = SessionStore(
        dial(address, identity, secret), address, session_timeout=session_timeout, clock=clock
    )
    await store.open(deadline)
    return store
