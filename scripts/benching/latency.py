"""Small pushes and pulls between two processes, against a bare echo."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import cast

import numpy as np

from benching.cluster import Tables, joined, pull, shard_side, spec_of
from benching.comparing import compare
from benching.conversation import Conversation
from benching.printing import Sheet
from benching.processes import Side, begun, side
from benching.rows import Case, Ready
from benching.suites import Settings, Suite
from paramserver.client import Copy, TableClient
from paramserver.slices import aligned

SIZE = 1024
TRIPS = 1000
QUICK_TRIPS = 50


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure both kinds of trip on both sides."""
    server, client = settings.pair
    async with AsyncExitStack() as stack:

        async def started(name: str, core: int, address: str = "", *, ours: bool) -> Side:
            return await stack.enter_async_context(
                side("latency", name, settings, ours=ours, cores=(core,), address=address)
            )

        shard = await started("shard", server, ours=True)
        echo = await started("echo_server", server, ours=False)
        await begun(shard, echo)
        ours = await started("ours", client, shard.address, ours=True)
        other = await started("echo_client", client, echo.address, ours=False)
        await begun(ours, other)
        sheet.note(f"on both sides the server on core {server}, the client on core {client}")
        trips = [Case(f"{kind}/1kB", "µs", given={"kind": kind}) for kind in ("push", "pull")]
        await compare(sheet, "latency", trips, ours, {"uvloop echo": other}, settings.turns)


SUITE = Suite(
    "latency",
    "a push and a pull of 1 kB, one after another, against a bare uvloop echo of 1 kB",
    ("medians; the push is applied (asp, sgd) and acknowledged",),
    run,
)


async def median_trip(trip: Callable[[], Awaitable[object]], *, quick: bool) -> dict[str, float]:
    """Return the median seconds of many trips, one after another."""
    times = []
    for _ in range(QUICK_TRIPS if quick else TRIPS):
        start = time.perf_counter()
        await trip()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times)}


class Ours:
    """A worker's small pushes and pulls."""

    def __init__(self, tables: Tables, *, quick: bool) -> None:
        self._tables = tables
        self._quick = quick
        self._table: TableClient | None = None
        self._copy = Copy(SIZE // 4)
        self._gradient = aligned(SIZE // 4)
        self._gradient[:] = np.random.default_rng(1).random(SIZE // 4, np.float32)

    async def prepare(self, kind: str) -> Ready:
        """Create the table, and warm up."""
        if self._table is None:
            self._table = await self._tables.create("small", spec_of(SIZE // 4, bsp=False))
        self._trip = self._push if kind == "push" else self._pull
        await self.measure()
        return Ready()

    async def _push(self) -> None:
        assert self._table is not None
        await self._table.push(self._gradient, computed_from=self._copy, finite=True)

    async def _pull(self) -> None:
        assert self._table is not None
        await pull(self._table, self._copy)

    async def measure(self) -> dict[str, float]:
        """Push, or pull."""
        return await median_trip(self._trip, quick=self._quick)


class EchoServer(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self._transport.write(data)


class EchoClient(asyncio.Protocol):
    """Sends 1 kB and waits until as much has come back."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick
        self._body = bytes(SIZE)
        self._missing = 0
        self._back: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """End the trip under way."""
        if self._back is not None and not self._back.done():
            self._back.set_exception(error or ConnectionResetError("the echo is gone"))

    def data_received(self, data: bytes) -> None:
        """Count what came back."""
        self._missing -= len(data)
        if self._missing == 0 and self._back is not None:
            self._back.set_result(None)

    def _trip(self) -> asyncio.Future[None]:
        self._missing = SIZE
        back = self._back = asyncio.get_running_loop().create_future()
        self._transport.write(self._body)
        return back

    async def prepare(self, kind: str) -> Ready:
        """Warm up; an echo is both push and pull."""
        await self.measure()
        return Ready()

    async def measure(self) -> dict[str, float]:
        """Have it echoed."""
        return await median_trip(self._trip, quick=self._quick)


async def ours_side(conversation: Conversation) -> None:
    """Push and pull as asked."""
    settings = conversation.settings
    async with joined(settings["address"]) as tables:
        await conversation.answer("", Ours(tables, quick=settings["quick"]))


async def echo_server_side(conversation: Conversation) -> None:
    """Echo."""
    server = await asyncio.get_running_loop().create_server(EchoServer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    await conversation.serve(f"{host}:{port}")


async def echo_client_side(conversation: Conversation) -> None:
    """Ask for echoes as asked."""
    settings = conversation.settings
    host, _, port = settings["address"].rpartition(":")
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: EchoClient(quick=settings["quick"]), host, int(port)
    )
    await conversation.answer("", client)


SIDES = {
    "shard": shard_side,
    "ours": ours_side,
    "echo_server": echo_server_side,
    "echo_client": echo_client_side,
}
