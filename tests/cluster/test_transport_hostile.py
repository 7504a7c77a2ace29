"""Garbage, strangers, liars and the mute: each ends its own connection and nothing else."""

import asyncio
import contextlib
import random
import struct
import zlib
from typing import Any

import pytest

from paramserver.errors import (
    AuthenticationFailed,
    BadMessage,
    ConnectionLost,
    NotReady,
    ParamserverError,
    Refused,
    Unreachable,
    VersionMismatch,
)
from paramserver.transport.connection import Identity, Request, connect
from paramserver.transport.memory import Budget
from paramserver.transport.server import Server
from paramserver.wire.frames import Flags, Header
from paramserver.wire.handshake import ClientHandshake
from paramserver.wire.messages import Failure, Hello, Proof, Welcome, encode
from tests.support.wire import (
    SECRET,
    YOU,
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

HELLO = frame(ClientHandshake(YOU, SECRET).hello)


def of_version(data: bytes, version: int) -> bytes:
    """Return a frame as another version of the protocol would begin it."""
    plain = data[:2] + bytes([version]) + data[3:36]
    return plain + struct.pack("<I", zlib.crc32(plain)) + data[40:]


async def still_serves(server: Server) -> None:
    """Ask once as a peer does, and see that nobody else is left."""
    async with connected(server.address) as connection:
        assert (await connection.request(Ask("x"), [b"abc"], deadline=5)).message == Told("x", 3)
    await until(lambda: server.connections == [])


STRANGE = {
    "http": b"GET / HTTP/1.1\r\nHost: shard\r\nUser-Agent: curl/8.0\r\n\r\n",
    "short http": b"GET / HTTP/1.0\r\n\r\n",
    "tls": bytes.fromhex("16030100f8010000f40303") + bytes(240),
    "zeros": bytes(5000),
    "nothing": b"",
    "half a header": HELLO[:20],
    "half a hello": HELLO[:-3],
    "large meta": Header(1, 0, 0, 0, 4097, 0).serialize(),
    "huge meta": Header(1, 0, 0, 0, 2**32 - 1, 0).serialize(),
    "a body": Header(1, 0, 0, 0, 10, 1).serialize(),
    "a huge body": Header(1, 0, 0, 0, 10, 2**64 - 1).serialize(),
    "proof first": frame(Proof(b"x" * 32)),
    "welcome first": frame(Welcome()),
    "a request first": frame(Ask("x"), 1),
    "a reply first": frame(Told("x"), 1, Flags.REPLY),
    "a message of others": frame(Ask("x")),
    "hello twice": HELLO + HELLO,
    "hello, wrong proof": HELLO + frame(Proof(b"x" * 32)),
    "hello, request": HELLO + frame(Ask("x"), 1),
    "hello, garbage": HELLO + b"\xff" * 100,
    "a farewell": frame(Failure("Evicted", "go away", {"text": 1, "self": 2})),
    "no map": Header(1, 0, 0, 0, 1, 0).serialize() + b"\xc0",
    "no msgpack": Header(1, 0, 0, 0, 1, 0).serialize() + b"\xc1",
    "bomb": Header(1, 0, 0, 0, 4096, 0).serialize() + b"\xdd\0\0\x0f\xff" * 819 + b"\xc0",
    "newlines": frame(Hello("north", "a\nb", 1, "peer", bytes(16))),
    "no nonce": frame(Hello("north", "a", 1, "peer", b"")),
    "another version": of_version(HELLO, 2),
}


@pytest.mark.parametrize("name", STRANGE)
@both_loops
async def test_strangers_are_shown_the_door(name: str) -> None:
    budget = Budget()
    async with serving(tell, budget=budget, handshake_deadline=0.1) as server:
        async with raw_client(server.address, shake=False) as raw:
            raw.send(STRANGE[name])
            await raw.rest()
        await still_serves(server)
        assert budget.held == 0


@both_loops
async def test_random_bytes_and_endings_leave_nothing_behind() -> None:
    rng = random.Random(1)
    async with serving(tell) as server:

        async def stranger(shake: bool, data: bytes) -> None:
            async with raw_client(server.address, shake=shake) as raw:
                raw.send(data)
                if rng.random() < 0.5:
                    with contextlib.suppress(ConnectionError):
                        await raw.writer.drain()
                    raw.writer.transport.abort()

        valid = frame(Ask("x"), 1, body=b"body" * 5000)
        for _ in range(60):
            damaged = bytearray(valid)
            for _ in range(rng.randrange(3)):
                damaged[rng.randrange(100)] ^= 1 << rng.randrange(8)
            cut = rng.randrange(len(valid))
            shake = rng.random() < 0.7
            await stranger(shake, rng.choice([rng.randbytes(500), bytes(damaged), valid[:cut]]))
        for connection in server.connections:
            connection.abort()
        await still_serves(server)


@both_loops
async def test_who_never_speaks_is_dropped_and_told_why() -> None:
    async with serving(tell, handshake_deadline=0.05) as server:
        async with raw_client(server.address, shake=False) as raw:
            header, message, _ = await raw.read()
            assert header.request == 0
            assert "did not finish the handshake in 0.05 s" in message.text
            assert await raw.rest() == b""
        await still_serves(server)


@both_loops
async def test_a_connected_peer_outlives_the_deadline_of_the_handshake() -> None:
    async with (
        serving(tell, handshake_deadline=0.05) as server,
        connected(server.address) as connection,
        raw_client(server.address) as raw,
    ):
        async with raw_client(server.address, shake=False) as mute:
            await mute.rest()
        assert (await connection.request(Ask("x"), deadline=5)).message == Told("x")
        raw.send(frame(Ask("x"), 1))
        assert (await raw.read())[1] == Told("x")


AFTER = {
    "garbage": b"\xff" * 100,
    "too large": Header(240, 0, 1, 0, 10, 2**40).serialize(),
    "damaged": frame(Ask("x"), 1, Flags.CHECKSUM, b"body", checksum=1),
    "an unknown flag": (lambda plain: plain + struct.pack("<I", zlib.crc32(plain)))(
        Header(240, 8, 1, 0, 10, 0).serialize()[:36]
    ),
    "hello again": HELLO,
    "no request": frame(Ask("x")),
    "no request, a body": frame(Ask("x"), body=bytes(100_000)),
}


@pytest.mark.parametrize("name", AFTER)
@both_loops
async def test_a_peer_that_breaks_the_protocol_is_told_and_left(name: str) -> None:
    async with serving(tell) as server, connected(server.address) as other:
        async with raw_client(server.address) as raw:
            raw.send(frame(Ask("before"), 7) + AFTER[name])
            assert (await raw.read())[1] == Told("before")
            header, message, _ = await raw.read()
            assert header.request == 0
            assert isinstance(message, Failure)
            assert await raw.rest() == b""
        assert (await other.request(Ask("x"), deadline=5)).message == Told("x")


@both_loops
async def test_a_request_that_cannot_be_read_fails_alone() -> None:
    budget = Budget()
    kind, _ = encode(Ask("x"))
    bad = [
        Header(99, 0, 1, 0, 1, 4).serialize() + b"\x80body",
        Header(kind, 0, 1, 0, 1, 4).serialize() + b"\x80body",
        Header(kind, 0, 1, 0, 1, 4).serialize() + b"\xc1body",
        Header(kind, 0, 1, 0, 0, 4).serialize() + b"body",
        frame(Proof(b""), 1, body=b"body"),
    ]
    async with serving(tell, budget=budget) as server, raw_client(server.address) as raw:
        for data in bad[:-1]:
            raw.send(data)
            header, message, _ = await raw.read()
            assert (header.request, message.code) == (1, "BadMessage")
            assert budget.held == 0
        raw.send(frame(Ask("x"), 2))
        assert (await raw.read())[1] == Told("x")


# What a client meets


@both_loops
async def test_another_secret_names_both_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    text = "worker-1 and shard-1 of cluster north hold different secrets: give both the same "
    async with serving(tell) as server:
        with pytest.raises(AuthenticationFailed, match=text):
            await connect(server.address, YOU, b"another", deadline=5)
        await still_serves(server)
    there, here = sorted(record.getMessage() for record in caplog.records)
    assert text in there
    assert text in here
    # One is the listening side's: the other's address is not the one that was listened at.
    assert {server.address in there, server.address in here} == {True, False}


@both_loops
async def test_a_stranger_writes_one_plain_line_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with serving(tell) as server:
        async with raw_client(server.address, shake=False) as raw:
            raw.send(HELLO + frame(Failure("AuthenticationFailed", "a\n2026 \x1b[2Jb\u2028c", {})))
            await raw.rest()
        await still_serves(server)
    (said,) = (record.getMessage() for record in caplog.records if "2026" in record.getMessage())
    assert said.endswith(": a 2026  [2Jb c")


@both_loops
async def test_another_cluster_is_named() -> None:
    async with serving(tell) as server:
        with pytest.raises(AuthenticationFailed, match="'south', the server of 'north'"):
            await connect(server.address, Identity("south", "a", 1), SECRET, deadline=5)
        await still_serves(server)


@both_loops
async def test_another_version_is_named_by_either_side() -> None:
    newer = of_version(frame(Welcome()), 2)
    async with raw_server(replies(lambda _: newer), shake=False) as address:
        with pytest.raises(VersionMismatch, match=f"{address}: the other side speaks protocol 2"):
            await connect(address, YOU, SECRET, deadline=5)

    text = "the other side speaks protocol 1, this is 0: install the same release on both"
    older = frame(Failure("VersionMismatch", text, {}))
    async with raw_server(replies(lambda _: older), shake=False) as address:
        with pytest.raises(VersionMismatch, match=f"cannot work with {address}: .* this is 0"):
            await connect(address, YOU, SECRET, deadline=5)


@both_loops
async def test_nobody_there_is_told_within_the_deadline() -> None:
    async def mute(raw: Raw) -> None:
        await raw.rest()

    async def gone(raw: Raw) -> None:
        await raw.close()

    async def banner(raw: Raw) -> None:
        raw.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and more than forty bytes\r\n")
        await raw.rest()

    async with raw_server(mute, shake=False) as address:
        with pytest.raises(Unreachable, match=f"reach {address}: no answer within 0.1 s"):
            await connect(address, YOU, SECRET, deadline=0.1)
    with pytest.raises(Unreachable, match=f"cannot reach {address}: "):
        await connect(address, YOU, SECRET, deadline=5)
    async with raw_server(gone, shake=False) as address:
        with pytest.raises(Unreachable, match=f"cannot reach {address}: .* in the handshake"):
            await connect(address, YOU, SECRET, deadline=5)
    async with raw_server(banner, shake=False) as address:
        with pytest.raises(Unreachable, match="does not speak this protocol: .*SSH-2.0"):
            await connect(address, YOU, SECRET, deadline=5)


@pytest.mark.parametrize(
    "address", ["", "nowhere", "host:port", "127.0.0.1:99999", "127.0.0.1:-1", "x" * 300 + ":1"]
)
@both_loops
async def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(Unreachable):
        await connect(address, YOU, SECRET, deadline=5)


@both_loops
async def test_no_socket_file_is_told() -> None:
    with pytest.raises(Unreachable, match="unix:/nowhere/peer.sock"):
        await connect("unix:/nowhere/peer.sock", YOU, SECRET, deadline=5)


@both_loops
async def test_a_stranger_cannot_speak_for_the_cluster() -> None:
    lie = frame(Failure("Evicted", "you were dropped", {"self": 1, "text": 2}))
    async with raw_server(replies(lambda _: lie), shake=False) as address:
        with pytest.raises(Unreachable, match="refused: you were dropped"):
            await connect(address, YOU, SECRET, deadline=5)


@both_loops
async def test_cancelled_in_the_handshake_nothing_is_left() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def mute(raw: Raw) -> None:
        began.set()
        await raw.rest()
        ended.set()

    async with raw_server(mute, shake=False) as address:
        connecting = asyncio.create_task(connect(address, YOU, SECRET, deadline=5))
        await began.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(ended.wait(), 5)


# A server that lies


@both_loops
async def test_false_replies_harm_nobody_else() -> None:
    def stray(number: int) -> bytes:
        return (
            frame(Told("x"), number + 77, Flags.REPLY, bytes(100_000))
            + frame(Told("x"), number, Flags.REPLY | Flags.INTERIM, bytes(100_000))
            + frame(Told("good"), number, Flags.REPLY)
            + frame(Told("again"), number, Flags.REPLY, b"again")
        )

    def unreadable(number: int) -> bytes:
        return Header(99, Flags.REPLY, number, 0, 1, 0).serialize() + b"\xc1"

    def failure(number: int) -> bytes:
        return frame(
            Failure("NoSuchError", "no", {"text": 1, "self": 2, "x": 3}), number, Flags.REPLY
        )

    def unasked(number: int) -> bytes:
        return frame(Ask("x"), 5, body=bytes(100_000)) + frame(Told("y"), number, Flags.REPLY)

    serve = replies(stray, unreadable, failure, unasked)
    async with raw_server(serve) as address, connected(address) as connection:
        assert (await connection.request(Ask("x"), deadline=5)).message == Told("good")
        with pytest.raises(BadMessage):
            await connection.request(Ask("x"), deadline=5)
        with pytest.raises(Refused, match="no") as found:
            await connection.request(Ask("x"), deadline=5)
        assert found.value.detail == {"x": 3}
        assert (await connection.request(Ask("x"), deadline=5)).message == Told("y")


@pytest.mark.parametrize(
    "make",
    [
        lambda number: b"\xff" * 100,
        lambda number: frame(Told("x"), number, Flags.REPLY | Flags.CHECKSUM, b"body", checksum=1),
        lambda number: frame(Failure("NotReady", "leaving", {})),
        lambda number: frame(Told("x"), number, Flags.REPLY)[:-1] + b"",
    ],
    ids=["garbage", "damaged", "farewell", "half"],
)
@both_loops
async def test_a_connection_that_ends_fails_its_requests_and_says_why(make: Any) -> None:
    async def serve(raw: Raw) -> None:
        header, _, _ = await raw.read()
        raw.send(make(header.request))
        await raw.writer.drain()

    async with raw_server(serve) as address, connected(address) as connection:
        with pytest.raises(ConnectionLost, match="the connection to shard-1 at .* ended before"):
            await connection.request(Ask("x"), deadline=5, into=[memoryview(bytearray(4))])
        with pytest.raises(ConnectionLost):
            await connection.request(Ask("x"), deadline=5)


# Too many


@both_loops
async def test_when_it_is_full_strangers_go_first_and_newcomers_are_told() -> None:
    async with serving(tell, most_connections=2) as server:
        async with raw_client(server.address, shake=False) as stranger:
            await until(lambda: len(server.connections) == 1)
            async with connected(server.address) as one:
                async with connected(server.address) as two:
                    assert "connections already: try again later" in (await stranger.read())[1].text
                    with pytest.raises(NotReady, match="shard-1 has 2 connections already"):
                        await connect(server.address, YOU, SECRET, deadline=5)
                    for connection in (one, two):
                        await connection.request(Ask("x"), deadline=5)
                await until(lambda: len(server.connections) == 1)
                async with connected(server.address) as three:
                    await three.request(Ask("x"), deadline=5)
        await until(lambda: server.connections == [])


@both_loops
async def test_hundreds_of_strangers_cost_little() -> None:
    async with serving(tell, handshake_deadline=5) as server:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(200):
                await stack.enter_async_context(raw_client(server.address, shake=False))
            await until(lambda: len(server.connections) == 200)
            held = sum(len(one._receiver._scratch) for one in server.connections)
            assert held <= 200 * 4096
            async with connected(server.address) as connection:
                await connection.request(Ask("x"), deadline=5)
        await still_serves(server)


@both_loops
async def test_a_handler_may_close_the_connection_it_serves() -> None:
    async def handler(request: Request) -> Any:
        await request.connection.close()

    async with serving(handler) as server, connected(server.address) as connection:
        with pytest.raises(ParamserverError):
            await connection.request(Ask("x"), deadline=5)
