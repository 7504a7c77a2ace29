"""What a connection serves at a time: answers under way, bodies that wait, and who is held up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paramserver.errors import ConnectionLost
from paramserver.transport.connection import MOST_IN_FLIGHT, MOST_UNSENT, Request, Response
from paramserver.transport.memory import Budget
from paramserver.wire.frames import HEADER_SIZE
from paramserver.wire.messages import Failure
from tests.support.wire import (
    SECONDS,
    Ask,
    Told,
    both_loops,
    connected,
    frame,
    raw_client,
    serving,
    tell,
    until,
)

MIB = 1 << 20


def asks(count: int) -> bytes:
    """Return requests in one packet, numbered from 1; each says its number."""
    return b"".join(frame(Ask(str(number)), number) for number in range(1, count + 1))


# A reader by hand


@both_loops
async def test_a_slow_reader_is_not_served_ahead() -> None:
    """Small requests in one packet for large answers, and nobody who reads them."""
    body = bytes(8 * MIB)
    held = most = served = 0

    def sent() -> None:
        nonlocal held
        held -= 1

    def serve(request: Request) -> Response:
        nonlocal held, most, served
        held += 1
        served += 1
        most = max(most, held)
        return Response(Told(request.message.word), [body], sent)

    async with serving(serve) as server:
        async with raw_client(server.address) as raw:
            raw.send(asks(300))
            await until(lambda: served > 0)
            for _ in range(300):
                await asyncio.sleep(0)  # turns enough to serve them all, if it would
            ahead = most
        await until(lambda: not server.connections)
        await until(lambda: held == 0)
    assert ahead * len(body) <= MOST_UNSENT + 2 * len(body), f"{ahead} answers of 8 MiB held"


@both_loops
async def test_answers_come_on_when_a_slow_reader_reads() -> None:
    body = bytes(4 * MIB)
    sent: list[str] = []

    def serve(request: Request) -> Response:
        word = request.message.word
        return Response(Told(word), [body], lambda: sent.append(word))

    async with serving(serve) as server, raw_client(server.address) as raw:
        raw.send(asks(40))
        for number in range(1, 41):
            header, answer, _ = await raw.read()
            assert (answer, header.body) == (Told(str(number)), len(body))
        await until(lambda: len(sent) == 40)


@both_loops
async def test_requests_under_way_are_bounded() -> None:
    go = asyncio.Event()
    running = most = 0

    async def serve(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return tell(request)

    async with serving(serve) as server, raw_client(server.address) as raw:
        raw.send(asks(1200))
        await until(lambda: running >= MOST_IN_FLIGHT)
        go.set()
        seen = {(await raw.read())[0].request for _ in range(1200)}
        assert seen == set(range(1, 1201))
    assert most == MOST_IN_FLIGHT


@pytest.mark.parametrize("sent", [Failure("Refused", "x", {}), Ask("x")], ids=["failure", "other"])
@both_loops
async def test_a_frame_outside_of_a_request_leaks_no_memory(sent: Any) -> None:
    budget = Budget(16 * MIB)
    async with serving(tell, budget=budget) as server, raw_client(server.address) as raw:
        raw.send(frame(sent, 0, body=bytes(MIB)))
        await until(lambda: not server.connections)
        assert budget.held == 0


@both_loops
async def test_memory_is_free_as_soon_as_its_own_bytes_left() -> None:
    """Answers behind one another: each body is overwritten when its on_sent says that it may be."""
    bodies = {str(number): bytearray(bytes([number]) * (6 * MIB)) for number in range(1, 9)}
    freed: list[str] = []

    def serve(request: Request) -> Response:
        word = request.message.word

        def sent() -> None:
            freed.append(word)
            bodies[word][:] = b"z" * len(bodies[word])

        return Response(Told(word), [bodies[word]], sent)

    async with serving(serve) as server, raw_client(server.address) as raw:
        raw.send(asks(8))
        for number in range(1, 9):
            header, _, body = await raw.read()
            assert body.count(number) == header.body == 6 * MIB
        await until(lambda: freed == list(bodies))


@both_loops
async def test_on_sent_is_called_when_the_reader_dies() -> None:
    freed: list[int] = []

    def serve(request: Request) -> Response:
        return Response(Told("x"), [bytes(24 * MIB)], lambda: freed.append(1))

    async with serving(serve) as server, raw_client(server.address) as raw:
        raw.send(frame(Ask("x"), 1))
        await raw.reader.readexactly(HEADER_SIZE)
        assert freed == []
        raw.writer.transport.abort()
        await until(lambda: freed == [1])


# Answers while bodies are under way


@both_loops
async def test_an_answer_while_another_body_is_still_leaving() -> None:
    """The first push is answered while the second one's bytes still wait: both are well."""
    first = asyncio.Event()

    async def serve(request: Request) -> Response:
        if request.message.word == "2":
            await first.wait()
        return Response(Told(request.message.word))

    body = [memoryview(bytes(32 * MIB))]
    async with (
        serving(serve, budget=Budget(256 * MIB)) as server,
        connected(server.address) as connection,
    ):
        asked = [
            asyncio.create_task(connection.request(Ask(word), body, deadline=SECONDS))
            for word in "1234"
        ]
        await asked[0]
        first.set()
        assert [reply.message.word for reply in await asyncio.gather(*asked)] == list("1234")
        assert not connection.closed


@both_loops
async def test_an_early_answer_while_another_body_is_stuck() -> None:
    """As above, sure: the second body has no room at the server, so its bytes cannot leave."""
    body = [memoryview(bytes(32 * MIB))]
    kept: list[Any] = []

    def serve(request: Request) -> Response:
        if request.message.word == "first":
            kept.append(request.keep())
        return Response(Told(request.message.word))

    async with (
        serving(serve, budget=Budget(32 * MIB)) as server,
        connected(server.address) as connection,
    ):
        first = asyncio.create_task(connection.request(Ask("first"), body, deadline=SECONDS))
        second = asyncio.create_task(connection.request(Ask("second"), body, deadline=SECONDS))
        assert (await first).message == Told("first")
        assert not connection.closed
        kept[0].release()
        assert (await second).message == Told("second")


@both_loops
async def test_closing_ends_requests_that_were_answered_in_part() -> None:
    cancelled = asyncio.Event()

    async def serve(request: Request) -> Response:
        request.interim(Told("held"))
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    heard: list[Any] = []
    async with serving(serve) as server, connected(server.address) as connection:
        asked = asyncio.create_task(
            connection.request(Ask("x"), deadline=SECONDS, on_interim=heard.append)
        )
        await until(lambda: heard == [Told("held")])
        async with asyncio.timeout(2.0):
            await server.close(1.0)
            with pytest.raises(ConnectionLost, match="shard-1"):
                await asked
        assert cancelled.is_set()
        assert not server.connections
