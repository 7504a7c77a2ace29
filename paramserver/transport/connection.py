"""One connection: requests out, requests in, replies both ways.

The same class serves both ends. What arrives is parsed by `paramserver.wire.protocol.Receiver`; what
leaves goes through `paramserver.transport.outbox.Outbox`, without copies where it is large.

A connection ends in two steps. First it is *closed*: nothing is asked, served or received any more,
and all that waited for it has failed. Then, when its transport has let go of all memory, it has
*ended*: at once where that is possible, after half a second at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from paramserver.errors import (
    AuthenticationFailed,
    BadMessage,
    ConnectionLost,
    DeadlineExceeded,
    ParamserverError,
    ProtocolError,
    Unreachable,
    Unsupported,
    VersionMismatch,
)
from paramserver.transport.asking import Asking, Pending
from paramserver.transport.exchange import (
    Answer,
    Buffer,
    Handler,
    Into,
    Reply,
    Request,
    Response,
    error_of,
    failure_of,
    refusal_of,
)
from paramserver.transport.memory import Budget, Memory, Turn
from paramserver.transport.outbox import Outbox, flat
from paramserver.transport.sockets import connect_tcp, is_local, peer_address, tune
from paramserver.wire.frames import BEFORE_HANDSHAKE, Flags, Header, Limits
from paramserver.wire.handshake import ClientHandshake, Identity, ServerHandshake
from paramserver.wire.messages import Failure, decode, encode
from paramserver.wire.protocol import Discard, Frame, Place, Receiver

__all__ = ["Connection", "Identity", "Reply", "Request", "Response", "connect"]

log = logging.getLogger(__name__)

MOST_UNSENT = 64 << 20
MOST_IN_FLIGHT = 256
HANDSHAKE_DEADLINE = 5.0
STALL_DEADLINE = 30.0
CLOSING_DEADLINE = 0.5
FLUSH_DEADLINE = 0.25
TRANSPORT_KINDS = 16

_NONE = int(Flags.NONE)
_REPLY = int(Flags.REPLY)
_INTERIM = int(Flags.INTERIM)


class Connection(asyncio.BufferedProtocol):
    """One end of a connection. ``handler`` answers what the other end asks.

    The other end has ``handshake_deadline`` seconds to show that it holds the secret. Later it may be
    silent as long as it likes, but not for ``stall_deadline`` seconds in the middle of a frame, nor
    may it take nothing of what is sent to it for as long.
    """

    def __init__(
        self,
        handshake: ClientHandshake | ServerHandshake,
        handler: Handler | None,
        limits: Limits,
        budget: Budget,
        checksum: bool | None = None,
        *,
        handshake_deadline: float = HANDSHAKE_DEADLINE,
        stall_deadline: float = STALL_DEADLINE,
    ) -> None:
        self._handshake = handshake
        self._handler = handler
        self._limits = limits
        self._budget = budget
        self._checksum = checksum
        self._handshake_deadline = handshake_deadline
        self._stall_deadline = stall_deadline
        self._loop = asyncio.get_running_loop()
        self._receiver = Receiver(BEFORE_HANDSHAKE, self._choose)
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox | None = None
        self._asking = Asking(self._loop, self._late)
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn: Turn | None = None
        self._reading = True
        self._why: Exception | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: ParamserverError | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.remote = Identity("", "", 0, "")
        self.address = ""
        self.last_heard = self._loop.time()
        self.closed = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._asking)} pending"
        return f"<Connection to {self.remote.name or 'nobody yet'} at {self.address}, {state}>"

    # The event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        self.address = peer_address(self._transport)
        tune(self._transport)
        if self._checksum is None:
            self._checksum = not is_local(self.address)
        self._outbox = Outbox(self._transport, self._checksum)
        if self._refusal is not None:
            self.refuse(self._refusal)
        if self.closed:
            self._leave()
            return
        self._timer = self._loop.call_later(self._handshake_deadline, self._handshake_late)
        if isinstance(self._handshake, ClientHandshake):
            self._send(self._handshake.hello, _NONE, 0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._receiver.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that arrived; what is no frame ends this connection and nothing else."""
        self.last_heard = self._loop.time()
        self._receiver.buffer_updated(nbytes)
        self._take()

    def eof_received(self) -> bool:
        """Close: there are no half-open connections."""
        self._abandon(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is pending, end what is under way, let go of all memory."""
        self._stop(exc)
        if self._timer is not None:
            self._timer.cancel()
        if self._outbox is not None:
            self._outbox.let_go()
        if not self.ended.done():
            self.ended.set_result(None)

    def resume_writing(self) -> None:
        """Go on: all that was written has left."""
        self._steer()

    # Receiving

    def _take(self) -> None:
        """Serve the frames that are whole, as long as there is room for their answers."""
        if self.closed or not (self._reading or self._has_room()):
            return
        try:
            while (frame := self._receiver.next_frame()) is not None:
                self._receive(frame)
                if not self._has_room():
                    break
        except (ProtocolError, VersionMismatch, AuthenticationFailed) as error:
            self._send_failure(0, error)
            self._abandon(error)
            return
        self._steer()

    def _choose(self, header: Header) -> Place | None:
        """Choose where a body goes; None where the budget has no room now."""
        if header.flags & _REPLY:
            pending = self._asking.get(header.request)
            if pending is None or pending.into is None or header.flags & _INTERIM:
                return Discard(header.body)
            room = sum(map(len, pending.into))
            if room == header.body:
                return Into(pending.into)
            pending.fail(
                BadMessage(
                    f"a reply of {header.body} bytes from {self.remote.name} where {room} "
                    "were asked for"
                )
            )
            return Discard(header.body)
        if self._handler is None or header.request == 0:
            return Discard(header.body)
        memory = self._budget.take(header.body)
        if memory is None:
            self._turn = self._budget.queue(header.body, self._granted)
        return memory

    def _granted(self, memory: Memory) -> None:
        """Take the memory that the budget had no room for; go on when its giver has finished."""
        self._turn = None
        self._receiver.resume(memory)
        self._loop.call_soon(self._take)

    def _receive(self, frame: Frame) -> None:
        header = frame.header
        if not self.opened.done():
            self._shake(frame)
        elif header.flags & _REPLY:
            self._receive_reply(frame)
        elif header.request == 0:
            message = self._decode_own(frame)
            if not isinstance(message, Failure):
                raise BadMessage(f"{type(message).__name__} outside of a request")
            self._abandon(error_of(message))
        else:
            self._receive_request(frame)

    def _decode_own(self, frame: Frame) -> object:
        """Read one of the transport's own messages: what strangers may send is no other."""
        if frame.header.kind >= TRANSPORT_KINDS:
            raise BadMessage(f"a message of kind {frame.header.kind} outside of a request")
        return decode(frame.header.kind, frame.meta)

    def _shake(self, frame: Frame) -> None:
        message = self._decode_own(frame)
        if isinstance(message, Failure):
            self._abandon(refusal_of(message))
            return
        answer = self._handshake.receive(message)
        if answer is not None:
            self._send(answer, _NONE, 0)
        if self._handshake.done:
            assert self._handshake.remote is not None
            self.remote = self._handshake.remote
            self._receiver.open(self._limits)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(self._stall_deadline / 2, self._look)
            self.opened.set_result(None)

    def _receive_reply(self, frame: Frame) -> None:
        header = frame.header
        pending = self._asking.get(header.request)
        if pending is None or pending.future.done():
            return
        if not header.flags & _INTERIM:
            pending.future.set_result(frame)
        elif pending.on_interim is not None:
            message = decode(header.kind, frame.meta)
            try:
                pending.on_interim(message)
            except Exception as error:
                # The requester's own: it fails that request, not everybody's connection.
                pending.future.set_exception(error)

    def _receive_request(self, frame: Frame) -> None:
        """Hand a request to the handler; an answer that takes time gets a task of its own."""
        number = frame.header.request
        request = Request(self, None, frame.place, number, frame.header.attempt)
        try:
            if self._handler is None:
                raise Unsupported("this side of the connection serves nothing")
            request.message = decode(frame.header.kind, frame.meta)
            answer = self._handler(request)
            if isinstance(answer, Response):
                self._respond(number, answer)
            elif answer is None:
                raise Unsupported(f"no answer to {type(request.message).__name__}")
            else:
                task = self._loop.create_task(self._answer(number, request, answer))
                self._tasks.add(task)
                task.add_done_callback(lambda task: self._answered(task, request, answer))
                return
        except Exception as error:
            self._send_error(request, number, error)
        request.finish()

    async def _answer(self, number: int, request: Request, answer: Awaitable[Answer]) -> None:
        """Wait for a handler's answer and send it."""
        try:
            response = await answer
            if response is None:
                raise Unsupported(f"no answer to {type(request.message).__name__}")
            self._respond(number, response)
        except Exception as error:
            self._send_error(request, number, error)

    def _answered(
        self, task: asyncio.Task[None], request: Request, answer: Awaitable[Answer]
    ) -> None:
        # Here and not in the task's own code, which does not run if it is cancelled at birth.
        self._tasks.discard(task)
        if asyncio.iscoroutine(answer):
            answer.close()
        request.finish()
        if not self._reading:
            self._steer()

    # Sending

    def _send(
        self,
        message: Any,
        flags: int,
        number: int,
        body: Sequence[Buffer] = (),
        *,
        attempt: int = 0,
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        """Write one frame; ``on_sent`` is called when the body's memory is free, or not needed."""
        outbox = self._outbox
        if self.closed or outbox is None:
            if on_sent is not None:
                on_sent()
            return
        try:
            kind, meta = encode(message)
            outbox.write(kind, meta, flags, number, attempt, body, self._limits, on_sent)
        except Exception:
            if on_sent is not None:
                on_sent()
            raise

    def send_interim(self, message: Any, number: int) -> None:
        """Send an answer before the answer to request ``number``; it has no body."""
        self._send(message, _REPLY | _INTERIM, number)

    def _respond(self, number: int, answer: Response) -> None:
        self._send(answer.message, _REPLY, number, answer.body, on_sent=answer.on_sent)

    def _send_error(self, request: Request, number: int, error: Exception) -> None:
        """Answer a request with an error; one that nobody meant to raise goes to the log."""
        if not isinstance(error, ParamserverError):
            name = type(request.message).__name__
            log.error("while serving %s", request, exc_info=error)
            error = ParamserverError(f"internal error while serving {name}: see that peer's log")
        self._send_failure(number, error)

    def _send_failure(self, number: int, error: ParamserverError) -> None:
        self._send(failure_of(error), _REPLY if number else _NONE, number)

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
        after another, which hold just as many bytes; without ``into`` it is dropped.

        When this returns or raises, the memory of ``body`` and ``into`` is the caller's again: it is
        neither read nor written any more. So a request that gives up (its deadline passed, it was
        cancelled) while its body is only partly written ends the whole connection, since the rest of
        the frame cannot be taken back. A cancelled one waits a quarter of a second for the rest to
        leave first.

        Raises:
            DeadlineExceeded: no answer in time; the text names who was waited for.
            ConnectionLost: the connection ended before the answer.
            TooLarge: the request is beyond the limits; it was not sent.
            ParamserverError: what the other side answered.
        """
        if self.closed:
            raise self._lost()
        views = None if into is None else [*map(flat, into)]
        number, future = self._asking.add(type(message).__name__, deadline, views, on_interim)
        unsent: list[Sequence[Buffer]] = []
        try:
            if body:
                unsent.append(body)
            self._send(message, _NONE, number, body, attempt=attempt, on_sent=unsent.clear)
            frame = await future
        except asyncio.CancelledError:
            if unsent and self._outbox is not None and not self.closed:
                await self._outbox.flush(FLUSH_DEADLINE)
            raise
        finally:
            self._asking.remove(number)
            if into is not None:
                self._receiver.forget(number)
            if unsent and self._outbox is not None:
                self._outbox.settle()
            if unsent:
                self.abort(ConnectionLost(f"{type(message).__name__} was only partly sent"))
        answer = decode(frame.header.kind, frame.meta)
        if isinstance(answer, Failure):
            raise error_of(answer)
        return Reply(answer)

    def _late(self, pending: Pending) -> DeadlineExceeded:
        silent = self._loop.time() - self.last_heard
        return DeadlineExceeded(
            f"no answer to {pending.name} from {self.remote.name} at {self.address} after "
            f"{pending.deadline:.1f} s, last heard {silent:.1f} s ago: check that peer, or raise "
            "cluster.deadline"
        )

    # Life

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the connection has closed; at once where it has already."""
        if self.closed:
            callback()
        else:
            self._callbacks.append(callback)

    async def close(self) -> None:
        """Close the connection and end what it was doing, within half a second."""
        self._abandon(None)
        if self._transport is not None and not self.ended.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * CLOSING_DEADLINE):
                    await asyncio.shield(self.ended)
        tasks = self._tasks - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    def abort(self, why: Exception | None = None) -> None:
        """End the connection now; of what was not sent not one more byte leaves."""
        self._stop(why)
        if self._outbox is not None:
            self._outbox.cut()

    def refuse(self, why: ParamserverError) -> None:
        """End a connection that is not wanted, and say why."""
        if self._transport is None:
            self._refusal = why
            return
        self._send_failure(0, why)
        self._abandon(why)

    def _abandon(self, why: Exception | None) -> None:
        """Close; what was written may still leave, for half a second."""
        if why is not None and not self.closed:
            serious = isinstance(why, AuthenticationFailed | VersionMismatch)
            level = logging.WARNING if serious else logging.INFO
            log.log(level, "closing the connection to %s: %s", self.address, why)
        self._stop(why)
        self._leave()

    def _leave(self) -> None:
        """Close the transport, by force where the other side does not take what is left."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(CLOSING_DEADLINE, self.abort)

    def _handshake_late(self) -> None:
        self.refuse(
            Unreachable(
                f"{self.address} did not finish the handshake in {self._handshake_deadline:g} s"
            )
        )

    def _look(self) -> None:
        """End a connection whose other side stopped half-way: it may hold memory for ever."""
        assert self._outbox is not None
        now, seconds = self._loop.time(), self._stall_deadline
        self._timer = self._loop.call_later(seconds / 2, self._look)
        if self._outbox.stalled(now, seconds):
            self.abort(ConnectionLost(f"nothing that was sent was taken for {seconds:g} s"))
        elif self._reading and self._receiver.incomplete and now - self.last_heard > seconds:
            self.abort(ConnectionLost(f"silent for {seconds:g} s in the middle of a frame"))

    def _stop(self, why: Exception | None) -> None:
        """Stop asking, serving and receiving; fail and cancel what is under way."""
        if self.closed:
            return
        self.closed = True
        self._why = why
        if not self.opened.done():
            self.opened.set_exception(
                why if isinstance(why, ParamserverError) else self._lost("in the handshake")
            )
            self.opened.exception()
        turn, self._turn = self._turn, None
        if turn is not None:
            self._budget.cancel(turn)
        self._receiver.close()
        self._asking.fail(self._lost)
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

    def _has_room(self) -> bool:
        """Say whether to take one more frame: not while too many answers are under way or unsent.

        Who only asks always takes, whatever it has not sent yet: two sides that both wait for the
        other to read would wait for ever.
        """
        if self.closed or self._handler is None or self._outbox is None:
            return not self.closed
        return len(self._tasks) < MOST_IN_FLIGHT and self._outbox.waiting <= MOST_UNSENT

    def _steer(self) -> None:
        """Read only while there is room; serve what was left when there was none."""
        if self._outbox is not None:
            self._outbox.settle()
        if self.closed or self._transport is None:
            return
        wanted = not self._receiver.stalled and self._has_room()
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
                self._loop.call_soon(self._take)
            else:
                self._transport.pause_reading()


async def connect(
    address: str,
    identity: Identity,
    secret: bytes,
    *,
    deadline: float,
    limits: Limits | None = None,
    checksum: bool | None = None,
) -> Connection:
    """Connect to ``address`` (host:port, or unix:/path) and shake hands.

    ``checksum`` says whether bodies carry a checksum: by default between hosts only.

    Raises:
        Unreachable: nobody answers there in time, or somebody who does not speak this protocol.
        AuthenticationFailed: the other side has another secret or cluster.
        VersionMismatch: it speaks another version of the protocol.
    """
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(
            ClientHandshake(identity, secret),
            None,
            limits if limits is not None else Limits(),
            Budget(),
            checksum,
        )

    protocol: Connection | None = None
    try:
        async with asyncio.timeout(deadline):
            if address.startswith("unix:"):
                _, protocol = await loop.create_unix_connection(make, address[5:])
            else:
                host, _, port = address.rpartition(":")
                protocol = await connect_tcp(loop, make, host.strip("[]"), int(port))
            protocol.address = address
            await asyncio.shield(protocol.opened)
    except TimeoutError:
        if protocol is not None:
            protocol.abort()
        raise Unreachable(
            f"cannot reach {address}: no answer within {deadline:.1f} s; check that the peer runs "
            "there and that no firewall is between"
        ) from None
    except OSError as error:
        raise Unreachable(
            f"cannot reach {address}: {error.strerror or error}; check the address and that the "
            "peer runs"
        ) from error
    except (ValueError, OverflowError) as error:
        raise Unreachable(f"{address!r} is no address: give host:port or unix:/path") from error
    except ProtocolError as error:
        raise Unreachable(
            f"what answers at {address} does not speak this protocol: {error}; check the address"
        ) from error
    except VersionMismatch as error:
        raise VersionMismatch(f"cannot work with {address}: {error}") from error
    except ConnectionLost as error:
        raise Unreachable(f"cannot reach {address}: {error}") from error
    except asyncio.CancelledError:
        if protocol is not None:
            protocol.abort()
        raise
    return protocol
