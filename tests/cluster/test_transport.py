"""Requests and replies over real sockets, on asyncio's loop and on uvloop."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paramserver.errors import (
    AddressInUse,
    BadMessage,
    ConnectionLost,
    DeadlineExceeded,
    Moved,
    ParamserverError,
    TooLarge,
    Unreachable,
    Unsupported,
)
from paramserver.transport.connection import MOST_IN_FLIGHT, Request, Response
from paramserver.transport.links import Links
from paramserver.transport.memory import Budget
from paramserver.transport.server import Server
from paramserver.wire.frames import Flags, Limits
from tests.support.wire import (
    ME,
    SECRET,
    YOU,
    Ask,
    Raw,
    Told,
    Unregistered,
    both_loops,
    connected,
    echo,
    frame,
    raw_server,
    serving,
    tell,
    until,
)

SIZES = [1, 1000, 65_536, 65_537, 5_000_000]


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize("checksum", [False, True])
@both_loops
async def test_bodies_of_any_size_come_back_as_they_were(checksum: bool) -> None:
    async with (
        serving(echo) as server,
        connected(server.address, checksum=checksum) as connection,
    ):
        for size in SIZES:
            body = noise(size)
            found = bytearray(size)
            reply = await connection.request(Ask("x"), [body], deadline=5, into=[memoryview(found)])
            assert reply.message == Told("x", size)
            assert found == body


@both_loops
async def test_a_unix_socket_serves_its_owner_alone_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "peer.sock"
    async with serving(echo, host=f"unix:{path}") as server:
        assert path.stat().st_mode & 0o777 == 0o600
        async with connected(server.address) as connection:
            found = bytearray(100_000)
            body = noise(100_000)
            await connection.request(Ask("x"), [body], deadline=5, into=[memoryview(found)])
            assert found == body
    assert not path.exists()


@both_loops
async def test_bodies_are_cut_into_pieces_and_views_of_any_kind() -> None:
    whole = np.arange(50_000, dtype=np.float32)
    into = np.zeros((2, 25_000), np.float32)
    async with serving(echo) as server, connected(server.address) as connection:
        await connection.request(
            Ask("x"),
            [whole[:10].data, b"", memoryview(whole[10:]).cast("B")],
            deadline=5,
            into=[into[0].data, into[1].data],
        )
    assert np.array_equal(into.ravel(), whole)


@both_loops
async def test_a_body_that_nobody_wants_is_dropped() -> None:
    async with serving(echo) as server, connected(server.address) as connection:
        for size in SIZES:
            reply = await connection.request(Ask("x"), [bytes(size)], deadline=5)
            assert reply.message.size == size


@both_loops
async def test_many_requests_share_a_connection() -> None:
    open_now = most = 0

    async def handler(request: Request) -> Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        for _ in range(int(request.message.word) % 7):
            await asyncio.sleep(0)
        open_now -= 1
        return Response(Told(request.message.word))

    async with serving(handler) as server, connected(server.address) as connection:
        words = [str(number) for number in range(3 * MOST_IN_FLIGHT)]
        replies = await asyncio.gather(
            *(connection.request(Ask(word), deadline=5) for word in words)
        )
        assert [reply.message.word for reply in replies] == words
        assert len(server.connections) == 1
    assert most <= MOST_IN_FLIGHT


@both_loops
async def test_answers_before_the_answer_are_told() -> None:
    async def handler(request: Request) -> Response:
        for word in ("one", "two"):
            request.interim(Told(word))
            await asyncio.sleep(0)
        return Response(Told("three"))

    heard: list[Any] = []
    async with serving(handler) as server, connected(server.address) as connection:
        reply = await connection.request(Ask("x"), deadline=5, on_interim=heard.append)
        assert [one.word for one in [*heard, reply.message]] == ["one", "two", "three"]
        await connection.request(Ask("x"), deadline=5)


@both_loops
async def test_a_bug_of_the_requester_fails_its_request_alone() -> None:
    async def handler(request: Request) -> Response:
        request.interim(Told("first"))
        await asyncio.sleep(0)
        return tell(request)

    def bug(_: Any) -> None:
        raise LookupError("mine")

    async with serving(handler) as server, connected(server.address) as connection:
        with pytest.raises(LookupError, match="mine"):
            await connection.request(Ask("x"), deadline=5, on_interim=bug)
        assert (await connection.request(Ask("x"), deadline=5)).message == Told("x")


# Errors


@pytest.mark.parametrize("late", [False, True])
@both_loops
async def test_an_error_is_raised_again_with_its_detail(late: bool) -> None:
    error = Moved(
        "elsewhere", epoch=3, huge=2**80, words=["x"], self="a", long="x" * 5000, name=None
    )

    async def answer_late(request: Request) -> Response:
        await asyncio.sleep(0)
        raise error

    def answer(request: Request) -> Response:
        raise error

    handler = answer_late if late else answer
    async with serving(handler) as server, connected(server.address) as connection:
        for _ in range(2):
            with pytest.raises(Moved, match="elsewhere") as found:
                await connection.request(Ask("x"), [bytes(100_000)], deadline=5)
            assert found.value.detail == {"epoch": 3, "name": None}


@pytest.mark.parametrize("late", [False, True])
@both_loops
async def test_a_bug_in_a_handler_is_logged_and_told(
    late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer_late(request: Request) -> Response:
        raise KeyError("bug")

    def answer(request: Request) -> Any:
        if request.message.word == "nothing":
            return None
        raise KeyError("bug")

    handler = answer_late if late else answer
    async with serving(handler) as server, connected(server.address) as connection:
        with pytest.raises(ParamserverError, match="internal error while serving Ask"):
            await connection.request(Ask("x"), [bytes(100_000)], deadline=5)
        if not late:
            with pytest.raises(Unsupported, match="no answer to Ask"):
                await connection.request(Ask("nothing"), deadline=5)
        assert not connection.closed
    assert "KeyError: 'bug'" in caplog.text


@both_loops
async def test_a_message_that_is_none_ends_its_request_and_nothing_else() -> None:
    async with serving(tell) as server, connected(server.address) as connection:
        slow = asyncio.create_task(connection.request(Ask("x"), deadline=5))
        connection._send(Unregistered(), 0, 500)
        with pytest.raises(KeyError):
            await connection.request(object(), [bytes(100_000)], deadline=5)
        assert (await slow).message == Told("x")
        assert (await connection.request(Ask("y"), deadline=5)).message == Told("y")


@both_loops
async def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    small = Limits(meta=1000, body=100_000)
    released = []

    def handler(request: Request) -> Response:
        if request.message.word == "meta":
            return Response(Told("x" * 2000))
        return Response(Told("x"), [bytes(200_000)], on_sent=lambda: released.append(1))

    async with (
        serving(handler, limits=small) as server,
        connected(server.address, limits=small) as connection,
    ):
        for message, body in ((Ask("x"), [bytes(100_001)]), (Ask("x" * 1000), [])):
            with pytest.raises(TooLarge, match="where 1000 \\+ 100000 are allowed"):
                await connection.request(message, body, deadline=5)
        for word in ("meta", "body"):
            with pytest.raises(TooLarge):
                await connection.request(Ask(word), deadline=5)
        assert not connection.closed
    assert released == [1]


@both_loops
async def test_a_reply_of_another_length_fails_its_request_alone() -> None:
    async with serving(echo) as server, connected(server.address) as connection:
        found = bytearray(9)
        with pytest.raises(BadMessage, match="a reply of 10 bytes from shard-1 where 9 were"):
            await connection.request(Ask("x"), [bytes(10)], deadline=5, into=[memoryview(found)])
        await connection.request(Ask("x"), [b"123456789"], deadline=5, into=[memoryview(found)])
        assert found == b"123456789"


@both_loops
async def test_numbers_wrap_around_past_those_in_use_and_zero() -> None:
    release = asyncio.Event()

    async def handler(request: Request) -> Response:
        if request.message.word == "wait":
            await release.wait()
        return Response(Told(request.message.word))

    async with serving(handler) as server, connected(server.address) as connection:
        waiting = asyncio.create_task(connection.request(Ask("wait"), deadline=5))
        await until(lambda: connection._asking._number == 1)
        connection._asking._number = 2**32 - 2
        for word in "abc":
            assert (await connection.request(Ask(word), deadline=5)).message.word == word
        assert connection._asking._number == 3
        release.set()
        assert (await waiting).message.word == "wait"


# Deadlines and cancellation


@both_loops
async def test_a_deadline_names_who_was_waited_for() -> None:
    async def handler(request: Request) -> Response:
        if request.message.word == "never":
            await asyncio.Event().wait()
        return Response(Told("x"))

    async with serving(handler) as server, connected(server.address) as connection:
        with pytest.raises(DeadlineExceeded) as found:
            await connection.request(Ask("never"), deadline=0.05)
        text = str(found.value)
        assert text.startswith(f"no answer to Ask from shard-1 at {server.address} after 0.1 s")
        assert text.endswith("check that peer, or raise cluster.deadline")
        assert not connection.closed
        assert (await connection.request(Ask("x"), deadline=5)).message == Told("x")
        assert len(connection._asking) == 0


@pytest.mark.parametrize("how", ["deadline", "cancel"])
@pytest.mark.parametrize("cut", [0, 100, 300_000])
@both_loops
async def test_views_are_not_written_after_a_request_gave_up(how: str, cut: int) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    size = 500_000

    async def serve(raw: Raw) -> None:
        header, _, _ = await raw.read()
        arrived.set()
        reply = frame(Told("x"), header.request, Flags.REPLY, b"\1" * size)
        raw.send(reply[:cut])
        await go_on.wait()
        raw.send(reply[cut:])
        while True:
            header, _, _ = await raw.read()
            raw.send(frame(Told("next"), header.request, Flags.REPLY))

    async with raw_server(serve) as address, connected(address) as connection:
        into = bytearray(size)
        asked = asyncio.create_task(
            connection.request(
                Ask("x"), deadline=0.1 if how == "deadline" else 5, into=[memoryview(into)]
            )
        )
        if how == "cancel":
            await arrived.wait()
            await until(lambda: into.count(1) >= cut - 100)
            asked.cancel()
        with pytest.raises((DeadlineExceeded, asyncio.CancelledError)):
            await asked
        before = bytes(into)
        go_on.set()
        assert (await connection.request(Ask("y"), deadline=5)).message == Told("next")
        assert into == before


@both_loops
async def test_a_server_that_closes_cancels_what_is_under_way_and_fails_what_is_asked() -> None:
    cancelled = []

    async def handler(request: Request) -> Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.message.word)
            raise
        return Response(Told("never"))

    budget = Budget()
    async with serving(handler, budget=budget) as server, connected(server.address) as connection:
        asked = [
            asyncio.create_task(connection.request(Ask(word), [bytes(100_000)], deadline=5))
            for word in "abc"
        ]
        await until(lambda: budget.held >= 300_000)
        one_more = asyncio.create_task(connection.request(Ask("d"), deadline=5))
        await asyncio.sleep(0)
        await server.close(5.0)
        for task in [*asked, one_more]:
            with pytest.raises(ConnectionLost, match="the connection to shard-1 at .* ended"):
                await task
        assert set(cancelled) >= set("abc")
        assert budget.held == 0
        with pytest.raises(ConnectionLost):
            await connection.request(Ask("x"), deadline=5)


@both_loops
async def test_closing_tells_those_who_asked_to_know() -> None:
    told = []
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        request.connection.add_close_callback(lambda: told.append("server"))
        return Response(Told("x"))

    async with serving(handler) as server:
        async with connected(server.address) as connection:
            connection.add_close_callback(lambda: told.append("client"))
            await connection.request(Ask("x"), deadline=5)
        connection.add_close_callback(lambda: told.append("late"))
        assert [one for one in told if one != "server"] == ["client", "late"]
        await until(lambda: "server" in told)
        assert repr(connection).endswith("closed>")
        assert seen[0].connection.remote == YOU


# Links


@both_loops
async def test_links_share_one_connection_and_make_it_anew() -> None:
    links = Links(YOU, SECRET)
    async with serving(tell) as server:
        address = server.address
        await asyncio.gather(*(links.request(address, Ask("x"), deadline=5) for _ in range(20)))
        assert len(server.connections) == 1
        for connection in server.connections:
            connection.abort()
        await until(lambda: repr(links) == "<Links to nobody>")
        assert (await links.request(address, Ask("y"), deadline=5)).message == Told("y")
        assert repr(links) == f"<Links to {address}>"
    with pytest.raises((ConnectionLost, Unreachable)):
        await links.request(address, Ask("x"), deadline=1)
    await links.close()
    with pytest.raises(ConnectionLost, match="this peer is leaving"):
        await links.request(address, Ask("x"), deadline=1)


@both_loops
async def test_who_waits_for_anothers_connection_keeps_its_own_deadline() -> None:
    async def mute(raw: Raw) -> None:
        await raw.rest()

    links = Links(YOU, SECRET)
    async with raw_server(mute, shake=False) as address:
        patient = asyncio.create_task(links.request(address, Ask("x"), deadline=30))
        await asyncio.sleep(0)
        with pytest.raises(Unreachable, match=r"no connection within 0\.1 s"):
            await links.request(address, Ask("y"), deadline=0.1)
        patient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await patient
    await links.close()


@both_loops
async def test_a_connection_made_while_leaving_does_not_stay() -> None:
    links = Links(YOU, SECRET)
    async with serving(tell) as server:
        asked = asyncio.create_task(links.request(server.address, Ask("x"), deadline=5))
        await until(lambda: len(server.connections) == 1)
        await links.close()
        with pytest.raises(ConnectionLost):
            await asked
        await until(lambda: server.connections == [])


@both_loops
async def test_a_port_in_use_is_named() -> None:
    async with serving(tell) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(AddressInUse, match=f"port {port} of 127.0.0.1 is in use"):
            await Server(ME, SECRET, tell).listen("127.0.0.1", port)


@both_loops
async def test_addresses_of_ip_6_are_written_with_brackets() -> None:
    seen = []

    def handler(request: Request) -> Response:
        seen.append(request.connection.address)
        return tell(request)

    try:
        async with serving(handler, host="::1") as server:
            assert server.address.startswith("[::1]:")
            async with connected(server.address) as connection:
                await connection.request(Ask("x"), deadline=5)
            assert seen[0].startswith("[::1]:")
    except ParamserverError as error:
        pytest.skip(f"no IPv6 here: {error}")


@both_loops
async def test_bodies_wait_for_room_in_the_budget_in_their_order() -> None:
    budget = Budget(1 << 20)
    turn = itertools.count()
    order: list[tuple[int, str]] = []
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        order.append((next(turn), request.message.word))
        await gate.wait()
        return tell(request)

    async with serving(handler, budget=budget) as server:
        links = [Links(YOU, SECRET) for _ in range(4)]
        asked = []
        for word, one in zip("abcd", links, strict=True):
            await one.connection(server.address, 5)
            asked.append(
                asyncio.create_task(
                    one.request(server.address, Ask(word), [bytes(1 << 20)], deadline=5)
                )
            )
            await until(lambda: len(order) == 1)
            await until(lambda: repr(budget).endswith(f"{len(asked) - 1} waiting>"))
        assert budget.held == 1 << 20
        gate.set()
        for task in asked:
            assert (await task).message.size == 1 << 20
        assert [word for _, word in order] == list("abcd")
        for one in links:
            await one.close()


@both_loops
async def test_a_connection_that_ends_while_it_waits_for_room_leaves_the_queue() -> None:
    budget = Budget(1 << 20)
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return tell(request)

    async with serving(handler, budget=budget) as server, connected(server.address) as holder:
        first = asyncio.create_task(holder.request(Ask("a"), [bytes(1 << 20)], deadline=5))
        await until(lambda: budget.held > 0)
        async with connected(server.address) as other:
            second = asyncio.create_task(other.request(Ask("b"), [bytes(9000)], deadline=5))
            await until(lambda: "1 waiting" in repr(budget))
            server.connections[-1].abort()
            with pytest.raises(ConnectionLost):
                await second
        assert "0 waiting" in repr(budget)
        gate.set()
        assert (await first).message == Told("a", 1 << 20)
