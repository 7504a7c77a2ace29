"""One connection to one ZooKeeper server, as a link of a session store.

aiozk 0.32.0 makes and reads the records; its connection and session are not used. They notice a
closed socket only when the session runs out, read a frozen server's greeting without a deadline,
retry writes blindly and tell nobody of an expiry (`scripts/aiozk-faults` shows it). What keeps a
session is `paramserver.coordination.session_store`, the same for every back end: one attempt a
request, outcome unknown where its answer is lost, the lease on the clock of the last answer.

ZooKeeper forgets a connection's watches with it. They are not set again: every watch fires when a
connection was lost, and who waits reads again, which the store port allows.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiozk import protocol
from aiozk.exc import ResponseError, response_error_xref

from paramserver.coordination.messages import (
    ArmWatch,
    AwaitEvents,
    ChildrenAre,
    CloseSession,
    Done,
    EventsAre,
    GetNode,
    ListChildren,
    NodeIs,
    OpenSession,
    SessionOpened,
    StayAlive,
    SyncTree,
    Transact,
    Transacted,
    WireOp,
    WireResult,
    WireStat,
)
from paramserver.errors import (
    AuthenticationFailed,
    BadVersion,
    ConnectionLost,
    DeadlineExceeded,
    Forbidden,
    NodeExists,
    NoNode,
    NotEmpty,
    ParamserverError,
    SessionExpired,
    StoreError,
    Unreachable,
    Unsupported,
)
from paramserver.waiting import Changes

SIZE = struct.Struct("!i")
HEADER = struct.Struct("!iqi")  # xid, zxid, error
LARGEST_FRAME = 16 << 20
"""The most bytes of one answer; ZooKeeper's own limit is 1 MiB unless it is told otherwise."""
LONGEST_CLOSE = 0.5

NO_NODE, NODE_EXISTS, EXPIRED, MOVED, AUTH_FAILED = -101, -110, -112, -118, -115
ERRORS: dict[int, type[StoreError]] = {
    NO_NODE: NoNode,
    NODE_EXISTS: NodeExists,
    -103: BadVersion,
    -111: NotEmpty,
    -102: Forbidden,
    -114: Forbidden,
    -125: Forbidden,
    EXPIRED: SessionExpired,
}
UNNAMED = set(range(-128, 0)) - response_error_xref.keys()
for _code in UNNAMED:
    # aiozk prints what it does not know; a class is what makes a code known to it.
    type(f"Error{-_code}", (ResponseError,), {"error_code": _code})
OTHERS_FAILED = (0, -2)
"""What ZooKeeper answers for the operations of a multi in which another one failed."""
DAMAGED = (struct.error, ValueError, KeyError, TypeError)
"""What aiozk raises over a record that is none."""
MOST_EVENTS = 65536
CHANGES = 0b11110
"""The permissions to write, create, delete and administer."""
CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the cluster is to ZooKeeper: an authentication scheme with its secret, such as digest."""

    scheme: str
    secret: bytes = field(repr=False)


@dataclass(slots=True)
class Memory:
    """What outlasts the connections of one session: its password, and what it has seen.

    ``refused`` holds the servers that ended the connection when they were told of the session, with
    the loop's time of the first of those in a row.
    """

    session: int = 0
    password: bytes = bytes(16)
    zxid: int = 0
    events: int = 0
    refused: dict[str, float] = field(default_factory=dict)


class ZooLink:
    """A `paramserver.coordination.session_store.Link` over a connection; `connected` makes one.

    Args:
        host: host:port, for messages.
        chroot: the path below which the cluster's tree lies, empty or beginning with a slash.
        memory: what outlasts this connection.
        credentials: given anew to every connection; nodes are then the cluster's alone.
        make: whether the path is made where it is missing.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: str,
        chroot: str,
        memory: Memory,
        credentials: Credentials | None,
        *,
        make: bool = True,
    ) -> None:
        self._make = make
        self._reader = reader
        self._writer = writer
        self._host = host
        self._chroot = chroot
        self._memory = memory
        self._credentials = credentials
        self._acl = [protocol.AUTHED_UNRESTRICTED if credentials else protocol.UNRESTRICTED_ACCESS]
        self._xid = 0
        self._pending: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._special: dict[int, deque[asyncio.Future[tuple[int, bytes]]]] = {
            protocol.AUTH_XID: deque(),
        }
        self._events: deque[tuple[int, str, str]] = deque()
        self._happened = Changes()
        self._reading: asyncio.Task[None] | None = None
        self._ended: str | None = None

    def __repr__(self) -> str:
        return f"<ZooLink to {self._host}, {len(self._pending)} requests in flight>"

    # The link

    async def request(self, message: object, *, deadline: float) -> Any:
        """Send a message once and return the answer, within ``deadline`` seconds.

        Raises:
            Unreachable: it was not sent.
            RequestFailed: it was sent, and there is no answer.
            StoreError: what ZooKeeper answers.
            AuthenticationFailed: it does not take the credentials.
        """
        try:
            async with asyncio.timeout(deadline):
                return await self._answer(message)
        except DAMAGED as error:
            self._end(f"a damaged answer: {error}")
            raise ConnectionLost(
                f"ZooKeeper at {self._host} sent a damaged answer to {type(message).__name__}"
            ) from error
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer from ZooKeeper at {self._host} to {type(message).__name__} within "
                f"{deadline:g} s"
            ) from None

    async def close(self) -> None:
        """End the connection; the session lives on."""
        self._end("it was closed here")
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        try:
            async with asyncio.timeout(LONGEST_CLOSE):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()  # what nobody takes is kept no longer

    async def _answer(self, message: object) -> Any:
        match message:
            case OpenSession():
                return await self._open(message)
            case StayAlive():
                # Not a ping: a server that is cut off from the others answers those by itself.
                await self._call(protocol.SyncRequest(path="/"), "/")
                return Done()
            case GetNode(path=path):
                request = protocol.GetDataRequest(path=self._full(path), watch=False)
                found = protocol.GetDataResponse.deserialize(await self._call(request, path))
                return NodeIs(data=found.data or b"", stat=_stat(found.stat))
            case ListChildren(path=path):
                return ChildrenAre(names=await self._children(path, watch=False))
            case Transact(ops=ops):
                return Transacted(results=await self._transact(ops))
            case ArmWatch(path=path, kind="data"):
                await self._exists(path)
                return Done()
            case ArmWatch(path=path):
                await self._watch_children(path)
                return Done()
            case AwaitEvents(after=after, wait=wait):
                return await self._await_events(after, wait)
            case SyncTree(path=path):
                await self._call(protocol.SyncRequest(path=self._full(path)), path)
                return Done()
            case CloseSession():
                await self._call(protocol.CloseRequest(), "/")
                return Done()
        raise Unsupported(f"ZooKeeper has no answer to {type(message).__name__}")

    # The session

    async def _open(self, ask: OpenSession) -> SessionOpened:
        memory = self._memory
        known = ask.session != 0 and ask.session == memory.session
        hello = protocol.ConnectRequest(
            protocol_version=0,
            last_seen_zxid=memory.zxid,
            timeout=max(round(ask.timeout * 1000), 1),
            session_id=ask.session if known else 0,
            password=memory.password if known else bytes(16),
            read_only=False,
        )
        self._write(hello.serialize())
        try:
            found = protocol.ConnectResponse.deserialize(await self._frame())
        except (OSError, EOFError, *DAMAGED) as error:
            memory.refused.setdefault(self._host, asyncio.get_running_loop().time())
            self._end("it ended before the session was opened")
            raise ConnectionLost(
                f"ZooKeeper at {self._host} ended the connection before it opened a session"
            ) from error
        memory.refused.clear()
        if not found.session_id:
            raise SessionExpired(f"ZooKeeper at {self._host} has forgotten the session")
        memory.session, memory.password = found.session_id, found.password
        self._reading = asyncio.create_task(self._read(), name=f"ZooKeeper at {self._host}")
        if self._credentials is not None:
            await self._authenticate(self._credentials)
        if not known and self._make:
            await self._make_chroot()
        return SessionOpened(session=found.session_id, attachment=0, timeout=found.timeout / 1000)

    async def _authenticate(self, credentials: Credentials) -> None:
        request = protocol.AuthRequest(type=0, scheme=credentials.scheme, auth=credentials.secret)
        try:
            await self._call(request, "/")
        except _Refused as error:
            raise AuthenticationFailed(
                f"ZooKeeper at {self._host} does not take the credentials ({credentials.scheme}): "
                "see cluster.zookeeper.auth_file"
            ) from error

    async def _make_chroot(self) -> None:
        names = self._chroot.split("/")[1:]
        for depth in range(len(names)):
            path = "/" + "/".join(names[: depth + 1])
            try:
                # Asked first: who may not write above it is not even told that it exists.
                await self._call(protocol.ExistsRequest(path=path, watch=False), path)
                continue
            except NoNode:
                pass
            request = protocol.Create2Request(path=path, data=b"", acl=self._acl, flags=0)
            try:
                await self._call(request, path)
            except NodeExists:
                continue
            except Forbidden as error:
                raise AuthenticationFailed(
                    f"{path} cannot be made at ZooKeeper {self._host}: have it made, or give "
                    "credentials that may (cluster.zookeeper.auth_file)"
                ) from error

    # Nodes

    def _full(self, path: str) -> str:
        return (self._chroot + path).rstrip("/") or "/"

    def _own(self, path: str) -> str:
        return path[len(self._chroot) :] or "/"

    async def _exists(self, path: str) -> bool:
        """Watch a node, there or not; say whether it is there."""
        request = protocol.ExistsRequest(path=self._full(path), watch=True)
        try:
            await self._call(request, path)
        except NoNode:
            return False
        return True

    async def _children(self, path: str, *, watch: bool) -> list[str]:
        request = protocol.GetChildren2Request(path=self._full(path), watch=watch)
        found = protocol.GetChildren2Response.deserialize(await self._call(request, path))
        return sorted(found.children)

    async def _watch_children(self, path: str) -> None:
        """Watch the names below a node; where there is none, its making."""
        while True:
            try:
                await self._children(path, watch=True)
            except NoNode:
                if await self._exists(path):
                    continue  # it was made in between
            return

    async def _transact(self, ops: Sequence[WireOp]) -> list[WireResult]:
        if len(ops) == 1 and ops[0][0] == "create":
            return [await self._create(ops[0])]
        whole = protocol.TransactionRequest()
        for op in ops:
            whole.add(self._operation(op))
        paths = ", ".join(op[1] for op in ops)
        zxid, payload = await self._ask(whole, paths)
        found = protocol.TransactionResponse.deserialize(payload)
        results: list[WireResult] = []
        for index, (op, one) in enumerate(zip(ops, found.responses, strict=True)):
            if isinstance(one, ResponseError):
                if one.error_code not in OTHERS_FAILED:
                    raise self._error(one.error_code, op[1], op=index)
            elif isinstance(one, protocol.CreateResponse | protocol.Create2Response):
                # In a multi ZooKeeper tells the path only; the transaction's number is the reply's.
                owner = self._memory.session if op[4] else 0
                results.append((self._own(one.path), (zxid, zxid, 0, owner)))
            elif isinstance(one, protocol.SetDataResponse):
                results.append((op[1], _stat(one.stat)))
            else:
                results.append(None)
        if len(results) < len(ops):
            raise ConnectionLost(f"ZooKeeper at {self._host} failed to change {paths}")
        return results

    async def _create(self, op: WireOp) -> WireResult:
        try:
            payload = await self._call(self._operation(op), op[1], op=0)
        except NodeExists:
            if self._credentials is not None:
                await self._refuse_open(op[1])
            raise
        found = protocol.Create2Response.deserialize(payload)
        return self._own(found.path), _stat(found.stat)

    async def _refuse_open(self, path: str) -> None:
        """See that a node that was there before is the cluster's alone, as all we make are."""
        request = protocol.GetACLRequest(path=self._full(path))
        found = protocol.GetACLResponse.deserialize(await self._call(request, path))
        if any(entry.id.scheme == "world" and entry.perms & CHANGES for entry in found.acl):
            raise AuthenticationFailed(
                f"{path} at ZooKeeper {self._host} was made without credentials, and anybody can "
                "change it: give another path or cluster.name on every peer"
            )

    def _operation(self, op: WireOp) -> Any:
        name, path, data, version, ephemeral, sequential = op
        full = self._full(path)
        match name:
            case "check":
                return protocol.CheckVersionRequest(path=full, version=version)
            case "create":
                request = protocol.Create2Request(path=full, data=data, acl=self._acl)
                request.set_flags(ephemeral=ephemeral, sequential=sequential)
                return request
            case "set":
                return protocol.SetDataRequest(path=full, data=data, version=version)
        return protocol.DeleteRequest(path=full, version=version)

    # Watches

    async def _await_events(self, after: int, wait: float) -> EventsAre:
        def due() -> bool:
            return self._ended is not None or bool(self._events and self._events[-1][0] > after)

        await self._happened.until(due, wait)
        if self._ended is not None:
            raise ConnectionLost(f"the connection to ZooKeeper at {self._host}: {self._ended}")
        while self._events and self._events[0][0] <= after:
            self._events.popleft()
        return EventsAre(events=list(self._events))

    def _note(self, payload: bytes) -> None:
        event = protocol.WatchEvent.deserialize(payload)
        kinds = {
            CREATED: ("data", "children"),
            DELETED: ("data", "children"),
            CHANGED: ("data",),
            CHILDREN: ("children",),
        }.get(event.type, ())
        for kind in kinds:
            self._memory.events += 1
            self._events.append((self._memory.events, self._own(event.path), kind))
        if len(self._events) > MOST_EVENTS:
            raise EOFError(f"more than {MOST_EVENTS} events that nobody took")
        self._happened.notify()

    # The connection

    async def _call(self, request: Any, path: str, **detail: Any) -> bytes:
        """Send a request and return the answer's record; see `_ask`."""
        return (await self._ask(request, path, **detail))[1]

    async def _ask(self, request: Any, path: str, **detail: Any) -> tuple[int, bytes]:
        """Send a request and return the answer's transaction number and record.

        Raises:
            Unreachable: the connection had ended.
            ConnectionLost: it ended before the answer came.
            StoreError: the answer is an error.
        """
        if self._ended is not None:
            raise Unreachable(f"the connection to ZooKeeper at {self._host}: {self._ended}")
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        if request.special_xid is not None:
            self._special[request.special_xid].append(future)
            payload = request.serialize(request.special_xid)
        else:
            self._xid = self._xid % 0x7FFFFFFF + 1
            self._pending[self._xid] = future
            payload = request.serialize(self._xid)
        self._write(payload)
        try:
            return await future
        except _Refused as error:
            if request.special_xid == protocol.AUTH_XID:
                raise
            raise self._error(error.code, path, **detail) from None

    def _error(self, code: int, path: str, **detail: Any) -> ParamserverError:
        kind = ERRORS.get(code)
        if kind is None:
            self._end(f"error {code}")
            return ConnectionLost(f"ZooKeeper at {self._host} failed at {path}: error {code}")
        if kind is Forbidden:
            text = (
                f"ZooKeeper at {self._host} does not let us touch {path}: give the credentials that "
                "made it (cluster.zookeeper.auth_file)"
            )
            return kind(text, **detail)
        words = "the session is over" if kind is SessionExpired else kind.__name__
        return kind(f"{path}: {words}", **detail)

    def _write(self, payload: bytes) -> None:
        self._writer.write(SIZE.pack(len(payload)) + payload)

    async def _frame(self) -> bytes:
        (size,) = SIZE.unpack(await self._reader.readexactly(SIZE.size))
        if not 0 <= size <= LARGEST_FRAME:
            raise EOFError(f"a frame of {size} bytes")
        return await self._reader.readexactly(size)

    async def _read(self) -> None:
        """Take answers and events until the connection ends."""
        why = "it ended"
        try:
            while True:
                self._take(await self._frame())
        except (OSError, EOFError, *DAMAGED) as error:
            why = f"it ended: {error}"
        finally:
            self._end(why)

    def _take(self, frame: bytes) -> None:
        xid, zxid, code = HEADER.unpack_from(frame)
        payload = frame[HEADER.size :]
        if zxid > 0:
            self._memory.zxid = max(self._memory.zxid, zxid)
        if xid == protocol.WATCH_XID:
            self._note(payload)
            return
        waiting = self._special.get(xid)
        future = waiting.popleft() if waiting else self._pending.pop(xid)
        if future.done():
            return
        if code:
            future.set_exception(_Refused(code))
        else:
            future.set_result((zxid, payload))

    def _end(self, why: str) -> None:
        if self._ended is not None:
            return
        self._ended = why
        self._writer.close()
        error = ConnectionLost(f"the connection to ZooKeeper at {self._host}: {why}")
        special = [future for waiting in self._special.values() for future in waiting]
        for future in (*self._pending.values(), *special):
            if not future.done():
                future.set_exception(error)
                future.exception()  # it may be that nobody waits any more
        self._pending.clear()
        self._happened.notify()


class _Refused(Exception):
    """ZooKeeper's answer is an error code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _stat(stat: Any) -> WireStat:
    return stat.created_zxid, stat.last_modified_zxid, stat.version, stat.ephemeral_owner
