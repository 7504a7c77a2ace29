"""The embedded store's tree: nodes, sessions and watches in memory, synchronous and without I/O.

Time is an argument. The tree measures its own stalls: where two looks at the clock lie further
apart than its host's tick allows, the host was stopped, asleep or starved, nobody could be heard,
and every session is given that time. So waking up evicts nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paramserver.coordination.port import (
    ANY,
    SEQUENCE_DIGITS,
    Check,
    Create,
    Delete,
    Op,
    OpResult,
    Set,
    Stat,
    WatchKind,
    check_size,
)
from paramserver.errors import (
    BadVersion,
    NodeExists,
    NoNode,
    NotEmpty,
    SessionExpired,
    StoreError,
    Unavailable,
    ValueTooLarge,
)

TICK = 0.2
"""How often, in seconds, the host calls `Tree.tick`."""

STALL = 2 * TICK
"""From how long a silence of its own on, in seconds, the tree takes itself for stalled."""

SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 0.5, 120.0
MOST_NODES = 100_000
MOST_BYTES = 256 * 1024 * 1024
MOST_SESSIONS = 10_000
MOST_WATCHES = 20_000
MOST_OPS = 1_000
LONGEST_PATH = 1_024

WatchKey = tuple[str, WatchKind]


@dataclass(slots=True)
class _Node:
    data: bytes
    czxid: int
    mzxid: int
    version: int = 0
    owner: int = 0
    numbered: int = 0
    children: set[str] = field(default_factory=set)

    def stat(self) -> Stat:
        return Stat(self.czxid, self.mzxid, self.version, self.owner)


@dataclass(slots=True)
class _Session:
    timeout: float
    expires: float
    attachment: int = 0
    ephemerals: set[str] = field(default_factory=set)
    watches: set[WatchKey] = field(default_factory=set)
    fired: dict[WatchKey, int] = field(default_factory=dict)
    events: int = 0


class Tree:
    """One store: nodes by path, sessions by id.

    ``now`` is the time of the host's monotonic clock, in seconds. Callers name their session and
    the attachment they got with it: requests of an attachment that a later one replaced are
    refused, so nothing sent over a broken connection is carried out after its sender asked what
    became of it.
    """

    def __init__(self, now: float) -> None:
        self.zxid = 0
        self._nodes = {"/": _Node(b"", 0, 0)}
        self._bytes = 0
        self._sessions: dict[int, _Session] = {}
        self._watchers: dict[WatchKey, set[int]] = {}
        self._looked = now
        self._listeners: list[Callable[[int], None]] = []

    def __repr__(self) -> str:
        return (
            f"<Tree at zxid {self.zxid}: {len(self._nodes)} nodes of {self._bytes} bytes, "
            f"{len(self._sessions)} sessions>"
        )

    def listen(self, listener: Callable[[int], None]) -> None:
        """Call ``listener`` with a session's id when there are events for it, or it is over."""
        self._listeners.append(listener)

    # Sessions

    def tick(self, now: float) -> list[int]:
        """Look at the clock; end and return the sessions that were silent for their timeout."""
        self._look(now)
        over = [one for one, session in self._sessions.items() if session.expires <= now]
        for session in over:
            self.end(session)
        return over

    def open(self, session: int, timeout: float, now: float) -> tuple[int, float]:
        """Open a session under an id that the caller drew; return its attachment and timeout.

        Raises:
            Unavailable: there are too many sessions.
        """
        self._look(now)
        if len(self._sessions) >= MOST_SESSIONS or not session or session in self._sessions:
            raise Unavailable(f"the coordinator has {len(self._sessions)} sessions: try later")
        timeout = min(max(timeout, SHORTEST_TIMEOUT), LONGEST_TIMEOUT)
        self._sessions[session] = _Session(timeout, now + timeout, attachment=1)
        return 1, timeout

    def attach(self, session: int, now: float) -> tuple[int, float]:
        """Take a session up again over a new connection; return its attachment and timeout.

        Raises:
            SessionExpired
        """
        found = self._find(session, now)
        found.attachment += 1
        found.expires = max(found.expires, now + found.timeout)
        self._wake(session)
        return found.attachment, found.timeout

    def touch(self, session: int, attachment: int, now: float) -> None:
        """Note a sign of life.

        Raises:
            SessionExpired
            Unavailable: a later attachment has taken the session over.
        """
        found = self._find(session, now)
        if found.attachment != attachment:
            raise Unavailable("the session went on over another connection")
        found.expires = max(found.expires, now + found.timeout)

    def attached(self, session: int, attachment: int) -> bool:
        """Whether the session lives and this is its latest attachment."""
        found = self._sessions.get(session)
        return found is not None and found.attachment == attachment

    def end(self, session: int) -> None:
        """End a session: its ephemeral nodes and watches are gone."""
        found = self._sessions.pop(session, None)
        if found is None:
            return
        for key in found.watches:
            self._unwatch(key, session)
        if found.ephemerals:
            self.zxid += 1
            for path in sorted(found.ephemerals):
                self._remove(path)
                self._fire_entry(path)
        self._wake(session)

    def sessions(self) -> list[int]:
        """Return the ids of the living sessions."""
        return list(self._sessions)

    def _look(self, now: float) -> None:
        silent = now - self._looked
        if silent > STALL:
            for session in self._sessions.values():
                session.expires += silent
        self._looked = now

    def _find(self, session: int, now: float) -> _Session:
        self._look(now)
        found = self._sessions.get(session)
        if found is not None and found.expires <= now:
            self.end(session)
            found = None
        if found is None:
            raise SessionExpired(f"session {session:x} is over")
        return found

    # Reading and watching

    def get(self, path: str) -> tuple[bytes, Stat]:
        """Return a node's data and stat.

        Raises:
            NoNode
        """
        node = self._node(path)
        return node.data, node.stat()

    def children(self, path: str) -> list[str]:
        """Return the names right below a node, sorted.

        Raises:
            NoNode
        """
        return sorted(self._node(path).children)

    def watch(self, session: int, path: str, kind: WatchKind) -> None:
        """Arm a watch: the next change becomes one event of the session. Again is no error.

        Raises:
            Unavailable: the session has too many.
        """
        _parent_of(path)
        found = self._sessions[session]
        if len(found.watches) >= MOST_WATCHES:
            raise Unavailable(f"the session has {MOST_WATCHES} watches: no more are taken")
        found.watches.add((path, kind))
        self._watchers.setdefault((path, kind), set()).add(session)

    def events(self, session: int, after: int) -> list[tuple[int, str, str]]:
        """Return (number, path, kind) of a session's events after ``after``; forget those before.

        Raises:
            SessionExpired
        """
        found = self._sessions.get(session)
        if found is None:
            raise SessionExpired(f"session {session:x} is over")
        found.fired = {key: number for key, number in found.fired.items() if number > after}
        return [(number, path, kind) for (path, kind), number in found.fired.items()]

    # Writing

    def multi(self, session: int, ops: Sequence[Op]) -> list[OpResult]:
        """Carry out all of ``ops`` under one transaction number, or none.

        Raises:
            NoNode, NodeExists, BadVersion, NotEmpty, ValueTooLarge, Unavailable: the first op that
                failed; ``detail["op"]`` is its index.
        """
        if len(ops) > MOST_OPS:
            raise ValueTooLarge(f"a multi of {len(ops)} operations; {MOST_OPS} at most")
        undo: list[Callable[[], None]] = []
        results: list[OpResult] = []
        fire: list[Callable[[], None]] = []
        self.zxid += 1
        for index, op in enumerate(ops):
            try:
                results.append(self._apply(session, op, undo, fire))
            except StoreError as error:
                for step in reversed(undo):
                    step()
                self.zxid -= 1
                error.detail["op"] = index
                raise
        for step in fire:
            step()
        return results

    def _apply(
        self,
        session: int,
        op: Op,
        undo: list[Callable[[], None]],
        fire: list[Callable[[], None]],
    ) -> OpResult:
        match op:
            case Check(path, version):
                self._at(path, version)
                return None
            case Create():
                path = self._create(session, op, undo)
                fire.append(lambda: self._fire_entry(path))
                return path, self._nodes[path].stat()
            case Set(path, data, version):
                node = self._at(path, version)
                self._set(path, node, data, undo)
                fire.append(lambda: self._fire((path, "data")))
                return path, node.stat()
            case Delete(path, version):
                node = self._at(path, version)
                if node.children:
                    raise NotEmpty(f"{path} has {len(node.children)} children")
                if path == "/":
                    raise StoreError("the root stays")
                self._remove(path)
                undo.append(lambda: self._insert(path, node))
                fire.append(lambda: self._fire_entry(path))
                return None

    def _create(self, session: int, op: Create, undo: list[Callable[[], None]]) -> str:
        check_size(op.path, op.data)
        parent = self._nodes.get(_parent_of(op.path))
        if parent is None:
            raise NoNode(f"{_parent_of(op.path)} does not exist")
        if parent.owner:
            raise StoreError(f"{_parent_of(op.path)} is ephemeral: nothing can lie below it")
        path = op.path
        if op.sequential:
            number = parent.numbered
            path = f"{path}{number:0{SEQUENCE_DIGITS}d}"
        if path in self._nodes:
            raise NodeExists(f"{path} exists")
        if len(self._nodes) >= MOST_NODES or self._bytes + len(op.data) > MOST_BYTES:
            raise Unavailable(f"the coordinator is full: {len(self._nodes)} nodes, {self._bytes} B")
        if op.sequential:
            parent.numbered = number + 1
            undo.append(lambda: setattr(parent, "numbered", number))
        node = _Node(op.data, self.zxid, self.zxid, owner=session if op.ephemeral else 0)
        self._insert(path, node)
        undo.append(lambda: self._remove(path))
        return path

    def _set(self, path: str, node: _Node, data: bytes, undo: list[Callable[[], None]]) -> None:
        check_size(path, data)
        grown = len(data) - len(node.data)
        if self._bytes + grown > MOST_BYTES:
            raise Unavailable(f"the coordinator is full: {self._bytes} bytes")
        before = node.data, node.mzxid, node.version

        def revert() -> None:
            node.data, node.mzxid, node.version = before
            self._bytes -= grown

        undo.append(revert)
        node.data, node.mzxid, node.version = data, self.zxid, node.version + 1
        self._bytes += grown

    def _insert(self, path: str, node: _Node) -> None:
        self._nodes[path] = node
        self._nodes[_parent_of(path)].children.add(_name_of(path))
        self._bytes += len(node.data)
        if node.owner:
            self._sessions[node.owner].ephemerals.add(path)

    def _remove(self, path: str) -> None:
        node = self._nodes.pop(path)
        self._nodes[_parent_of(path)].children.discard(_name_of(path))
        self._bytes -= len(node.data)
        if node.owner in self._sessions:
            self._sessions[node.owner].ephemerals.discard(path)

    def _node(self, path: str) -> _Node:
        node = self._nodes.get(path)
        if node is None:
            raise NoNode(f"{path} does not exist")
        return node

    def _at(self, path: str, version: int) -> _Node:
        node = self._node(path)
        if version not in (ANY, node.version):
            raise BadVersion(f"{path} has version {node.version}, not {version}")
        return node

    # Events

    def _fire_entry(self, path: str) -> None:
        """Fire what a node's coming or going concerns."""
        self._fire((path, "data"))
        self._fire((path, "children"))
        self._fire((_parent_of(path), "children"))

    def _fire(self, key: WatchKey) -> None:
        for session in self._watchers.pop(key, ()):
            found = self._sessions[session]
            found.watches.discard(key)
            found.events += 1
            found.fired.pop(key, None)
            found.fired[key] = found.events
            self._wake(session)

    def _unwatch(self, key: WatchKey, session: int) -> None:
        watchers = self._watchers.get(key)
        if watchers is not None:
            watchers.discard(session)
            if not watchers:
                del self._watchers[key]

    def _wake(self, session: int) -> None:
        for listener in self._listeners:
            listener(session)


def _parent_of(path: str) -> str:
    """Return the path above ``path``, which is checked here."""
    parts = path.split("/")
    if (
        len(path) > LONGEST_PATH
        or "\0" in path
        or parts[0]
        or (path != "/" and any(part in ("", ".", "..") for part in parts[1:]))
    ):
        raise StoreError(f"{path[:80]!r} is no path: it must look like /a/b")
    return path.rpartition("/")[0] or "/"


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]
