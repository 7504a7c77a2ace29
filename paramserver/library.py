"""The library's door: tables of a running cluster, for any program's gradients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from paramserver.client import TableClient
from paramserver.console import new_identity, secret_of
from paramserver.errors import DeadlineExceeded, NotReady, RequestFailed
from paramserver.mapview import RemoteMap
from paramserver.slices import Floats
from paramserver.spec import Rule, TableSpec
from paramserver.transport.connection import Identity
from paramserver.transport.links import Links
from paramserver.types import PeerId
from paramserver.wire.control import CreateTable

RETRY_PAUSE = 0.1


class Client:
    """A connection to a cluster; see `connect`."""

    def __init__(self, links: Links, maps: RemoteMap, me: PeerId, address: str, deadline: float):
        self._links = links
        self._maps = maps
        self._me = me
        self._address = address
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"<Client {self._me} of the cluster at {self._address}>"

    async def tables(self) -> dict[str, int]:
        """Return the tables of the cluster and their sizes in elements."""
        await self._maps.newer(self._maps.view.map.serial, 0.0)
        return {name: entry.spec.size for name, entry in self._maps.view.map.tables.items()}

    async def table(self, name: str) -> TableClient:
        """Open a table that exists.

        Raises:
            UnknownTable: there is none of that name; the text lists those there are.
        """
        await self._maps.newer(self._maps.view.map.serial, 0.0)
        table = TableClient(self._links, self._maps, name, self._me, deadline=self._deadline)
        table.check()
        return table

    async def create_table(
        self, name: str, initial: Floats, *, rule: Rule | None = None
    ) -> TableClient:
        """Create a table, or open it where one of that name, size and rule exists.

        ``initial`` (flat float32) becomes its first weights, unless it has some. Pushes are applied
        as they come (asp) by ``rule``, plain SGD with rate 0.1 unless given.

        Raises:
            NotReady: the cluster has no shard, or no leader within the deadline.
            Refused: there is another table of that name.
        """
        spec = TableSpec(size=initial.size, rule=rule if rule is not None else Rule())
        message = CreateTable(name=name, spec=spec.model_dump(mode="json"))
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline
        while True:
            try:
                reply = await self._links.request(
                    self._address, message, deadline=max(until - loop.time(), RETRY_PAUSE)
                )
                break
            except (NotReady, RequestFailed):
                if loop.time() + RETRY_PAUSE >= until:
                    raise
                await asyncio.sleep(RETRY_PAUSE)
        serial: int = reply.message.serial
        while self._maps.view.map.serial < serial:
            await self._maps.newer(serial - 1, max(until - loop.time(), RETRY_PAUSE))
            if loop.time() >= until:
                raise DeadlineExceeded(f"{self._address} does not know of table {name!r} yet")
        table = TableClient(self._links, self._maps, name, self._me, deadline=self._deadline)
        await table.initialise(initial)
        return table


@contextlib.asynccontextmanager
async def connect(
    address: str,
    *,
    cluster: str = "local",
    secret_file: Path | None = None,
    deadline: float = 10.0,
) -> AsyncIterator[Client]:
    """Connect to any peer of a cluster, at ``address`` (host:port).

        async with paramserver.connect("127.0.0.1:7000") as client:
            table = await client.create_table("weights", numpy.zeros(10, numpy.float32))
            weights = await table.pull()
            await table.push(gradient)

    ``deadline`` bounds each request, in seconds.

    Raises:
        Unreachable: nobody answers at ``address``.
        AuthenticationFailed: the cluster has another name or secret.
    """
    me = new_identity(None)
    secret = secret_of(secret_file) if secret_file is not None else b""
    links = Links(Identity(cluster, me.name, me.incarnation, "client"), secret)
    try:
        maps = RemoteMap(links, address)
        await maps.newer(maps.view.map.serial, 0.0)
        yield Client(links, maps, me, address, deadline)
    finally:
        await links.close()
