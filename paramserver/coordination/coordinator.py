"""The coordinator as one peer uses it: all recipes over one store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

from paramserver.coordination.documents import ABSENT, Documents
from paramserver.coordination.election import Election, LeaderInfo
from paramserver.coordination.layout import Ground, Layout
from paramserver.coordination.members import MemberInfo, Members
from paramserver.coordination.port import Store
from paramserver.coordination.watching import Signal, Watching
from paramserver.errors import BadVersion, NoNode, Unavailable
from paramserver.waiting import first_error

log = logging.getLogger(__name__)

MOST_BURIED = 1024
COMES_BACK = 0.25
"""Seconds in which a peer that lives has registered again after it was taken out."""

__all__ = ["ABSENT", "Coordinator", "LeaderInfo", "MemberInfo"]


class Coordinator:
    """Members, election, configuration, outcomes and the map of one cluster.

    Owns ``store`` and closes it. Views and the election move only while `run` runs; reading and
    writing documents, and registering, need only the store.
    """

    def __init__(self, store: Store, *, cluster: str, generation: int = 1) -> None:
        self._store = store
        self._layout = Layout(cluster, generation)
        ground = Ground(store, self._layout)
        self.members = Members(store, self._layout, ground)
        self.election = Election(store, self._layout, ground)
        self.documents = Documents(store, ground)
        self._ground = ground
        self._watching = Watching(store)
        self._changed = Signal()
        self._buried: dict[tuple[str, int], float] = {}
        self._due: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Coordinator of {self._layout.base} at {self._store.host}, {self.state}>"

    # Life

    @property
    def state(self) -> str:
        """The session's state: connected, suspended, expired or closed."""
        return self._store.session.state.value

    @property
    def settled(self) -> bool:
        """Whether who is not among the members has gone, and is not on its way back."""
        return self._store.session.settled

    async def run(self, *, candidate: bool = True) -> None:
        """Keep the views and, once registered, stand for election, until cancelled or closed.

        A peer that is no ``candidate`` never leads.

        Raises:
            NodeExists: in a new session a living peer holds this peer's name.
        """
        leave: list[Callable[[], None]] = [
            self.members.changes.subscribe(self._forget_the_living),
            self.members.changes.subscribe(self._changed.notify),
            self.election.changes.subscribe(self._changed.notify),
            self._store.session.listen(lambda state: self._changed.notify()),
        ]
        if candidate:
            leave.append(self.members.changes.subscribe(self._stand))
            self._stand()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.members.run())
                group.create_task(self.election.run())
                group.create_task(self._watching.keep_looking(self._look, self._ground.forget))
        except BaseExceptionGroup as several:
            raise first_error(several) from several
        finally:
            for end in leave:
                end()

    async def close(self) -> None:
        """Leave the cluster: this peer's nodes go at once. Takes less than two seconds."""
        if self._due is not None:
            self._due.cancel()
        await self._store.close()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when members, leader, term, state, runs asked for or outcomes may be others.

        Returns what ends that.
        """
        return self._changed.subscribe(callback)

    def _stand(self) -> None:
        if self.members.mine is not None:
            self.election.stand(self.members.mine)

    async def _look(self) -> None:
        await self._ground.ready()
        self._watching.arm(self._layout.configs, "children")
        self._watching.arm(self._layout.outcomes, "children")
        self._changed.notify()

    async def exists(self) -> bool:
        """Say whether anybody has made this cluster yet.

        Raises:
            Unavailable
        """
        return bool(await self.documents.names(self._layout.base))

    # Who leads

    def leader(self) -> LeaderInfo | None:
        """Return the leader last seen, None where there was none."""
        return self.election.leader

    async def bury(self, name: str, incarnation: int) -> bool:
        """Take a peer seen dead out of members and election, as the leader; False where it had gone.

        Raises:
            Fenced: this peer does not lead, or no longer.
            Unavailable, OutcomeUnknown, SessionExpired: look again, and try again if need be.
        """
        ops = [
            *await self.members.nodes_of(name, incarnation),
            *await self.election.nodes_of(name, incarnation),
        ]
        if not ops:
            return False
        loop = asyncio.get_running_loop()
        # Before it is written: where the answer is lost it may have been.
        self._buried[name, incarnation] = loop.time()
        try:
            await self.election.fenced(ops)
        except (NoNode, BadVersion) as error:
            raise Unavailable(f"{name} has changed meanwhile") from error
        finally:
            if self._due is not None:
                self._due.cancel()
            self._due = loop.call_later(COMES_BACK, self._changed.notify)
        log.warning("%s was seen dead: it is no member any more", name)
        return True

    @property
    def buried(self) -> frozenset[tuple[str, int]]:
        """Whom this peer took out, and who did not come back within a moment, as who lives does."""
        latest = asyncio.get_running_loop().time() - COMES_BACK
        return frozenset(one for one, at in self._buried.items() if at <= latest)

    @property
    def doubt(self) -> frozenset[tuple[str, int]]:
        """Whom this peer took out a moment ago: who lives of them comes back at once."""
        return frozenset(self._buried) - self.buried

    def _forget_the_living(self) -> None:
        for one in self.members.current.values():
            self._buried.pop((one.name, one.incarnation), None)
        while len(self._buried) > MOST_BURIED:
            del self._buried[next(iter(self._buried))]

    # Runs: what is asked for, and how each ended

    async def put_config(self, run: str, config: dict[str, Any]) -> int:
        """Ask for a run, or change its configuration; return the new version.

        Raises:
            StoreError: see `paramserver.coordination.documents.Documents.put`.
        """
        return await self.documents.put(self._layout.config(run), config)

    async def get_config(self, run: str) -> dict[str, Any] | None:
        """Return a run's configuration, None where there is none.

        Raises:
            Unavailable
        """
        return await self._value(self._layout.config(run))

    async def configs(self) -> dict[str, dict[str, Any]]:
        """Return every run asked for, by name.

        Raises:
            Unavailable
        """
        return await self._values(self._layout.configs)

    async def drop_config(self, run: str, *, leading: bool = False) -> None:
        """Ask for a run no longer; ``leading``: as the leader.

        Raises:
            Unavailable
            Fenced: this peer does not lead, or no longer.
        """
        await self._drop(self._layout.config(run), leading)

    async def put_outcome(self, run: str, outcome: dict[str, Any]) -> int:
        """Write how a run ended, as the leader; return the new version.

        Raises:
            Fenced: this peer does not lead, or no longer.
            StoreError: see `paramserver.coordination.documents.Documents.swap`.
        """
        path = self._layout.outcome(run)
        before = await self.documents.get(path)
        version = before.version if before is not None else ABSENT
        return await self.documents.swap(path, outcome, version, through=self.election.fenced)

    async def get_outcome(self, run: str) -> dict[str, Any] | None:
        """Return how a run ended, None where nothing is known.

        Raises:
            Unavailable
        """
        return await self._value(self._layout.outcome(run))

    async def outcomes(self) -> dict[str, dict[str, Any]]:
        """Return how runs ended, by name.

        Raises:
            Unavailable
        """
        return await self._values(self._layout.outcomes)

    async def drop_outcome(self, run: str, *, leading: bool = False) -> None:
        """Forget how a run ended; ``leading``: as the leader.

        Raises:
            Unavailable
            Fenced: this peer does not lead, or no longer.
        """
        await self._drop(self._layout.outcome(run), leading)

    async def _drop(self, path: str, leading: bool) -> None:
        if leading:
            await self.documents.drop(path, through=self.election.fenced)
        else:
            await self.documents.drop(path)

    # The map

    async def get_map(self) -> tuple[dict[str, Any] | None, int]:
        """Return the map and its version; None and `ABSENT` where there is none.

        Raises:
            Unavailable
        """
        found = await self.documents.get(self._layout.map)
        return (found.value, found.version) if found is not None else (None, ABSENT)

    async def put_map(self, document: dict[str, Any], version: int) -> int:
        """Write the map, as the leader, if it still has ``version``; return its new version.

        Raises:
            Fenced: this peer does not lead, or no longer.
            BadVersion: the map is another meanwhile.
            StoreError: see `paramserver.coordination.documents.Documents.swap`.
        """
        return await self.documents.swap(
            self._layout.map, document, version, through=self.election.fenced
        )

    def follow_map(self) -> AsyncIterator[dict[str, Any] | None]:
        """Follow the map: as it is now, None where absent, and at each change."""
        return self.documents.follow(self._layout.map)

    # What people see

    def describe(self) -> dict[str, Any]:
        """Return the coordinator's part of a status document."""
        leader, term = self.leader(), self.election.term
        return {
            "host": self._store.host,
            "state": self.state,
            "base": self._layout.base,
            "session": f"{self._store.session.id:x}",
            "session_timeout": self._store.session.timeout,
            "lag": self._store.session.lag,
            "leader": leader.name if leader is not None else None,
            "leader_address": leader.address if leader is not None else None,
            "leader_term": str(leader.term) if leader is not None else None,
            "leads": term is not None and term.valid,
        }

    def members_document(self) -> dict[str, Any]:
        """Return the members by name, as JSON-able values."""
        return {
            name: {**asdict(info), "roles": list(info.roles)}
            for name, info in sorted(self.members.current.items())
        }

    async def _value(self, path: str) -> dict[str, Any] | None:
        found = await self.documents.get(path)
        return found.value if found is not None else None

    async def _values(self, folder: str) -> dict[str, dict[str, Any]]:
        found = {
            name: await self._value(f"{folder}/{name}")
            for name in await self.documents.names(folder)
        }
        return {name: value for name, value in found.items() if value is not None}
