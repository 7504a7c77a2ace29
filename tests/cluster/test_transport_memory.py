"""Whose memory is whose: it is free when it is said to be free, and there is never too much of it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from paramserver.errors import ConnectionLost, DeadlineExceeded
from paramserver.transport.connection import MOST_UNSENT, Connection, Request, Response
from paramserver.transport.memory import Budget
from paramserver.wire.frames import Flags
from tests.support.wire import (
    SECONDS,
    Ask,
    Raw,
    Told,
    both_loops,
    connected,
    frame,
    raw_client,
    raw_server,
    replies,
    serving,
    tell,
    until,
)

LARGE = 32 << 20
"""More than the buffers of two sockets on one machine take."""


@both_loops
async def test_a_responses_memory_is_free_only_when_all_of_it_has_left() -> None:
    body = bytearray(b"\1" * LARGE)
    sent = []

    def done() -> None:
        sent.append(1)
        body[:] = b"\2" * LARGE

    def handler(request: Request) -> Response:
        if request.message.word == "small":
            return Response(Told("small"))
        return Response(Told("large"), [memoryview(body)], on_sent=done)

    async with serving(handler) as server, raw_client(server.address) as raw:
        raw.send(frame(Ask("large"), 1) + frame(Ask("small"), 2))
        _, message, found = await raw.read()
        assert message == Told("large")
        assert found.count(1) == LARGE
        assert (await raw.read())[1] == Told("small")
        await until(lambda: sent == [1])


@both_loops
async def test_while_nobody_reads_it_is_not_free() -> None:
    sent = []
    body = bytes(LARGE)

    def handler(request: Request) -> Response:
        if request.message.word == "small":
            return tell(request)
        return Response(Told("x"), [body], on_sent=lambda: sent.append(1))

    async with (
        serving(handler) as server,
        connected(server.address) as other,
        raw_client(server.address) as raw,
    ):
        reader = server.connections[-1]
        raw.send(frame(Ask("x"), 1))
        await until(lambda: _waiting(reader) > 0)
        for _ in range(100):
            await other.request(Ask("small"), deadline=5)
        assert 0 < _waiting(reader) < LARGE
        reader.abort()
        assert sent == []
        await until(lambda: sent == [1])
        assert len(await raw.rest()) < LARGE


@contextlib.asynccontextmanager
async def deaf_peer() -> AsyncIterator[tuple[str, asyncio.Event, list[bytes]]]:
    """Serve by hand a peer that reads nothing until the event, then all there is."""
    listen = asyncio.Event()
    heard: list[bytes] = []

    async def serve(raw: Raw) -> None:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await listen.wait()
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        heard.append(await raw.rest())

    async with raw_server(serve) as address:
        try:
            yield address, listen, heard
        finally:
            listen.set()


@pytest.mark.parametrize("how", ["deadline", "cancel", "close", "abort"])
@both_loops
async def test_a_request_that_gave_up_sends_nothing_of_what_its_memory_holds_later(
    how: str,
) -> None:
    body = bytearray(b"\1" * LARGE)
    async with deaf_peer() as (address, listen, heard), connected(address) as connection:
        asked = asyncio.create_task(
            connection.request(Ask("x"), [body], deadline=0.2 if how == "deadline" else 5)
        )
        other = asyncio.create_task(connection.request(Ask("y"), deadline=5))
        await until(lambda: len(connection._asking) == 2)
        closing = None
        if how == "cancel":
            asked.cancel()
        elif how == "close":
            closing = asyncio.create_task(connection.close())
        elif how == "abort":
            connection.abort()
        with pytest.raises((DeadlineExceeded, ConnectionLost, asyncio.CancelledError)):
            await asked
        body[:] = b"\2" * LARGE
        listen.set()
        await until(lambda: bool(heard))
        assert 2 not in heard[0][100:]
        assert len(heard[0]) < LARGE
        with pytest.raises(ConnectionLost):
            await other
        if closing is not None:
            await closing


@both_loops
async def test_not_even_in_the_turn_of_the_loop_that_follows() -> None:
    body = bytearray(b"\1" * LARGE)
    listen, empty = threading.Event(), threading.Event()
    heard = bytearray()

    def read(raw: socket.socket) -> None:
        """Empty the socket while the loop stands still, then read what comes until the end."""
        listen.wait(SECONDS)
        raw.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data := raw.recv(1 << 20):
                heard.extend(data)
        empty.set()
        raw.settimeout(SECONDS)
        with contextlib.suppress(ConnectionError):
            while data := raw.recv(1 << 20):
                heard.extend(data)

    async def serve(raw: Raw) -> None:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        twin = raw.writer.get_extra_info("socket").dup()
        await asyncio.to_thread(read, twin)
        twin.close()
        done.set()

    done = asyncio.Event()
    async with raw_server(serve) as address, connected(address) as connection:
        with pytest.raises(DeadlineExceeded):
            await connection.request(Ask("x"), [body], deadline=0.2)
        body[:] = b"\2" * LARGE
        listen.set()
        assert empty.wait(SECONDS)
        await done.wait()
        assert 2 not in heard[100:]


@both_loops
async def test_a_cancelled_request_whose_body_leaves_at_once_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "paramserver.transport.connection.FLUSH_DEADLINE", 5.0
    )  # "at once" on a busy machine
    forever = asyncio.Event()

    async def handler(request: Request) -> Response:
        if request.message.word == "never":
            await forever.wait()
        return tell(request)

    async with serving(handler) as server, connected(server.address) as connection:
        asked = asyncio.create_task(connection.request(Ask("never"), [bytes(LARGE)], deadline=5))
        other = asyncio.create_task(connection.request(Ask("x"), deadline=5))
        await until(lambda: len(connection._asking) == 2)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await other).message == Told("x")
        assert not connection.closed
        forever.set()


@pytest.mark.parametrize(("word", "count"), [("large", 1000), ("small", 20_000)])
@both_loops
async def test_a_slow_reader_holds_neither_memory_nor_anybody_up(word: str, count: int) -> None:
    piece = bytes(1 << 20)
    small = bytes(60_000)

    def handler(request: Request) -> Response:
        if request.message.word == "push":
            return tell(request)
        return Response(Told("x"), [piece if request.message.word == "large" else small])

    budget = Budget(16 << 20)
    async with (
        serving(handler, budget=budget) as server,
        raw_client(server.address) as slow,
        connected(server.address) as fast,
    ):
        reader = server.connections[0]
        slow.send(b"".join(frame(Ask(word), number + 1) for number in range(count)))
        for _ in range(30):
            await fast.request(Ask("push"), [piece], deadline=5)
            await slow.reader.read(1000)
            assert _waiting(reader) <= MOST_UNSENT + (2 << 20)
        await until(lambda: not reader._reading)
        assert _waiting(reader) > MOST_UNSENT
        assert budget.held == 0
        reader.abort()


def _waiting(connection: Connection) -> int:
    assert connection._outbox is not None
    return connection._outbox.waiting


@both_loops
async def test_two_sides_with_much_to_say_do_not_wait_for_each_other() -> None:
    body = bytes(48 << 20)

    def handler(request: Request) -> Response:
        return Response(Told("x"), [body])

    async with serving(handler) as server, connected(server.address) as connection:
        into = [memoryview(bytearray(len(body))) for _ in range(4)]
        await asyncio.gather(
            *(connection.request(Ask("x"), [body], deadline=20, into=[view]) for view in into)
        )


# What stops half-way


@both_loops
async def test_memory_comes_back_from_a_connection_that_ends_half_way() -> None:
    budget = Budget(1 << 20)
    async with serving(tell, budget=budget) as server:
        for _ in range(3):
            async with raw_client(server.address) as raw:
                raw.send(frame(Ask("x"), 1, body=b"half", announce=1 << 20))
                await until(lambda: budget.held > 0)
            await until(lambda: budget.held == 0)
        async with connected(server.address) as connection:
            await connection.request(Ask("x"), [bytes(1 << 20)], deadline=5)


@both_loops
async def test_who_stops_in_the_middle_of_a_frame_is_dropped() -> None:
    budget = Budget(1 << 20)
    async with serving(tell, budget=budget, stall_deadline=0.1) as server:
        async with raw_client(server.address) as raw, connected(server.address) as idle:
            raw.send(frame(Ask("x"), 1, body=b"half", announce=1 << 20))
            await until(lambda: budget.held > 0)
            assert await raw.rest() == b""
            await until(lambda: budget.held == 0)
            # Who is silent between frames is left alone.
            assert (await idle.request(Ask("x"), deadline=5)).message == Told("x")
        async with raw_client(server.address) as raw:
            raw.send(frame(Ask("x"), 1)[:10])
            assert await raw.rest() == b""


@both_loops
async def test_who_takes_nothing_of_what_is_sent_is_dropped() -> None:
    sent = []
    body = bytes(LARGE)

    def handler(request: Request) -> Response:
        return Response(Told("x"), [body], on_sent=lambda: sent.append(1))

    async with serving(handler, stall_deadline=0.2) as server, raw_client(server.address) as raw:
        raw.send(frame(Ask("x"), 1))
        await until(lambda: sent == [1])
        assert server.connections == []
        assert len(await raw.rest()) < LARGE


@both_loops
async def test_a_server_that_stops_in_the_middle_of_a_reply_is_left() -> None:
    def half(number: int) -> bytes:
        return frame(Told("x"), number, Flags.REPLY, b"half", announce=1000)

    async with raw_server(replies(half)) as address, connected(address) as connection:
        connection._stall_deadline = 0.1
        connection._look()
        with pytest.raises(ConnectionLost, match=r"silent for 0\.1 s in the middle of a frame"):
            await connection.request(Ask("x"), deadline=5, into=[memoryview(bytearray(1000))])
