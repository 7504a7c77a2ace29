"""Goodput of push and pull between two processes, against a raw socket."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import AsyncExitStack

import numpy as np

from benching.cluster import Tables, joined, pull, shard_side, spec_of
from benching.comparing import compare
from benching.conversation import Conversation
from benching.printing import Sheet
from benching.processes import Side, begun, side
from benching.rows import Case, Ready
from benching.suites import Settings, Suite
from paramserver.client import Copy, TableClient
from paramserver.doctor.pair import receive
from paramserver.errors import ConnectionLost
from paramserver.slices import aligned
from paramserver.waiting import first_error

KINDS = ("pull", "held", "applied")
SIZES = (1, 4, 16, 64)
"""MiB of one transfer."""
A_TURN = 128 << 20
A_QUICK_TURN = 4 << 20
"""Bytes that a turn moves, in two transfers at least."""

HEADER = struct.Struct("<?Q")
"""What the raw client asks with: whether it wants bytes or brings them, and how many."""
DONE = b"."


def cases(quick: bool) -> list[Case]:
    """Return the transfers, named by kind and size."""
    return [
        Case(f"{kind}/{mib}MiB", "GB/s", 1e-9 * (mib << 20), {"kind": kind, "size": mib << 20})
        for kind in KINDS
        for mib in (SIZES[:1] if quick else SIZES)
    ]


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure every transfer on both sides."""
    async with AsyncExitStack() as stack:

        async def started(name: str, address: str = "", *, ours: bool) -> Side:
            return await stack.enter_async_context(
                side("wire", name, settings, ours=ours, address=address)
            )

        shard = await started("shard", ours=True)
        raw = await started("raw_server", ours=False)
        await begun(shard, raw)
        ours = await started("ours", shard.address, ours=True)
        other = await started("raw_client", raw.address, ours=False)
        await begun(ours, other)
        transfers = cases(settings.quick)
        sheet.note(f"both sides on cores {', '.join(str(core) for core in settings.cores)}")
        await compare(sheet, "wire", transfers, ours, {"raw socket": other}, settings.turns)


SUITE = Suite(
    "wire",
    "pushes and pulls between a worker and a shard, against a raw blocking socket",
    (
        "pulled; held by the shard (bsp, two parts a clock, the second first); applied (asp, sgd)",
        "one transfer after another, each side in two processes over loopback",
    ),
    run,
)


def transfers_of(size: int, *, quick: bool) -> int:
    """Return how many transfers make a turn; an even number, since a bsp clock takes two."""
    return max((A_QUICK_TURN if quick else A_TURN) // size // 2 * 2, 2)


class Ours:
    """A worker's pushes and pulls."""

    def __init__(self, tables: Tables, *, quick: bool) -> None:
        self._tables = tables
        self._quick = quick
        self._made: dict[tuple[bool, int], TableClient] = {}
        self._clocks: dict[int, int] = {}

    async def prepare(self, kind: str, size: int) -> Ready:
        """Create the table that is needed, and take a turn to make its memory real."""
        self._kind, self._size, bsp = kind, size // 4, kind == "held"
        table = self._made.get((bsp, size))
        if table is None:
            name = f"{'bsp' if bsp else 'asp'}-{size}"
            table = await self._tables.create(name, spec_of(self._size, bsp=bsp))
            self._made[bsp, size] = table
        self._table = table
        self._copy = Copy(self._size)
        self._gradient = aligned(self._size)
        self._gradient[:] = np.random.default_rng(1).random(self._size, np.float32)
        await self.measure()
        return Ready()

    async def measure(self) -> dict[str, float]:
        """Transfer, one after another."""
        count = transfers_of(self._size * 4, quick=self._quick)
        if self._kind == "held":
            return {"seconds": sum([await self._clock() for _ in range(count // 2)]) / count}
        start = time.perf_counter()
        for _ in range(count):
            if self._kind == "pull":
                await pull(self._table, self._copy)
            else:
                await self._table.push(self._gradient, computed_from=self._copy, finite=True)
        return {"seconds": (time.perf_counter() - start) / count}

    async def _clock(self) -> float:
        """Push both parts of a clock, the second first; return the seconds until both were held.

        The part that comes first has to wait for the other. The clock's close is not timed.
        """
        clock = self._clocks.get(self._size, 0)
        self._clocks[self._size] = clock + 1
        took = 0.0
        try:
            async with asyncio.TaskGroup() as group:
                for part in (1, 0):
                    held = asyncio.Event()
                    start = time.perf_counter()
                    group.create_task(
                        self._table.push_part(
                            self._gradient, clock=clock, part=part, examples=1, held=held.set
                        )
                    )
                    await held.wait()
                    took += time.perf_counter() - start
        except BaseExceptionGroup as several:
            raise first_error(several) from several
        return took


class RawSocket:
    """Blocking calls on a plain socket; the parent's deadline holds for them."""

    def __init__(self, address: str, *, quick: bool) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._quick = quick

    async def prepare(self, kind: str, size: int) -> Ready:
        """Make the memory, and take a turn to make it real."""
        self._wants = kind == "pull"
        self._buffer = bytearray(size)
        await self.measure()
        return Ready()

    async def measure(self) -> dict[str, float]:
        """Transfer, one after another."""
        count = transfers_of(len(self._buffer), quick=self._quick)
        header = HEADER.pack(self._wants, len(self._buffer))
        view = memoryview(self._buffer if self._wants else bytearray(DONE))
        start = time.perf_counter()
        for _ in range(count):
            self._socket.sendall(header)
            if not self._wants:
                self._socket.sendall(self._buffer)
            if not receive(self._socket, view):
                raise ConnectionLost("the raw socket's other end is gone")
        return {"seconds": (time.perf_counter() - start) / count}


async def ours_side(conversation: Conversation) -> None:
    """Push and pull as asked."""
    settings = conversation.settings
    async with joined(settings["address"]) as tables:
        await conversation.answer("", Ours(tables, quick=settings["quick"]))


async def raw_client_side(conversation: Conversation) -> None:
    """Send and receive as asked."""
    settings = conversation.settings
    await conversation.answer("", RawSocket(settings["address"], quick=settings["quick"]))


async def raw_server_side(conversation: Conversation) -> None:
    """Serve one connection with blocking calls."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        conversation.tell(address=f"{host}:{port}")
        client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    header = memoryview(bytearray(HEADER.size))
    buffer = bytearray()
    while receive(client, header):
        wanted, size = HEADER.unpack(header)
        if len(buffer) != size:
            buffer = bytearray(size)
        if wanted:
            client.sendall(buffer)
        elif receive(client, memoryview(buffer)):
            client.sendall(DONE)


SIDES = {
    "shard": shard_side,
    "ours": ours_side,
    "raw_server": raw_server_side,
    "raw_client": raw_client_side,
}
