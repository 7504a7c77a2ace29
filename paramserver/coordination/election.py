"""Who leads: the oldest candidate's node wins, and its transaction number makes the term.

Candidates are sequential ephemeral nodes with a GUID in their name, so that a candidate whose
create got no answer finds what became of it. Each watches its own, the one before it (Hunt et al.
2010, section 2.4, "locks without herd effect") and whoever leads. Every write of a leader goes through
`Election.fenced`, which checks its own node: a deposed leader changes nothing. That makes it safe
to depose a leader that only looked dead.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paramserver.coordination.layout import Ground, Layout
from paramserver.coordination.members import MemberInfo
from paramserver.coordination.port import (
    ANY,
    SEQUENCE_DIGITS,
    Check,
    Delete,
    Op,
    OpResult,
    SessionState,
    Stat,
    Store,
)
from paramserver.coordination.watching import Signal, Watching
from paramserver.errors import BadVersion, Fenced, NoNode

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Term:
    """One leader's time: (the operator's generation, czxid of its election node); terms grow."""

    generation: int
    czxid: int
    _holds: Callable[[int], bool] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.generation}.{self.czxid}"

    @property
    def valid(self) -> bool:
        """Whether the leader may act under this term now; asked at each use.

        False once suspended, once the lease of the session has run out, once deposed, and for a
        term that another peer holds.
        """
        return self._holds is not None and self._holds(self.czxid)


@dataclass(frozen=True, slots=True)
class LeaderInfo:
    """A leader as others see it: who, where, and the election node that ``depose`` needs."""

    name: str
    incarnation: int
    address: str
    term: Term
    path: str
    version: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: str
    stat: Stat
    data: bytes


class Election:
    """The election as one peer sees it; a candidate itself once `stand` was called.

    ``changes`` is notified when the term held here, or the leader seen, is another.
    """

    def __init__(self, store: Store, layout: Layout, ground: Ground) -> None:
        self.changes = Signal()
        self._store = store
        self._layout = layout
        self._ground = ground
        self._watching = Watching(store)
        self._guid = uuid.uuid4().hex
        self._standing: bytes | None = None
        self._held: tuple[Term, _Candidate] | None = None
        self._leader: LeaderInfo | None = None

    def __repr__(self) -> str:
        return f"<Election: term {self.term}, leader {self._leader and self._leader.name}>"

    @property
    def term(self) -> Term | None:
        """The term this peer holds, None where it does not lead; see also `Term.valid`."""
        return self._held[0] if self._held is not None else None

    @property
    def leader(self) -> LeaderInfo | None:
        """The leader last seen, None where there was none."""
        return self._leader

    def stand(self, info: MemberInfo) -> None:
        """Be a candidate from the next look on."""
        standing = json.dumps(
            {"name": info.name, "incarnation": info.incarnation, "address": info.address}
        ).encode()
        if standing != self._standing:
            self._standing = standing
            self._watching.look_again()

    async def run(self) -> None:
        """Look at the election until cancelled or the store is closed."""
        unlisten = self._store.session.listen(self._session_moved)
        try:
            await self._watching.keep_looking(self._look, self._ground.forget)
        finally:
            unlisten()
            self._hold(None)

    async def fenced(self, ops: Sequence[Op]) -> list[OpResult]:
        """Carry out ``ops``, all or none, if this peer still leads.

        Raises:
            Fenced: it does not, or no longer; nothing was written.
            StoreError: what the first op that failed raises; ``detail["op"]`` is its index.
        """
        held = self._held
        if held is None or not held[0].valid:
            raise Fenced("this peer does not lead the cluster now")
        term, node = held
        try:
            results = await self._store.multi([Check(node.path, node.stat.version), *ops])
        except (NoNode, BadVersion) as error:
            if error.detail.get("op") != 0:
                error.detail["op"] -= 1
                raise
            self._hold(None)
            self._watching.look_again()
            raise Fenced(f"term {term} is over: another candidate deposed this peer") from error
        return results[1:]

    async def depose(self, leader: LeaderInfo) -> bool:
        """Take the term from a leader seen dead; False where its term was over already.

        Raises:
            Fenced: this peer is no candidate.
            Unavailable, OutcomeUnknown, SessionExpired: look again, and try again if need be.
        """
        mine = await self._own()
        if mine is None:
            raise Fenced("this peer is no candidate: it cannot depose the leader")
        if mine.path == leader.path:
            return False
        ops: list[Op] = [Check(mine.path, mine.stat.version), Delete(leader.path, leader.version)]
        try:
            await self._store.multi(ops)
        except (NoNode, BadVersion) as error:
            if error.detail.get("op") == 0:
                raise Fenced("this peer is no candidate any more") from error
            return False
        finally:
            self._watching.look_again()
        log.warning("deposed %s, whose term was %s", leader.name, leader.term)
        return True

    async def nodes_of(self, name: str, incarnation: int) -> list[Delete]:
        """Return what takes a peer out of the election.

        Raises:
            Unavailable, SessionExpired
        """
        found: list[Delete] = []
        for path in await self._queue():
            node = await self._read(path)
            if node is not None:
                who = _parse(node)
                if (who.get("name"), who.get("incarnation")) == (name, incarnation):
                    found.append(Delete(path, node.stat.version))
        return found

    # Looking

    async def _look(self) -> None:
        await self._ground.ready()
        mine = await self._own()
        if self._standing is not None and (mine is None or mine.data != self._standing):
            if mine is not None:
                await self._delete(mine.path)
            prefix = f"{self._layout.election}/{self._guid}-"
            await self._store.create(prefix, self._standing, ephemeral=True, sequential=True)
            mine = await self._own()
        if mine is None:
            self._watching.arm(self._layout.election, "children")
        else:
            self._watching.arm(mine.path, "data")  # the leader may take it away by mistake
        queue = await self._queue()
        place = queue.index(mine.path) if mine is not None and mine.path in queue else -1
        if place > 0:
            self._watching.arm(queue[place - 1], "data")
        first = await self._read(queue[0]) if queue else None
        if first is not None:
            self._watching.arm(first.path, "data")
        elif queue:
            self._watching.look_again()
        self._hold(mine if place == 0 and first is not None else None)
        self._see(first)

    async def _queue(self) -> list[str]:
        """Return the candidates' paths, oldest first."""
        names = await self._store.children(self._layout.election)
        names.sort(key=lambda name: name[-SEQUENCE_DIGITS:])
        return [f"{self._layout.election}/{name}" for name in names]

    async def _own(self) -> _Candidate | None:
        """Find this candidate's node by its GUID; delete those of its dead sessions."""
        own: _Candidate | None = None
        for path in await self._queue():
            if not path.startswith(f"{self._layout.election}/{self._guid}-"):
                continue
            node = await self._read(path)
            if node is None:
                continue
            if own is None and node.stat.owner == self._store.session.id:
                own = node
            else:
                await self._delete(path)
        return own

    async def _read(self, path: str) -> _Candidate | None:
        try:
            data, stat = await self._store.get(path)
        except NoNode:
            return None
        return _Candidate(path, stat, data)

    async def _delete(self, path: str) -> None:
        try:
            await self._store.delete(path, ANY)
        except NoNode:
            log.debug("%s was gone already", path)

    # What is known

    def _session_moved(self, state: SessionState) -> None:
        if state is not SessionState.CONNECTED:
            self._hold(None)

    def _hold(self, node: _Candidate | None) -> None:
        """Hold the term of ``node``, or none."""
        session = self._store.session
        if node is not None and (
            session.state is not SessionState.CONNECTED or node.stat.owner != session.id
        ):
            node = None
        before = self.term
        if node is None:
            self._held = None
        else:
            self._held = Term(self._layout.generation, node.stat.czxid, self._holds), node
        if self.term != before:
            log.info("term %s", self.term or f"{before} is over")
            self.changes.notify()

    def _holds(self, czxid: int) -> bool:
        held, session = self._held, self._store.session
        return (
            held is not None
            and held[0].czxid == czxid
            and held[1].stat.owner == session.id
            and session.leased
        )

    def _see(self, node: _Candidate | None) -> None:
        """Note who leads."""
        seen: LeaderInfo | None = None
        if node is not None:
            who = _parse(node)
            seen = LeaderInfo(
                name=str(who.get("name", "")),
                incarnation=int(who.get("incarnation", 0)),
                address=str(who.get("address", "")),
                term=Term(self._layout.generation, node.stat.czxid),
                path=node.path,
                version=node.stat.version,
            )
        if seen != self._leader:
            self._leader = seen
            self.changes.notify()


def _parse(node: _Candidate) -> dict[str, Any]:
    try:
        who = json.loads(node.data)
    except ValueError:
        log.warning("%s names no candidate", node.path)
        return {}
    try:
        return {
            "name": str(who["name"]),
            "incarnation": int(who["incarnation"]),
            "address": str(who["address"]),
        }
    except (KeyError, TypeError, ValueError):
        log.warning("%s names no candidate", node.path)
        return {}
