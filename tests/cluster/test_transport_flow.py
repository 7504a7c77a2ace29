"""What a connection holds: memory, answers under way, and whose memory is free when."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from paramserver.errors import ConnectionLost, DeadlineExceeded, ParamserverError
from paramserver.transport.connection import Connection, Identity, connect
from paramserver.transport.memory import Budget
from paramserver.transport.server import Handler, Request, Response, Server
from paramserver.wire.frames import HEADER_SIZE, Header, Limits, parse_header
from paramserver.wire.handshake import ClientHandshake
from paramserver.wire.messages import Failure, decode, encode, message

SECRET = b"a secret"
ME = Identity("test", "worker-0", 1, "client")
HOST = Identity("test", "shard-0", 2)
MIB = 1 << 20
PATIENCE = 10.0


@message(250)
class Ask:
    number: int


@message(251)
class Answered:
    number: int


def on_both_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on asyncio's loop and on uvloop's, within a deadline."""

    def run(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(test(), 60))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("factory", factories, ids=["asyncio", "uvloop"])(run)


@contextlib.asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[Server]:
    server = Server(HOST, SECRET, handler, **options)
    await server.listen("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.close(2.0)


@contextlib.asynccontextmanager
async def linked(handler: Handler, **options: Any) -> AsyncIterator[tuple[Server, Connection]]:
    async with serving(handler, **options) as server:
        connection = await connect(server.address, ME, SECRET, deadline=PATIENCE)
        try:
            yield server, connection
        finally:
            await connection.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0)


def frame(sent: object, number: int, body: bytes = b"", flags: int = 0) -> bytes:
    kind, meta = encode(sent)
    return Header(kind, flags, number, 0, len(meta), len(body)).serialize() + meta + body


class Raw:
    """A client made of a plain socket: it reads only when told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, server: Server) -> Raw:
        host, _, port = server.address.rpartition(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.setblocking(False)
        raw = cls(sock)
        await raw.loop.sock_connect(sock, (host, int(port)))
        shake = ClientHandshake(ME, SECRET)
        await raw.send(frame(shake.hello, 0))
        await raw.send(frame(shake.receive((await raw.read())[1]), 0))
        shake.receive((await raw.read())[1])
        assert shake.done
        return raw

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            got = await self.loop.sock_recv(self.sock, count - len(data))
            if not got:
                raise EOFError
            data += got
        return bytes(data)

    async def read(self) -> tuple[Header, Any]:
        header = parse_header(await self.exactly(HEADER_SIZE), Limits())
        meta = await self.exactly(header.meta)
        await self.exactly(header.body)
        return header, decode(header.kind, meta)


@on_both_loops
async def test_a_slow_reader_is_not_served_ahead() -> None:
    """Small requests in one packet for large answers, and nobody who reads them."""
    body = bytes(8 * MIB)
    held = most = served = 0

    def serve(request: Request) -> Response:
        nonlocal held, most, served
        held += 1
        served += 1
        most = max(most, held)

        def sent() -> None:
            nonlocal held
            held -= 1

        return Response(Answered(request.message.number), [body], sent)

    async with serving(serve) as server:
        raw = await Raw.open(server)
        await raw.send(b"".join(frame(Ask(i), i + 1) for i in range(300)))
        await until(lambda: served > 0)
        for _ in range(300):
            await asyncio.sleep(0)  # turns enough to serve them all, if it would
        ahead = most
        raw.sock.close()
        await until(lambda: not server.connections)
        await until(lambda: held == 0)
    assert ahead * len(body) <= 64 * MIB + 2 * len(body), f"{ahead} answers of 8 MiB held"


@on_both_loops
async def test_answers_come_on_when_a_slow_reader_reads() -> None:
    body = bytes(4 * MIB)
    sent = 0

    def count() -> None:
        nonlocal sent
        sent += 1

    def serve(request: Request) -> Response:
        return Response(Answered(request.message.number), [body], count)

    async with serving(serve) as server:
        raw = await Raw.open(server)
        await raw.send(b"".join(frame(Ask(i), i + 1) for i in range(40)))
        for i in range(40):
            header, answer = await raw.read()
            assert answer == Answered(i)
            assert header.body == len(body)
        await until(lambda: sent == 40)
        raw.sock.close()


@on_both_loops
async def test_requests_under_way_are_bounded() -> None:
    go = asyncio.Event()
    running = most = 0

    async def serve(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return Response(Answered(request.message.number))

    async with serving(serve) as server:
        raw = await Raw.open(server)
        await raw.send(b"".join(frame(Ask(i), i + 1) for i in range(1200)))
        await until(lambda: running >= 256)
        go.set()
        seen = {(await raw.read())[0].request for _ in range(1200)}
        assert seen == set(range(1, 1201))
        raw.sock.close()
    assert most == 256


@pytest.mark.parametrize("kind", ["failure", "other"])
def test_a_frame_outside_of_a_request_leaks_no_memory(kind: str) -> None:
    async def main() -> None:
        budget = Budget(16 * MIB)

        async with serving(lambda _: Response(Answered(1)), budget=budget) as server:
            raw = await Raw.open(server)
            sent = Failure("Refused", "x", {}) if kind == "failure" else Ask(1)
            await raw.send(frame(sent, 0, bytes(MIB)))
            await until(lambda: not server.connections)
            assert budget.held == 0
            raw.sock.close()

    asyncio.run(main())


@on_both_loops
async def test_an_answer_while_another_body_is_still_leaving() -> None:
    """The first push is answered while the second one's bytes still wait: both are well."""
    first = asyncio.Event()

    async def serve(request: Request) -> Response:
        if request.message.number == 2:
            await first.wait()
        return Response(Answered(request.message.number))

    body = [memoryview(bytes(32 * MIB))]
    async with linked(serve, budget=Budget(256 * MIB)) as (_, connection):
        asks = [
            asyncio.ensure_future(connection.request(Ask(i), body, deadline=PATIENCE))
            for i in range(1, 5)
        ]
        await asks[0]
        first.set()
        replies = await asyncio.gather(*asks)
        assert [reply.message.number for reply in replies] == [1, 2, 3, 4]
        assert not connection.closed


@on_both_loops
async def test_an_early_answer_while_another_body_is_stuck() -> None:
    """As above, sure: the second body has no room at the server, so its bytes cannot leave."""
    body = [memoryview(bytes(32 * MIB))]
    kept: list[Any] = []

    def serve(request: Request) -> Response:
        if request.message.number == 1:
            kept.append(request.keep())
        return Response(Answered(request.message.number))

    async with linked(serve, budget=Budget(32 * MIB)) as (_, connection):
        first = asyncio.ensure_future(connection.request(Ask(1), body, deadline=PATIENCE))
        second = asyncio.ensure_future(connection.request(Ask(2), body, deadline=PATIENCE))
        assert (await first).message == Answered(1)
        assert not connection.closed
        kept[0].release()
        assert (await second).message == Answered(2)


@on_both_loops
async def test_bodies_wait_for_the_budget_and_none_is_refused() -> None:
    budget = Budget(4 * MIB)
    kept: list[Any] = []

    async def serve(request: Request) -> Response:
        kept.append(request.keep())
        return Response(Answered(len(request.body)))

    async with serving(serve, budget=budget) as server:
        clients = [await connect(server.address, ME, SECRET, deadline=PATIENCE) for _ in range(6)]
        asks = [
            asyncio.ensure_future(one.request(Ask(i), [bytes(2 * MIB)], deadline=PATIENCE))
            for i, one in enumerate(clients)
        ]
        done = 0
        while done < 6:
            await until(lambda: bool(kept))
            assert budget.held <= budget.total
            kept.pop().release()
            done += 1
        for ask in asks:
            assert (await ask).message == Answered(2 * MIB)
        for one in clients:
            await one.close()
        assert budget.held == 0


@on_both_loops
async def test_memory_of_a_body_is_free_after_on_sent() -> None:
    """What is written into an answer's memory after on_sent never reaches the reader."""
    body = bytearray(b"a" * (24 * MIB))
    freed = asyncio.Event()

    def sent() -> None:
        body[:] = b"z" * len(body)
        freed.set()

    async with serving(lambda _: Response(Answered(1), [body], sent)) as server:
        raw = await Raw.open(server)
        await raw.send(frame(Ask(1), 1))
        header = parse_header(await raw.exactly(HEADER_SIZE), Limits())
        await raw.exactly(header.meta)
        assert not freed.is_set()
        got = await raw.exactly(header.body)
        assert got.count(b"a") == len(body)
        async with asyncio.timeout(PATIENCE):
            await freed.wait()
        raw.sock.close()


@on_both_loops
async def test_memory_is_free_as_soon_as_its_own_bytes_left() -> None:
    """Answers behind one another: each body is overwritten when its on_sent says that it may be."""
    bodies = [bytearray(bytes([i]) * (6 * MIB)) for i in range(8)]
    freed: list[int] = []

    def serve(request: Request) -> Response:
        number = request.message.number

        def sent() -> None:
            freed.append(number)
            bodies[number][:] = b"z" * len(bodies[number])

        return Response(Answered(number), [bodies[number]], sent)

    async with serving(serve) as server:
        raw = await Raw.open(server)
        await raw.send(b"".join(frame(Ask(i), i + 1) for i in range(8)))
        for i in range(8):
            header = parse_header(await raw.exactly(HEADER_SIZE), Limits())
            await raw.exactly(header.meta)
            assert (await raw.exactly(header.body)).count(bytes([i])) == header.body
        await until(lambda: freed == list(range(8)))
        raw.sock.close()


@on_both_loops
async def test_on_sent_is_called_when_the_reader_dies() -> None:
    freed = asyncio.Event()
    async with serving(lambda _: Response(Answered(1), [bytes(24 * MIB)], freed.set)) as server:
        raw = await Raw.open(server)
        await raw.send(frame(Ask(1), 1))
        await raw.exactly(HEADER_SIZE)
        assert not freed.is_set()
        raw.sock.close()
        async with asyncio.timeout(PATIENCE):
            await freed.wait()


@on_both_loops
async def test_views_are_not_written_after_the_deadline() -> None:
    """The reply begins in time and ends after it; a proxy holds back the middle."""
    view = memoryview(bytearray(MIB))
    release = asyncio.Event()

    async def serve(request: Request) -> Response:
        return Response(Answered(request.message.number), [b"x" * MIB])

    async with serving(serve) as server:
        host, _, behind = server.address.rpartition(":")

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up_reader, up_writer = await asyncio.open_connection(host, int(behind))

            async def up() -> None:
                while data := await reader.read(65536):
                    up_writer.write(data)
                up_writer.close()

            async def down() -> None:
                total = 0
                while data := await up_reader.read(65536):
                    total += len(data)
                    if total > 500_000 and not release.is_set():
                        await release.wait()
                    writer.write(data)

            with contextlib.suppress(ConnectionError):
                await asyncio.gather(up(), down())
            writer.close()

        proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        connection = await connect(f"127.0.0.1:{port}", ME, SECRET, deadline=PATIENCE)
        with pytest.raises(
            DeadlineExceeded, match=r"Ask from shard-0 at 127.0.0.1:\d+ after 0\.5 s"
        ):
            await connection.request(Ask(1), deadline=0.5, into=[view])
        assert 0 < bytes(view).count(b"x") < MIB
        view[:] = bytes(MIB)
        release.set()
        again = memoryview(bytearray(MIB))
        reply = await connection.request(Ask(2), deadline=PATIENCE, into=[again[:7], again[7:]])
        assert reply.message == Answered(2)
        assert bytes(view) == bytes(MIB)
        assert bytes(again) == b"x" * MIB
        await connection.close()
        proxy.close()


@on_both_loops
async def test_closing_ends_requests_under_way() -> None:
    cancelled = asyncio.Event()

    async def serve(request: Request) -> Response:
        request.interim(Answered(0))
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    held: list[Any] = []
    async with linked(serve) as (server, connection):
        ask = asyncio.ensure_future(
            connection.request(Ask(1), deadline=PATIENCE, on_interim=held.append)
        )
        await until(lambda: bool(held))
        assert held == [Answered(0)]
        began = asyncio.get_running_loop().time()
        await server.close(1.0)
        with pytest.raises(ConnectionLost, match="shard-0"):
            await ask
        assert cancelled.is_set()
        assert asyncio.get_running_loop().time() - began < 2.0
        assert not server.connections


@on_both_loops
async def test_an_error_nobody_meant_is_answered_and_the_connection_lives() -> None:
    def serve(request: Request) -> Response:
        if request.message.number == 1:
            raise ZeroDivisionError("secret detail")
        return Response(Answered(request.message.number))

    async with linked(serve) as (_, connection):
        with pytest.raises(ParamserverError, match="internal error") as caught:
            await connection.request(Ask(1), deadline=PATIENCE)
        assert type(caught.value) is ParamserverError
        assert (await connection.request(Ask(2), deadline=PATIENCE)).message == Answered(2)


@on_both_loops
async def test_a_callback_that_fails_does_not_take_the_connection() -> None:
    def serve(request: Request) -> Response:
        request.interim(Answered(0))
        return Response(Answered(request.message.number))

    def broken(_: Any) -> None:
        raise ZeroDivisionError

    async with linked(serve) as (_, connection):
        with contextlib.suppress(ZeroDivisionError, ParamserverError):
            await connection.request(Ask(1), deadline=PATIENCE, on_interim=broken)
        assert (await connection.request(Ask(2), deadline=PATIENCE)).message == Answered(2)
