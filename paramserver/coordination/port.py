"""The store port: what every coordination back end promises to the recipes above it.

A store is a small tree of nodes as in ZooKeeper (Hunt et al. 2010, "ZooKeeper: Wait-free
coordination for Internet-scale systems"): nodes carry data and a version, ephemeral nodes go with
the session that made them, sequential nodes get a growing number, watches fire once.

A request is tried once. What was not sent raises `Unavailable`; a write that was sent and got no
answer raises `OutcomeUnknown`, and the recipe settles what happened. A read that got no answer had
no outcome and raises `Unavailable` too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

from paramserver.errors import ValueTooLarge
from paramserver.waiting import Changes

ANY = -1
"""The version that matches every version."""

LARGEST_VALUE = 512 * 1024
"""The most bytes a node may hold; the client refuses more before it sends anything."""

LARGEST_MULTI = 768 * 1024
"""The most bytes that the operations of one multi may hold together."""

SEQUENCE_DIGITS = 10
"""How many digits the number of a sequential node has."""

WatchKind = Literal["data", "children"]
"""``data``: the node is made, changed or deleted; ``children``: so are those right below it."""

GRACE = 3.0
"""Seconds that peers are given, beyond T, to come back after an ensemble's absence."""

Clock = Callable[[], float]
"""Seconds on a monotonic clock."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a node besides its data.

    ``czxid`` and ``mzxid`` number the transactions that made and last changed it; ``version``
    counts its changes; ``owner`` is the session it goes with, 0 where it stays.
    """

    czxid: int
    mzxid: int
    version: int
    owner: int


@dataclass(frozen=True, slots=True)
class Check:
    """Demand that a node has this version."""

    path: str
    version: int


@dataclass(frozen=True, slots=True)
class Create:
    """Make a node; a sequential one gets ten digits appended to its name."""

    path: str
    data: bytes
    ephemeral: bool = False
    sequential: bool = False

    def __repr__(self) -> str:
        return f"Create({self.path!r}, {len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class Set:
    """Change a node's data, if it has this version."""

    path: str
    data: bytes
    version: int

    def __repr__(self) -> str:
        return f"Set({self.path!r}, {len(self.data)} bytes, version {self.version})"


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a node without children, if it has this version."""

    path: str
    version: int


Op = Check | Create | Set | Delete

OpResult = tuple[str, Stat] | None
"""Of create and set the node's path and its new `Stat`; of check and delete None."""


class SessionState(Enum):
    """Where a session stands.

    A new store is SUSPENDED until it reaches its host. EXPIRED is passed through: the store opens a
    new session, under another id, as soon as it can.
    """

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    CLOSED = "closed"


class Session:
    """The store's side of being known: an id that ephemeral nodes belong to, and its lease.

    ``timeout`` is T in seconds: a host that hears nothing for T forgets the session. While the
    clock is below ``lease_deadline`` (the send time of the last request whose answer proves the
    session, plus ``lease`` of T) the host certainly has not.

    ``single`` says that one host serves everybody, and each of its answers proves the session. Of an
    ensemble's servers only that is true which all of them have agreed on, a write or a sync: any other
    answer may come from one that is cut off. And what a session says reaches the server that forgets
    sessions up to half a tick later, T/4 at most; so there the lease is T/2, and less is waited between
    two requests.
    """

    def __init__(
        self, timeout: float, clock: Clock = time.monotonic, *, single: bool = True
    ) -> None:
        self.timeout = timeout
        self.clock = clock
        self.single = single
        self.lease = 2 / 3 if single else 1 / 2
        self._connected_at = float("inf")
        self._left_at = float("-inf")
        self.id = 0
        self.state = SessionState.SUSPENDED
        self.lease_deadline = float("-inf")
        self.past: deque[int] = deque(maxlen=64)
        self._listeners: list[Callable[[SessionState], None]] = []
        self._changes = Changes()

    def __repr__(self) -> str:
        return f"<Session {self.id:x} {self.state.value}>"

    @property
    def leased(self) -> bool:
        """Whether nobody can take the session for dead now: connected, and the lease runs."""
        return self.state is SessionState.CONNECTED and self.clock() < self.lease_deadline

    @property
    def lag(self) -> float | None:
        """Seconds since the last request was sent that got an answer; None before the first."""
        answered = self.lease_deadline - self.lease * self.timeout
        return self.clock() - answered if answered > float("-inf") else None

    @property
    def settled(self) -> bool:
        """Whether whose ephemeral nodes are not there has gone.

        When an ensemble was away for long, every session is another: everybody comes back in its own
        time, and its nodes with it. So nobody is missed for T and a little more. An interruption of
        this peer's own, shorter than its lease, says nothing about the others.
        """
        return self.single or self.clock() - self._connected_at > self.timeout + GRACE

    def listen(self, listener: Callable[[SessionState], None]) -> Callable[[], None]:
        """Call ``listener`` at each change of state, at once; return what ends that."""
        self._listeners.append(listener)

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return leave

    async def connected(self, seconds: float) -> bool:
        """Wait until the session is connected or closed, at most ``seconds``; say if connected."""
        ends = (SessionState.CONNECTED, SessionState.CLOSED)
        await self._changes.until(lambda: self.state in ends, seconds)
        return self.state is SessionState.CONNECTED

    # For back ends

    def move(self, state: SessionState, *, session: int | None = None) -> None:
        """Go to ``state``, under another id where ``session`` is given, and tell the listeners."""
        if session is not None and session != self.id:
            self._left_at = float("-inf")
            if self.id:
                self.past.append(self.id)
            self.id = session
            self.lease_deadline = float("-inf")
        if state is self.state:
            return
        if self.state is SessionState.CONNECTED:
            self._left_at = self.clock()
        self.state = state
        if state is SessionState.CONNECTED and (
            self.clock() - self._left_at > self.lease * self.timeout
        ):
            self._connected_at = self.clock()
        for listener in tuple(self._listeners):
            listener(state)
        self._changes.notify()

    def acknowledge(self, session: int, sent: float) -> None:
        """Note that a request sent at ``sent`` under the id ``session`` was answered."""
        if session == self.id:
            self.lease_deadline = max(self.lease_deadline, sent + self.lease * self.timeout)


class Store(Protocol):
    """A coordination store, as one session sees it."""

    @property
    def session(self) -> Session:
        """The session; it lives as long as the store, its id changes at expiry."""

    @property
    def host(self) -> str:
        """Who serves the store, for messages."""

    async def create(
        self, path: str, data: bytes, *, ephemeral: bool = False, sequential: bool = False
    ) -> tuple[str, Stat]:
        """Make a node; return its path, with the number of a sequential one, and its stat.

        Raises:
            NodeExists, NoNode (of the parent), ValueTooLarge, Unavailable, OutcomeUnknown,
            SessionExpired
        """

    async def get(self, path: str) -> tuple[bytes, Stat]:
        """Return a node's data and stat.

        Raises:
            NoNode, Unavailable, SessionExpired
        """

    async def set(self, path: str, data: bytes, version: int) -> Stat:
        """Change a node's data, if it has ``version`` (-1: any); return its new stat.

        Raises:
            NoNode, BadVersion, ValueTooLarge, Unavailable, OutcomeUnknown, SessionExpired
        """

    async def delete(self, path: str, version: int) -> None:
        """Delete a node, if it has ``version`` (-1: any).

        Raises:
            NoNode, BadVersion, NotEmpty, Unavailable, OutcomeUnknown, SessionExpired
        """

    async def children(self, path: str) -> list[str]:
        """Return the names right below a node, sorted.

        Raises:
            NoNode, Unavailable, SessionExpired
        """

    async def multi(self, ops: Sequence[Op]) -> list[OpResult]:
        """Carry out all of ``ops`` or none.

        Raises:
            what the first op that fails would raise; ``detail["op"]`` is its index.
        """

    def watch(self, path: str, kind: WatchKind) -> asyncio.Future[None]:
        """Return a future that is done once after something changed.

        A read that begins after this call sees either the state before, and the future will be done
        when that changes, or the state after. It may be done without cause: after an interruption,
        or with a new session. A node that does not exist can be watched.
        """

    async def sync(self, path: str) -> None:
        """Make reads that follow see every write finished before, whoever made it.

        Raises:
            Unavailable, SessionExpired
        """

    async def close(self) -> None:
        """Leave: end the session and its ephemeral nodes at once if the host can be reached."""


def check_size(path: str, data: bytes) -> None:
    """Refuse a value of more than 512 KiB.

    Raises:
        ValueTooLarge
    """
    if len(data) > LARGEST_VALUE:
        raise ValueTooLarge(
            f"{path} would hold {len(data)} bytes; the coordinator takes {LARGEST_VALUE} at most"
        )


def check_sizes(ops: Sequence[Op]) -> None:
    """Refuse operations with a value of more than 512 KiB, or of more than 768 KiB together.

    Raises:
        ValueTooLarge
    """
    total = 0
    for op in ops:
        if isinstance(op, Create | Set):
            check_size(op.path, op.data)
            total += len(op.data)
    if total > LARGEST_MULTI:
        raise ValueTooLarge(f"a multi of {total} bytes; {LARGEST_MULTI} are taken at most")
