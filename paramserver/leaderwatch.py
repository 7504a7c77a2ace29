"""Depose a leader that is seen dead, long before its session runs out.

A process that ends has its connections closed by the system, and nobody listens at its port any more.
Who sees both takes the leader's election node away. That is safe even when it is wrong, since each
write of a leader checks that node. A leader that is silent, cut off or frozen shows neither: it is
waited for until its session runs out.
"""

from __future__ import annotations

import logging
from functools import partial

from paramserver.coordination.coordinator import Coordinator, LeaderInfo
from paramserver.errors import Fenced, NotReady, RequestFailed, StoreError
from paramserver.transport.connection import Connection
from paramserver.transport.links import Links
from paramserver.types import PeerId
from paramserver.waiting import Changes

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0


class LeaderWatch:
    """Holds a connection to whoever leads, for a peer that stands for election itself."""

    def __init__(self, coordinator: Coordinator, links: Links, me: PeerId, deadline: float) -> None:
        self._coordinator = coordinator
        self._links = links
        self._me = me
        self._deadline = deadline
        self._changes = Changes()

    def __repr__(self) -> str:
        return f"<LeaderWatch of {self._me}>"

    def look_again(self) -> None:
        """Note that another may lead now."""
        self._changes.notify()

    async def run(self) -> None:
        """Watch one leader after the other, until cancelled."""
        while True:
            leader = self._coordinator.leader()
            if leader is not None and (leader.name, leader.incarnation) != self._me:
                await self._watch(leader)
            await self._changes.until(partial(self._is_other, leader), LOOK_AGAIN)

    def _is_other(self, leader: LeaderInfo | None) -> bool:
        return self._coordinator.leader() != leader

    async def _watch(self, leader: LeaderInfo) -> None:
        try:
            connection = await self._links.connection(leader.address, self._deadline)
        except (RequestFailed, NotReady) as error:
            log.info("no connection to the leader %s: %s", leader.name, error)
            return
        if (connection.remote.name, connection.remote.incarnation) != (
            leader.name,
            leader.incarnation,
        ):
            return  # another peer is at the address that the leader gave
        connection.add_close_callback(self._changes.notify)
        while not connection.closed:
            if self._is_other(leader):
                return
            over = partial(self._over, connection, leader)
            await self._changes.until(over, LOOK_AGAIN)
        if await self._refused(leader.address):
            await self._depose(leader)

    def _over(self, connection: Connection, leader: LeaderInfo) -> bool:
        return connection.closed or self._is_other(leader)

    async def _refused(self, address: str) -> bool:
        """Say whether nobody listens at an address: not whether nobody answers."""
        try:
            await self._links.connection(address, self._deadline)
        except RequestFailed as error:
            return isinstance(error.__cause__, ConnectionRefusedError)
        except NotReady:
            pass
        return False

    async def _depose(self, leader: LeaderInfo) -> None:
        try:
            await self._coordinator.election.depose(leader)
        except (Fenced, StoreError) as error:
            log.info("the leader %s was not deposed: %s", leader.name, error)
