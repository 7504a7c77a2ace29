"""Act on the death of a peer that is seen dead, long before its session runs out.

A process that ends has its connections closed by the system, and nobody listens at its port any more,
or its next life does. Who sees that takes away what the coordinator still holds of it: a candidate
watches the leader, and the leader everybody. That is safe even when it is wrong: each write of a leader
checks its election node, and a peer that lives registers again. A peer that is silent, cut off or
frozen shows none of this: it is waited for until its session runs out.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from paramserver.coordination.coordinator import Coordinator
from paramserver.errors import Fenced, NotReady, RequestFailed, StoreError
from paramserver.transport.links import Links
from paramserver.types import PeerId
from paramserver.waiting import Changes

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
SHORTEST_PAUSE = 0.05


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
                wanted = self._wanted()
                for peer in [one for one in self._watched if one not in wanted]:
                    self._watched.pop(peer)[1].cancel()
                for peer, address in wanted.items():
                    self._watch(peer, address)
                await self._bury_the_dead()
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
        task = asyncio.create_task(self._until_dead(peer, address), name=f"watch over {peer}")
        self._watched[peer] = address, task

    async def _until_dead(self, peer: PeerId, address: str) -> None:
        """Hold a connection to a peer, and note when it is seen dead.

        Only who was seen alive from here is: at an address that is wrong nobody listens either.
        """
        seen, pause = False, SHORTEST_PAUSE
        while True:
            try:
                connection = await self._links.connection(address, self._deadline)
            except NotReady as error:
                log.info("%s is not watched: %s", peer, error)
                return
            except RequestFailed as error:
                if seen and isinstance(error.__cause__, ConnectionRefusedError):
                    break
            else:
                remote = connection.remote
                if remote.name != peer.name or remote.incarnation < peer.incarnation:
                    log.info("%s is not watched: at %s is %s", peer, address, remote.name)
                    return
                if remote.incarnation > peer.incarnation:
                    break
                if not seen:
                    log.info("watching over %s at %s", peer, address)
                seen, pause = True, SHORTEST_PAUSE
                changes = Changes()
                connection.add_close_callback(changes.notify)
                while not connection.closed:
                    await changes.until(partial(getattr, connection, "closed"), LOOK_AGAIN)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_AGAIN)
        self._dead.add(peer)
        self.look_again()

    async def _bury_the_dead(self) -> None:
        """Take away what the coordinator holds of the dead; what cannot be now is tried again."""
        coordinator = self._coordinator
        self._dead &= self._members().keys() | self._leader().keys()
        for peer in tuple(self._dead):
            leader = coordinator.leader()
            try:
                if leader is not None and (leader.name, leader.incarnation) == peer:
                    await coordinator.election.depose(leader)
                elif self._leads:
                    await coordinator.bury(*peer)
                    # Should it live after all, it comes back, and is watched from the beginning.
                    self._dead.discard(peer)
                    if peer in self._watched:
                        self._watched.pop(peer)[1].cancel()
            except (Fenced, StoreError) as error:
                log.info("%s is dead, and not taken away yet: %s", peer, error)
