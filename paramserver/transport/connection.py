"""One connection: requests out, requests in, replies both ways.

The same class serves both ends. What arrives is parsed by `paramserver.wire.protocol.Receiver`; what
leaves is written without copies where it is large, and the memory behind it is let go only when the
operating system has taken it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from paramserver.config import is_loopback
from paramserver.errors import (
    BadMessage,
    ConnectionLost,
    DeadlineExceeded,
    ParamserverError,
    ProtocolError,
    Unreachable,
    Unsupported,
    VersionMismatch,
    from_wire,
)
from paramserver.transport.memory import Budget, Memory
from paramserver.wire.frames import (
    BEFORE_HANDSHAKE,
    Flags,
    Header,
    Limits,
    checksum_of,
)
from paramserver.wire.handshake import ClientHandshake, Identity, ServerHandshake
from paramserver.wire.messages import Failure, decode, encode
from paramserver.wire.protocol import Discard, Frame, Place, Receiver

__all__ = ["Connection", "Identity", "Reply", "Request", "Response", "connect"]

log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview

SMALL = 64 * 1024
MOST_UNSENT = 64 << 20
MOST_IN_FLIGHT = 256
HANDSHAKE_DEADLINE = 5.0
MOST_TEXT = 16 * 1024


@dataclass(slots=True)
class Response:
    """An answer; ``on_sent`` is called once the body's memory is no longer needed."""

    message: Any
    body: Sequence[Buffer] = ()
    on_sent: Callable[[], None] | None = None


class Reply:
    """The answer to a request; ``body`` is empty where the requester gave its own memory."""

    __slots__ = ("_place", "body", "message")

    def __init__(self, message: Any, place: Place | None) -> None:
        self.message = message
        self._place = place
        self.body = place.view if isinstance(place, Memory) else memoryview(b"")

    def release(self) -> None:
        """Give the body's memory back."""
        if self._place is not None:
            self._place.release()


class Request:
    """A request that arrived. Its body's memory goes back with the answer unless kept."""

    __slots__ = ("_kept", "_number", "_place", "attempt", "body", "connection", "message")

    def __init__(
        self, connection: Connection, message: Any, place: Place | None, header: Header
    ) -> None:
        self.connection = connection
        self.message = message
        self.attempt = header.attempt
        self.body = place.view if isinstance(place, Memory) else memoryview(b"")
        self._place = place
        self._number = header.request
        self._kept = False

    def interim(self, message: Any) -> None:
        """Send an answer before the answer."""
        self.connection.send(message, Flags.REPLY | Flags.INTERIM, self._number)

    def keep(self) -> Place:
        """Keep the body beyond the answer; the place returned is to be released."""
        self._kept = True
        return self._place if self._place is not None else Discard(0)

    def finish(self) -> None:
        """Give the body's memory back, unless it was kept."""
        if self._place is not None and not self._kept:
            self._place.release()


Answer = Response | None
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class _Into:
    """The requester's own memory as the place of a reply's body."""

    __slots__ = ("views",)

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.views = views

    def release(self) -> None:
        """Nothing: the memory is the requester's."""


@dataclass(slots=True)
class _Pending:
    future: asyncio.Future[Frame]
    into: Sequence[memoryview] | None
    on_interim: Callable[[Any], None] | None


class Connection(asyncio.BufferedProtocol):
    """One end of a connection. ``handler`` answers what the other end asks."""

    def __init__(
        self,
        handshake: ClientHandshake | ServerHandshake,
        handler: Handler | None,
        limits: Limits,
        budget: Budget,
        checksum: bool | None = None,
    ) -> None:
        self._handshake = handshake
        self._handler = handler
        self._limits = limits
        self._budget = budget
        self._checksum = checksum
        self._loop = asyncio.get_running_loop()
        self._receiver = Receiver(BEFORE_HANDSHAKE, self._choose)
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, _Pending] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._unsent: list[Callable[[], None]] = []
        self._unsent_bytes = 0
        self._write_paused = False
        self._reading = True
        self._why: Exception | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.remote = Identity("", "", 0, "")
        self.address = ""
        self.last_heard = self._loop.time()
        self.closed = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._pending)} pending"
        return f"<Connection to {self.remote.name or 'nobody yet'} at {self.address}, {state}>"

    # The event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake; it has 5 s."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self.address = _peer_address(self._transport)
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._checksum is None:
            self._checksum = not (
                self.address.startswith("unix:") or is_loopback(self.address.rpartition(":")[0])
            )
        self._timer = self._loop.call_later(HANDSHAKE_DEADLINE, self._handshake_late)
        if isinstance(self._handshake, ClientHandshake):
            self.send(self._handshake.hello, Flags.NONE, 0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._receiver.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that arrived; what is no frame ends this connection and nothing else."""
        self.last_heard = self._loop.time()
        self._take(lambda: self._receiver.buffer_updated(nbytes))

    def eof_received(self) -> bool:
        """Close: there are no half-open connections."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is pending, end what is under way."""
        self._end(exc)

    def pause_writing(self) -> None:
        """Note that the other side does not take what we write as fast as we write it."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Let go of the memory of what was written."""
        self._write_paused = False
        self._unsent_bytes = 0
        unsent, self._unsent = self._unsent, []
        for release in unsent:
            release()
        self._steer()

    # Receiving

    def _take(self, parse: Callable[[], list[Frame]]) -> None:
        try:
            for frame in parse():
                self._receive(frame)
        except (ProtocolError, VersionMismatch) as error:
            if isinstance(self._handshake, ServerHandshake):
                self._fail_request(0, error)
            self._abandon(error)
            return
        except ParamserverError as error:
            self._fail_request(0, error)
            self._abandon(error)
            return
        if self._receiver.stalled:
            self._budget.when_room(self._room)
        self._steer()

    def _room(self) -> None:
        if not self.closed:
            self._take(self._receiver.resume)

    def _choose(self, header: Header) -> Place | None:
        """Choose where a body goes; None where the budget has no room now."""
        if header.flags & Flags.REPLY:
            pending = self._pending.get(header.request)
            if pending is None:
                return Discard(header.body)
            if pending.into is not None and not header.flags & Flags.INTERIM:
                room = sum(len(view) for view in pending.into)
                if room == header.body:
                    return _Into(pending.into)
                raise BadMessage(f"a reply of {header.body} bytes where {room} were asked for")
        return self._budget.take(header.body)

    def _receive(self, frame: Frame) -> None:
        if self.closed:
            if frame.place is not None:
                frame.place.release()
            return
        if not self._handshake.done:
            self._shake(decode(frame.header.kind, frame.meta))
        elif frame.header.flags & Flags.REPLY:
            self._receive_reply(frame)
        elif frame.header.request == 0:
            self._receive_farewell(decode(frame.header.kind, frame.meta))
        else:
            self._receive_request(frame)

    def _shake(self, message: object) -> None:
        answer = self._handshake.receive(message)
        if answer is not None:
            self.send(answer, Flags.NONE, 0)
        if self._handshake.done:
            assert self._handshake.remote is not None
            self.remote = self._handshake.remote
            self._receiver.limits = self._limits
            if self._timer is not None:
                self._timer.cancel()
            self.opened.set_result(None)

    def _receive_reply(self, frame: Frame) -> None:
        number = frame.header.request
        pending = self._pending.get(number)
        if pending is None or pending.future.done():
            if frame.place is not None:
                frame.place.release()
            return
        if frame.header.flags & Flags.INTERIM:
            if pending.on_interim is not None:
                pending.on_interim(decode(frame.header.kind, frame.meta))
            if frame.place is not None:
                frame.place.release()
            return
        del self._pending[number]
        pending.future.set_result(frame)

    def _receive_farewell(self, message: object) -> None:
        """Take the other side's reason for ending the connection."""
        if not isinstance(message, Failure):
            raise BadMessage(f"{type(message).__name__} outside of a request")
        self._abandon(from_wire(message.code, message.text, message.detail))

    def _receive_request(self, frame: Frame) -> None:
        number = frame.header.request
        if self._handler is None:
            self._fail_request(number, Unsupported("this side of the connection serves nothing"))
            return
        request = Request(self, decode(frame.header.kind, frame.meta), frame.place, frame.header)
        try:
            answer = self._handler(request)
        except ParamserverError as error:
            request.finish()
            self._fail_request(number, error)
            return
        if answer is None or isinstance(answer, Response):
            request.finish()
            self._respond(number, answer)
            return
        self._in_flight += 1
        task = self._loop.create_task(self._answer(number, request, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, request: Request, answer: Awaitable[Answer]) -> None:
        """Wait for a handler's answer and send it."""
        try:
            self._respond(number, await answer)
        except ParamserverError as error:
            self._fail_request(number, error)
        except Exception:
            log.exception("while serving %s", type(request.message).__name__)
            text = f"internal error while serving {type(request.message).__name__}; see its log"
            self._fail_request(number, ParamserverError(text))
        finally:
            request.finish()
            self._in_flight -= 1
            self._steer()

    # Sending

    def send(
        self,
        message: Any,
        flags: Flags,
        number: int,
        body: Sequence[Buffer] = (),
        *,
        attempt: int = 0,
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        """Write one frame; ``on_sent`` is called when the body's memory is free again."""
        transport = self._transport
        if self.closed or transport is None:
            if on_sent is not None:
                on_sent()
            return
        kind, meta = encode(message)
        pieces = [memoryview(piece).cast("B") for piece in body]
        length = sum(map(len, pieces))
        checksum = 0
        if length and self._checksum:
            flags |= Flags.CHECKSUM
            checksum = checksum_of(pieces)
        header = Header(kind, flags, number, attempt, len(meta), length, checksum)
        head = header.serialize() + meta
        if length <= SMALL:
            transport.write(b"".join([head, *pieces]))
            if on_sent is not None:
                on_sent()
            return
        transport.write(head)
        for piece in pieces:
            transport.write(piece)
        if not self._write_paused and transport.get_write_buffer_size():
            self._write_paused = True  # uvloop tells only once the buffer was tried
        if self._write_paused:
            self._unsent_bytes += length
            if on_sent is not None:
                self._unsent.append(on_sent)
            self._steer()
        elif on_sent is not None:
            on_sent()

    def _respond(self, number: int, answer: Answer) -> None:
        if answer is None:
            raise BadMessage("a handler gave no answer")
        self.send(answer.message, Flags.REPLY, number, answer.body, on_sent=answer.on_sent)

    def _fail_request(self, number: int, error: ParamserverError) -> None:
        detail = {key: value for key, value in error.detail.items() if _plain(value)}
        failure = Failure(
            code=type(error).__name__, text=str(error)[:MOST_TEXT], detail=detail
        )
        self.send(failure, Flags.REPLY if number else Flags.NONE, number)

    async def request(
        self,
        message: Any,
        body: Sequence[Buffer] = (),
        *,
        deadline: float,
        into: Sequence[memoryview] | None = None,
        attempt: int = 0,
        on_interim: Callable[[Any], None] | None = None,
    ) -> Reply:
        """Ask, and wait for the answer for ``deadline`` seconds at most.

        The body must stay unchanged until the answer. A reply's body fills the views of ``into`` one
        after another; after a failure they are not written any more.

        Raises:
            DeadlineExceeded: no answer in time; the text names who was waited for.
            ConnectionLost: the connection ended before the answer.
            ParamserverError: what the other side answered.
        """
        if self.closed:
            raise self._lost()
        number = next(self._numbers) & 0xFFFFFFFF
        pending = _Pending(self._loop.create_future(), into, on_interim)
        self._pending[number] = pending
        try:
            self.send(message, Flags.NONE, number, body, attempt=attempt)
            async with asyncio.timeout(deadline):
                frame = await pending.future
        except TimeoutError:
            silent = self._loop.time() - self.last_heard
            raise DeadlineExceeded(
                f"no answer to {type(message).__name__} from {self.remote.name} at {self.address} "
                f"after {deadline:.1f} s, last heard {silent:.1f} s ago: check that peer, or raise "
                "cluster.deadline"
            ) from None
        finally:
            if self._pending.pop(number, None) is not None and into is not None:
                self._receiver.forget(number)
        answer = decode(frame.header.kind, frame.meta)
        if isinstance(answer, Failure):
            raise from_wire(answer.code, answer.text, answer.detail)
        return Reply(answer, frame.place)

    # Life

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the connection has ended; at once where it has already."""
        if self.closed:
            callback()
        else:
            self._callbacks.append(callback)

    async def close(self) -> None:
        """Close the connection and end what it was doing, within a second."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asyncio.shield(self.ended)
            if not self.ended.done():
                self._transport.abort()
        self._end(None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abandon(self, why: Exception) -> None:
        """End the connection because the other side is not to be trusted or understood."""
        log.info("closing the connection to %s: %s", self.address, why)
        if self._transport is not None:
            self._transport.close()
        self._end(why)

    def refuse(self) -> None:
        """End the connection because there are too many."""
        self._abandon(Unreachable("too many connections"))

    def _handshake_late(self) -> None:
        self._abandon(
            Unreachable(f"{self.address} did not finish the handshake in {HANDSHAKE_DEADLINE:g} s")
        )

    def _end(self, why: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        self._why = why
        if self._timer is not None:
            self._timer.cancel()
        if not self.opened.done():
            self.opened.set_exception(
                why if isinstance(why, ParamserverError) else self._lost("in the handshake")
            )
            self.opened.exception()
        if not self.ended.done():
            self.ended.set_result(None)
        pending, self._pending = self._pending, {}
        for number, waiting in pending.items():
            self._receiver.forget(number)
            if not waiting.future.done():
                waiting.future.set_exception(self._lost())
        unsent, self._unsent = self._unsent, []
        for release in unsent:
            release()
        for task in self._tasks:
            task.cancel()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _lost(self, when: str = "before the answer") -> ConnectionLost:
        why = f": {self._why}" if self._why is not None and str(self._why) else ""
        return ConnectionLost(
            f"the connection to {self.remote.name or 'the peer'} at {self.address} ended "
            f"{when}{why}"
        )

    def _steer(self) -> None:
        """Read only while there is room: in the budget, for answers under way, and for unsent ones."""
        if self.closed or self._transport is None:
            return
        wanted = not (
            self._receiver.stalled
            or self._in_flight >= MOST_IN_FLIGHT
            or self._unsent_bytes > MOST_UNSENT
        )
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool) or value is None


def _peer_address(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return f"{name[0]}:{name[1]}"
    return f"unix:{name or transport.get_extra_info('sockname') or ''}"


async def connect(
    address: str,
    identity: Identity,
    secret: bytes,
    *,
    deadline: float,
    limits: Limits | None = None,
    budget: Budget | None = None,
    checksum: bool | None = None,
) -> Connection:
    """Connect to ``address`` (host:port, or unix:/path) and shake hands.

    ``checksum`` says whether bodies carry a checksum: by default between hosts only.

    Raises:
        Unreachable: nobody answers there in time.
        AuthenticationFailed: the other side has another secret or cluster.
        VersionMismatch: it speaks another version of the protocol.
    """
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(
            ClientHandshake(identity, secret),
            None,
            limits if limits is not None else Limits(),
            budget if budget is not None else Budget(),
            checksum,
        )

    protocol: Connection | None = None
    try:
        async with asyncio.timeout(deadline):
            if address.startswith("unix:"):
                _, protocol = await loop.create_unix_connection(make, address[5:])
            else:
                host, _, port = address.rpartition(":")
                _, protocol = await loop.create_connection(make, host.strip("[]"), int(port))
            protocol.address = address
            await asyncio.shield(protocol.opened)
    except TimeoutError:
        if protocol is not None:
            await protocol.close()
        raise Unreachable(
            f"cannot reach {address}: no answer within {deadline:.1f} s; check that the peer runs "
            "there and that no firewall is between"
        ) from None
    except OSError as error:
        raise Unreachable(
            f"cannot reach {address}: {error.strerror or error}; check the address and that the "
            "peer runs"
        ) from error
    except ConnectionLost as error:
        raise Unreachable(f"cannot reach {address}: {error}") from error
    except asyncio.CancelledError:
        if protocol is not None:
            await protocol.close()
        raise
    return protocol
