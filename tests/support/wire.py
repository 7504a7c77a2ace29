"""Both event loops, and peers that speak the wire by hand."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from paramserver.transport.connection import Connection, Identity, Request, Response, connect
from paramserver.transport.exchange import Answer
from paramserver.transport.memory import Budget
from paramserver.transport.server import Server
from paramserver.wire.frames import HEADER_SIZE, Flags, Header, Limits, parse_header
from paramserver.wire.handshake import ClientHandshake, ServerHandshake
from paramserver.wire.messages import decode, encode, message

SECRET = b"a secret for tests"
ME = Identity("north", "shard-1", 1)
YOU = Identity("north", "worker-1", 2, "client")
SECONDS = 10.0


def _loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    with contextlib.suppress(ImportError):
        import uvloop

        found["uvloop"] = uvloop.new_event_loop
    return found


LOOPS = _loops()


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio and on uvloop; fail it where a task or an error is left over."""

    @functools.wraps(test)
    def run(loop_name: str, **fixtures: Any) -> None:
        left: list[dict[str, Any]] = []

        async def guarded() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: left.append(context))
            async with asyncio.timeout(60):
                await test(**fixtures)
            me = asyncio.current_task()
            await until(lambda: asyncio.all_tasks() == {me})

        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.run(guarded())
        assert left == []

    signature = inspect.signature(test)
    name = inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), name]
    )
    del run.__wrapped__  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_name", list(LOOPS))(run)


async def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Let the loop turn until ``condition`` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)


# Messages


@message(240)
class Ask:
    """A request of tests."""

    word: str


@message(241)
class Told:
    """Its answer."""

    word: str
    size: int = 0


@message(242)
class Unregistered:
    """A message that no handler of tests knows."""


# Peers


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Request], Answer | Awaitable[Answer]],
    *,
    host: str = "127.0.0.1",
    identity: Identity = ME,
    secret: bytes = SECRET,
    budget: Budget | None = None,
    **options: Any,
) -> AsyncIterator[Server]:
    """Serve; at the end nothing of what was received may be held any more."""
    budget = budget if budget is not None else Budget()
    server = Server(identity, secret, handler, budget=budget, **options)
    await server.listen(host, 0)
    try:
        yield server
    finally:
        await server.close(5.0)
    assert server.connections == []
    await until(lambda: budget.held == 0)


@contextlib.asynccontextmanager
async def connected(
    address: str, *, identity: Identity = YOU, secret: bytes = SECRET, **options: Any
) -> AsyncIterator[Connection]:
    """Connect as a peer does."""
    connection = await connect(address, identity, secret, deadline=SECONDS, **options)
    try:
        yield connection
    finally:
        await connection.close()
        assert connection.ended.done()


def tell(request: Request) -> Response:
    """Answer with the word and the length of the body."""
    return Response(Told(request.message.word, len(request.body)))


def echo(request: Request) -> Response:
    """Answer with the body."""
    place = request.keep()
    return Response(
        Told(request.message.word, len(request.body)), [request.body], on_sent=place.release
    )


def frame(
    sent: Any,
    request: int = 0,
    flags: Flags = Flags.NONE,
    body: bytes = b"",
    *,
    checksum: int = 0,
    announce: int | None = None,
) -> bytes:
    """Return a frame's bytes; ``announce`` is a length of the body other than its own."""
    kind, meta = encode(sent)
    length = len(body) if announce is None else announce
    header = Header(kind, flags, request, 0, len(meta), length, checksum)
    return header.serialize() + meta + body


class Raw:
    """The other end of a connection, by hand: it reads only when asked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)

    async def read(self) -> tuple[Header, Any, bytes]:
        """Return the next frame's header, message and body."""
        async with asyncio.timeout(SECONDS):
            header = parse_header(await self.reader.readexactly(HEADER_SIZE), Limits())
            meta = await self.reader.readexactly(header.meta)
            return header, decode(header.kind, meta), await self.reader.readexactly(header.body)

    async def rest(self) -> bytes:
        """Return all bytes until the end; a connection reset is an end."""
        found = bytearray()
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(1 << 20):
                    found += data
        return bytes(found)

    async def close(self) -> None:
        """Close."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def raw_client(address: str, *, shake: bool = True) -> AsyncIterator[Raw]:
    """Connect by hand, as far as the handshake's end where ``shake``."""
    host, _, port = address.rpartition(":")
    raw = Raw(*await asyncio.open_connection(host, int(port), limit=1 << 16))
    try:
        if shake:
            handshake = ClientHandshake(YOU, SECRET)
            raw.send(frame(handshake.hello))
            while not handshake.done:
                answer = handshake.receive((await raw.read())[1])
                if answer is not None:
                    raw.send(frame(answer))
        yield raw
    finally:
        await raw.close()


@contextlib.asynccontextmanager
async def raw_server(
    serve: Callable[[Raw], Awaitable[None]], *, shake: bool = True
) -> AsyncIterator[str]:
    """Accept connections by hand; gives the address."""
    open_ones: set[Raw] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer)
        open_ones.add(raw)
        try:
            if shake:
                handshake = ServerHandshake(ME, SECRET)
                while not handshake.done:
                    raw.send(frame(handshake.receive((await raw.read())[1])))
            await serve(raw)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            await raw.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 16)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for raw in open_ones:
            raw.writer.transport.abort()


def replies(*make: Callable[[int], bytes]) -> Callable[[Raw], Awaitable[None]]:
    """Return how to serve by hand: the n-th request is answered by ``make[n](number)``."""

    async def serve(raw: Raw) -> None:
        for one in make:
            header, _, _ = await raw.read()
            raw.send(one(header.request))
        await raw.rest()

    return serve
