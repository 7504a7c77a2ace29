"""Server-sent events: what listeners get, how many there may be, and how they end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientResponse, ClientSession

from paramserver.status.events import MOST_LISTENERS
from paramserver.status.server import StatusServer


class Peer:
    """A document that counts how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.ballast = ""

    def status(self) -> dict[str, Any]:
        self.asked += 1
        return {"version": 1, "asked": self.asked, "ballast": self.ballast}


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def server(peer: Peer) -> AsyncIterator[StatusServer]:
    made = StatusServer(peer.status, lambda: ("ok", "ok"))
    await made.start("127.0.0.1", 0)
    yield made
    await made.close()


@pytest.fixture
async def client(server: StatusServer) -> AsyncIterator[ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=20)
    async with ClientSession(
        f"http://{server.address}", connector=connector, timeout=timeout
    ) as session:
        yield session


async def event(answer: ClientResponse) -> dict[str, Any]:
    line = await answer.content.readline()
    assert line.startswith(b"data: "), line
    assert await answer.content.readline() == b"\n"
    document: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return document


async def listeners(server: StatusServer, count: int) -> None:
    """Wait until the server has this many listeners."""
    async with asyncio.timeout(10):
        # A listener comes and goes inside the server, which tells nobody but its repr.
        while f", {count} of " not in repr(server):
            await asyncio.sleep(0.01)


async def test_the_first_document_comes_at_once_and_one_each_second(
    client: ClientSession, peer: Peer
) -> None:
    async with client.get("/events") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        assert (await event(answer))["asked"] == 1
        await event(answer)
        before = time.monotonic()
        assert (await event(answer))["asked"] == 3
        assert 0.5 < time.monotonic() - before < 5


async def test_listeners_share_each_seconds_document(client: ClientSession, peer: Peer) -> None:
    answers = [await client.get("/events") for _ in range(5)]
    for answer in answers:
        await event(answer)
    first = peer.asked
    assert len({(await event(answer))["asked"] for answer in answers}) <= 2
    assert peer.asked - first <= 2
    for answer in answers:
        answer.close()


async def test_nothing_is_made_when_nobody_listens(
    client: ClientSession, server: StatusServer, peer: Peer
) -> None:
    async with client.get("/events") as answer:
        await event(answer)
    await listeners(server, 0)
    asked = peer.asked
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    # The next whole second of the loop's clock is when a listener would get its document.
    loop.call_at(int(loop.time()) + 1.05, passed.set_result, None)
    await asyncio.wait_for(passed, 5)
    assert peer.asked == asked


async def test_one_listener_too_many_is_503_until_one_leaves(
    client: ClientSession, server: StatusServer
) -> None:
    answers = [await client.get("/events") for _ in range(MOST_LISTENERS)]
    assert all(answer.status == 200 for answer in answers)
    async with client.get("/events") as refused:
        assert refused.status == 503
        assert refused.headers["Retry-After"]
        assert "poll /status" in await refused.text()
    async with client.get("/status") as status:
        assert status.status == 200
    answers.pop().close()
    await listeners(server, MOST_LISTENERS - 1)
    async with client.get("/events") as answer:
        assert answer.status == 200
    for answer in answers:
        answer.close()


async def test_a_listener_that_does_not_read_is_dropped(
    server: StatusServer, client: ClientSession, peer: Peer
) -> None:
    assert server.address is not None
    host, port = server.address.split(":")
    peer.ballast = "x" * 20_000_000
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await listeners(server, 1)
    # The loop is not held up meanwhile.
    async with client.get("/livez") as answer:
        assert answer.status == 200
    await listeners(server, 0)
    peer.ballast = ""
    # Its connection ended; what the kernel held of the document may still come.
    async with asyncio.timeout(10):
        received = 0
        while data := await reader.read(1 << 20):
            received += len(data)
    assert received < 10_000_000
    writer.close()


async def test_close_ends_listeners_in_good_order(
    client: ClientSession, server: StatusServer
) -> None:
    answers = [await client.get("/events") for _ in range(3)]
    for answer in answers:
        await event(answer)
    before = time.monotonic()
    await server.close()
    assert time.monotonic() - before < 1.0
    for answer in answers:
        rest = await answer.content.read()
        assert rest == b"" or rest.endswith(b"\n\n")


async def test_close_does_not_wait_for_a_listener_that_does_not_read(
    server: StatusServer, peer: Peer
) -> None:
    assert server.address is not None
    host, port = server.address.split(":")
    peer.ballast = "x" * 20_000_000
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await listeners(server, 1)
    before = time.monotonic()
    await server.close()
    assert time.monotonic() - before < 1.0
    writer.transport.abort()
