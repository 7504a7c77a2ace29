"""What an operator does to a run under way, through any peer of its cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from paramserver.config import ClusterConfig
from paramserver.console import new_identity
from paramserver.errors import NotReady, TryAgain
from paramserver.mapview import RemoteMap
from paramserver.meeting import looking_in
from paramserver.placement import parse_map
from paramserver.transport.connection import Identity
from paramserver.transport.links import Links
from paramserver.wire.run import AskCheckpoint, Asked, Follow, SetBatchSize, Snapshot

PATIENCE = 120.0
"""Seconds that a checkpoint may take."""


class Operator:
    """Speaks with the run table of the cluster's run."""

    def __init__(self, links: Links, maps: RemoteMap, deadline: float) -> None:
        self._links = links
        self._maps = maps
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"<Operator of {self._maps.view!r}>"

    @property
    def run(self) -> str:
        """The name of the run under way.

        Raises:
            NotReady: there is none.
        """
        entry = self._maps.view.map.run
        if entry is None:
            raise NotReady("the cluster has no run under way")
        return entry.name

    async def checkpoint(self) -> str:
        """Have a checkpoint written; return its folder (on the machine of the run's driver).

        Raises:
            NotReady: it could not be written, or the run ended before.
            TryAgain: nothing was heard of it for two minutes.
        """
        asked: Asked = await self._ask(AskCheckpoint(run=self.run))
        serial = -1
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while loop.time() < until:
            snapshot: Snapshot = await self._ask(Follow(run=self.run, after=serial))
            serial = snapshot.serial
            made = snapshot.state["checkpoint"]
            if made["number"] >= asked.number:
                if made["error"] is not None:
                    raise NotReady(made["error"])
                return str(made["folder"])
            if snapshot.state["phase"] == "finished":
                raise NotReady("the run ended; its last checkpoint is in its folder")
            await asyncio.sleep(0.1)
        raise TryAgain(
            f"the driver of run {self.run} wrote no checkpoint within {PATIENCE:g} s: "
            "look at its output"
        )

    async def set_batch_size(self, size: int) -> None:
        """Change the run's minibatch, from the next clock or lease on.

        Raises:
            Refused: it is no minibatch of this run.
        """
        await self._ask(SetBatchSize(run=self.run, batch_size=size))

    async def _ask(self, message: Any) -> Any:
        primary = self._maps.view.map.run_primary()
        if primary is None:
            raise NotReady("the cluster has no run under way")
        reply = await self._links.request(primary.address, message, deadline=self._deadline)
        return reply.message


@contextlib.asynccontextmanager
async def operator(
    address: str, *, cluster: str, secret: bytes, deadline: float
) -> AsyncIterator[Operator]:
    """Connect to the cluster of which a peer is at ``address`` (host:port).

    Raises:
        Unreachable: nobody answers there.
        AuthenticationFailed: the cluster has another name or secret.
    """
    me = new_identity(None)
    links = Links(Identity(cluster, me.name, me.incarnation, "client"), secret)
    try:
        maps = RemoteMap(links, address)
        await maps.newer(maps.view.map.serial, 0.0)
        yield Operator(links, maps, deadline)
    finally:
        await links.close()


async def run_table_of(cluster: ClusterConfig, secret: bytes) -> str:
    """Return the address of the peer that leads the run of the cluster at its ZooKeeper.

    Raises:
        NotReady: there is no run, or the ZooKeeper cannot be reached.
        AuthenticationFailed: it does not take the credentials.
    """
    me = new_identity(None)
    identity = Identity(cluster.name, me.name, me.incarnation, "client")
    async with looking_in(cluster, None, identity, secret) as coordinator:
        document, _ = await coordinator.get_map()
    primary = parse_map(document).run_primary() if document is not None else None
    if primary is None:
        raise NotReady(f"cluster {cluster.name} has no run under way")
    return primary.address
