"""A shard in a process of its own, and tables of it as a worker sees them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import numpy as np

from benching.conversation import Conversation
from kernels.engine import open_rules
from paramserver.client import Copy, TableClient
from paramserver.config import PeerConfig
from paramserver.console import new_identity
from paramserver.errors import DeadlineExceeded, NotReady
from paramserver.mapview import RemoteMap
from paramserver.peer import Peer
from paramserver.spec import Rule, TableSpec
from paramserver.transport.links import Links
from paramserver.types import PeerId
from paramserver.wire.control import CreateTable
from paramserver.wire.handshake import Identity

DEADLINE = 10.0
RETRY_PAUSE = 0.05


async def shard_side(conversation: Conversation) -> None:
    """Be the one shard of a cluster."""
    engine = partial(open_rules, conversation.settings["device"])
    peer = Peer(PeerConfig(), new_identity("shard"), b"", shard=True, open_rules=engine)
    async with peer.running():
        await conversation.serve(peer.address)


class Tables:
    """Tables of the cluster at ``address``."""

    def __init__(self, links: Links, address: str, me: PeerId) -> None:
        self._links = links
        self._address = address
        self._me = me
        self._maps = RemoteMap(links, address)

    async def create(self, name: str, spec: TableSpec) -> TableClient:
        """Create a table whose weights are zero."""
        message = CreateTable(name=name, spec=spec.model_dump(mode="json"))
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    made = await self._links.request(self._address, message, deadline=DEADLINE)
                    break
                except NotReady:  # the shard does not lead yet
                    await asyncio.sleep(RETRY_PAUSE)
            while self._maps.view.map.serial < made.message.serial:
                await self._maps.newer(made.message.serial - 1, RETRY_PAUSE)
        table = TableClient(self._links, self._maps, name, self._me, deadline=DEADLINE)
        await table.initialise(np.zeros(spec.size, np.float32))
        return table


def spec_of(size: int, *, bsp: bool) -> TableSpec:
    """Return a table of ``size`` elements, updated by sgd; in bsp a clock has two parts."""
    rule = Rule(name="sgd", rate=((0, 1e-3),))
    if bsp:
        return TableSpec(size=size, rule=rule, consistency="bsp", parts=2)
    return TableSpec(size=size, rule=rule)


async def pull(table: TableClient, copy: Copy) -> None:
    """Pull a table into memory that is there, as a worker does in asp.

    Raises:
        DeadlineExceeded: it was not sent in time.
    """
    if not await table.pull_into(copy, clock=None, deadline=DEADLINE):
        raise DeadlineExceeded(f"table {table.name!r} was not sent within {DEADLINE:g} s")


@contextlib.asynccontextmanager
async def joined(address: str) -> AsyncIterator[Tables]:
    """Connect to the shard at ``address`` as a worker would."""
    me = new_identity("bench")
    links = Links(Identity(PeerConfig().cluster.name, me.name, me.incarnation, "client"), b"")
    try:
        yield Tables(links, address, me)
    finally:
        await links.close()
