"""Who is there: every peer is an ephemeral node, everybody has a view that converges."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from paramserver.coordination.layout import Ground, Layout
from paramserver.coordination.port import Delete, Stat, Store
from paramserver.coordination.watching import INTERRUPTIONS, Signal, Watching, try_again
from paramserver.errors import BadVersion, NodeExists, NoNode, Unavailable

log = logging.getLogger(__name__)

FOREIGN_WAIT = 2.0
"""How long, in session timeouts, a new peer waits for an earlier life of its name to vanish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberInfo:
    """What a peer says of itself when it registers.

    ``address`` is where it serves peers, ``status`` where it serves people (both host:port).
    """

    name: str
    incarnation: int
    address: str
    roles: Sequence[str] = ()
    status: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(self.roles))

    def dump(self) -> dict[str, Any]:
        """Return the JSON-able document."""
        return {**asdict(self), "roles": list(self.roles)}

    @classmethod
    def parse(cls, document: dict[str, Any]) -> MemberInfo:
        """Return the member of a document; keys that this version does not know are left.

        Raises:
            ValueError: it is no member.
        """
        try:
            return cls(
                name=str(document["name"]),
                incarnation=int(document["incarnation"]),
                address=str(document["address"]),
                roles=tuple(str(role) for role in document.get("roles", ())),
                status=str(document.get("status", "")),
                device=str(document.get("device", "")),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no member: {error!r}") from error


class Members:
    """The members of the cluster, and this peer among them.

    ``current`` is the newest view, by name; ``changes`` is notified whenever it is another, and
    when this peer has registered.
    """

    def __init__(self, store: Store, layout: Layout, ground: Ground) -> None:
        self.current: dict[str, MemberInfo] = {}
        self.changes = Signal()
        self._store = store
        self._layout = layout
        self._ground = ground
        self._watching = Watching(store)
        self._mine: MemberInfo | None = None
        self._unread: set[str] = set()
        self._registered_in = 0
        self._registering = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Members {sorted(self.current)}>"

    @property
    def mine(self) -> MemberInfo | None:
        """What this peer registered, None where it did not."""
        return self._mine

    async def register(self, info: MemberInfo) -> None:
        """Register this peer, and again in each new session from now on.

        A node of an earlier life of the same name is waited for, two session timeouts at most, then
        replaced.

        Raises:
            NodeExists: a living peer holds the name; the text names it.
            Unavailable: the store could not be reached in that time.
        """
        await self._put(info)
        self._mine = info
        self._watching.look_again()
        self.changes.notify()

    async def run(self) -> None:
        """Keep the view, and this peer in it, until cancelled or the store is closed.

        Raises:
            NodeExists: in a new session a living peer holds this peer's name.
        """
        await self._watching.keep_looking(self._look, self._ground.forget)

    async def read(self) -> list[MemberInfo]:
        """Return who is registered now.

        Raises:
            Unavailable, SessionExpired
        """
        await self._ground.ready()
        names = await self._store.children(self._layout.members)
        found = [await self._read(f"{self._layout.members}/{name}") for name in names]
        return [one for one in found if one is not None]

    async def nodes_of(self, name: str, incarnation: int) -> list[Delete]:
        """Return what takes a peer out of the members.

        Raises:
            Unavailable, SessionExpired
        """
        path = self._layout.member(name)
        try:
            node = await self._store.get(path)
        except NoNode:
            return []
        info = _parse(path, node)
        here = info is not None and info.incarnation == incarnation
        return [Delete(path, node[1].version)] if here else []

    # The view

    async def _look(self) -> None:
        await self._ground.ready()
        mine, watching = self._mine, self._watching
        watching.arm(self._layout.members, "children")
        names = await self._store.children(self._layout.members)
        if mine is not None and (
            mine.name not in names
            or self._registered_in != self._store.session.id
            or self._taken_by_another(mine)
        ):
            if self._registered_in == self._store.session.id:
                log.warning("%s was taken for dead: registering again", mine.name)
            await self._put(mine)
            names = sorted({*names, mine.name})
        found: dict[str, MemberInfo] = {}
        for name in names:
            path = f"{self._layout.members}/{name}"
            known = self.current.get(name)
            if watching.arm(path, "data"):
                self._unread.add(name)
            if name in self._unread or known is None:
                known = await self._read(path)
            if known is not None:
                found[name] = known
        for name in self.current.keys() - set(names):
            watching.disarm(f"{self._layout.members}/{name}", "data")
        # Only now: had a read failed, those before it would have to be done again.
        self._unread.clear()
        if mine is not None and found.get(mine.name, mine).incarnation != mine.incarnation:
            watching.look_again()
        if found != self.current:
            self.current = found
            self.changes.notify()

    def _taken_by_another(self, mine: MemberInfo) -> bool:
        """Say whether another life has this peer's name: which is an error unless it goes."""
        known = self.current.get(mine.name, mine)
        return known.incarnation != mine.incarnation

    async def _read(self, path: str) -> MemberInfo | None:
        try:
            return _parse(path, await self._store.get(path))
        except NoNode:
            return None

    # This peer's own node

    async def _put(self, info: MemberInfo) -> None:
        """Make this peer's node in this session, whatever stands there of a dead one."""
        async with self._registering:
            session = self._store.session
            seconds = FOREIGN_WAIT * session.timeout
            end = session.clock() + seconds
            while True:
                try:
                    await self._ground.ready()
                    done, owner = await self._try_put(info)
                except INTERRUPTIONS as error:
                    if not await try_again(session, end):
                        raise Unavailable(
                            f"cannot register {info.name} after {seconds:.1f} s: {error}"
                        ) from error
                    continue
                if done:
                    return
                if owner is not None and session.clock() >= end:
                    raise NodeExists(
                        f"the name {info.name!r} belongs to a living peer: {owner.name} "
                        f"#{owner.incarnation} at {owner.address}; choose another name or stop "
                        "that peer"
                    )

    async def _try_put(self, info: MemberInfo) -> tuple[bool, MemberInfo | None]:
        """Try once to make the node; return whether it is made, else who holds the name if any."""
        store, path = self._store, self._layout.member(info.name)
        session = store.session.id
        data = _encode(info)
        # The watch comes before the attempt, so the owner's going in between is not missed.
        gone = store.watch(path, "data")
        try:
            with contextlib.suppress(NodeExists):
                _, stat = await store.create(path, data, ephemeral=True)
                self._registered_in = stat.owner
                return True, None
            held, stat = await store.get(path)
            owner = _parse(path, (held, stat))
            if stat.owner == session:
                if owner != info:
                    await store.set(path, data, stat.version)
                self._registered_in = session
                return True, None
            if stat.owner in store.session.past:
                await store.delete(path, stat.version)
                return False, None
            await asyncio.wait([gone], timeout=store.session.timeout / 4)
            return False, owner or replace(info, incarnation=-1, address="an unknown address")
        except (NoNode, BadVersion):
            return False, None
        finally:
            gone.cancel()


def _encode(info: MemberInfo) -> bytes:
    return json.dumps({**info.dump(), "request": uuid.uuid4().hex}).encode()


def _parse(path: str, node: tuple[bytes, Stat]) -> MemberInfo | None:
    try:
        return MemberInfo.parse(json.loads(node[0]))
    except ValueError as error:
        log.warning("%s is left out: %s", path, error)
        return None
