"""Act on the death of a peer that is seen dead, long before its session runs out.

A process that ends has its connections closed by the system, and nobody listens at its port any more,
or its next life does. Who sees that, for half a second on end, takes away what the coordinator still
holds of it: a candidate watches the leader, and the leader everybody. A mistake does no harm: each
write of a leader checks its election node, and a member that lives registers again, before anybody
counts its slices as lost (see `paramserver.coordination.coordinator.Coordinator.doubt`). A peer that
is silent, cut off or frozen shows none of this: it is waited for until its session runs out.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from paramserver.coordination.coordinator import Coordinator
from paramserver.errors import Fenced, NotReady, RequestFailed, StoreError
from paramserver.transport.connection import Connection
from paramserver.transport.links import Links
from paramserver.types import PeerId
from paramserver.waiting import Changes

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
REFUSED_FOR = 0.5
"""Seconds that nobody must listen at a peer's address before it is taken for dead."""
SHORTEST_PAUSE = 0.05


class Dead(Exception):
    """Nobody listens at a peer's address, or its next life does."""


class DeathWatch:
    """Holds a connection to each peer whose death is this one's to act on."""

    def __init__(self, coordinator: Coordinator, links: Links, me: PeerId, deadline: float) -> None:
        self._coordinator = coordinator
        self._links = links
        self._me = me
        self._deadline = deadline
        self._changes = Changes()
        self._dirty = False
        self._watched: dict[PeerId, tuple[str, asyncio.Task[None]]] = {}
        self._seen: set[PeerId] = set()
        self._dead: set[PeerId] = set()

    def __repr__(self) -> str:
        return f"<DeathWatch of {self._me} over {len(self._watched)}>"

    def look_again(self) -> None:
        """Note that others may be there now, or another leads."""
        self._dirty = True
        self._changes.notify()

    async def run(self) -> None:
        """Watch whoever is to be watched, until cancelled."""
        try:
            while True:
                self._dirty = False
                there = self._members() | self._leader()
                self._seen &= there.keys()
                self._dead &= there.keys()
                wanted = self._wanted() | {peer: there[peer] for peer in self._dead}
                for peer in [one for one in self._watched if one not in wanted]:
                    self._watched.pop(peer)[1].cancel()
                for peer, address in wanted.items():
                    self._watch(peer, address)
                for peer in tuple(self._dead):
                    await self._bury(peer, there[peer])
                await self._changes.until(lambda: self._dirty, LOOK_AGAIN)
        finally:
            tasks = [task for _, task in self._watched.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _leads(self) -> bool:
        term = self._coordinator.election.term
        return term is not None and term.valid

    def _leader(self) -> dict[PeerId, str]:
        leader = self._coordinator.leader()
        return {PeerId(leader.name, leader.incarnation): leader.address} if leader else {}

    def _members(self) -> dict[PeerId, str]:
        members = self._coordinator.members.current.values()
        return {PeerId(one.name, one.incarnation): one.address for one in members}

    def _wanted(self) -> dict[PeerId, str]:
        """Return whom to watch, with the addresses: as the leader all others, else the leader."""
        found = self._members() if self._leads else self._leader()
        found.pop(self._me, None)
        return found

    def _watch(self, peer: PeerId, address: str) -> None:
        known = self._watched.get(peer)
        if known is not None and known[0] == address:
            return
        if known is not None:
            known[1].cancel()
        task = asyncio.create_task(self._watch_over(peer, address), name=f"watch over {peer}")
        self._watched[peer] = address, task

    async def _watch_over(self, peer: PeerId, address: str) -> None:
        """Hold a connection to a peer, and note while it is seen dead."""
        loop = asyncio.get_running_loop()
        pause, since = SHORTEST_PAUSE, None
        while True:
            try:
                connection = await self._connect(peer, address)
            except Dead:
                since = loop.time() if since is None else since
                if loop.time() - since >= REFUSED_FOR and peer not in self._dead:
                    self._dead.add(peer)
                    self.look_again()
                pause = min(pause, REFUSED_FOR / 4)
            else:
                since = None
                if connection is not None:
                    pause = SHORTEST_PAUSE
                    await self._until_closed(connection)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_AGAIN)

    async def _connect(self, peer: PeerId, address: str) -> Connection | None:
        """Return a connection to a peer, None where nothing can be said about it now.

        Raises:
            Dead: its next life is there; or it was seen alive, and nobody listens there now, or
                another peer. (At an address that is wrong nobody listens either.)
        """
        try:
            connection = await self._links.connection(address, self._deadline)
        except NotReady as error:
            log.info("%s is not watched now: %s", peer, error)
            return None
        except RequestFailed as error:
            if peer in self._seen and isinstance(error.__cause__, ConnectionRefusedError):
                raise Dead from error
            return None
        remote = PeerId(connection.remote.name, connection.remote.incarnation)
        if remote == peer:
            if peer not in self._seen:
                log.info("watching over %s at %s", peer, address)
            self._seen.add(peer)
            self._dead.discard(peer)
            return connection
        if peer in self._seen or (
            remote.name == peer.name and remote.incarnation > peer.incarnation
        ):
            raise Dead
        return None

    async def _until_closed(self, connection: Connection) -> None:
        changes = Changes()
        connection.add_close_callback(changes.notify)
        while not await changes.until(partial(getattr, connection, "closed"), LOOK_AGAIN):
            pass

    async def _bury(self, peer: PeerId, address: str) -> None:
        """Take away what the coordinator holds of a peer, if it is dead still.

        What cannot be written now is tried again.
        """
        coordinator, leader = self._coordinator, self._leader()
        if peer not in leader and not self._leads:
            return
        try:
            await self._connect(peer, address)
            return
        except Dead:
            log.debug("%s is dead", peer)
        try:
            found = coordinator.leader()
            if found is not None and (found.name, found.incarnation) == peer:
                await coordinator.election.depose(found)
            else:
                await coordinator.bury(*peer)
                # Should it come back it lives, wherever it is: once is enough.
                self._dead.discard(peer)
                self._seen.discard(peer)
        except (Fenced, StoreError) as error:
            log.info("%s is dead, and not taken away yet: %s", peer, error)
