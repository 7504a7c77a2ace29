"""Measure what a pair of processes reaches through our transport, against a raw socket."""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
import time
from dataclasses import dataclass, field

from paramserver.doctor.child import Child, started
from paramserver.doctor.devices import readable
from paramserver.doctor.messages import LARGE, SMALL, Ask
from paramserver.doctor.report import Report
from paramserver.errors import ConnectionLost, ParamserverError
from paramserver.transport.connection import Connection, connect
from paramserver.wire.handshake import Identity

PAIR = "paramserver.doctor.pair"
WITHIN = 10.0
"""Seconds for all of it."""

ANSWER_WITHIN = 5.0
ROUNDS = 5
TRIPS = 100
REPLIES = 4
"""In each round so many small round trips and large replies, ours and the raw socket's in turn."""

IDENTITY = Identity("doctor", "asking", 1, "client")


@dataclass
class Times:
    """Seconds of each round trip and of each large reply."""

    trips: list[float] = field(default_factory=list)
    replies: list[float] = field(default_factory=list)

    @property
    def trip(self) -> float:
        """Median of a small round trip, in µs."""
        return statistics.median(self.trips) * 1e6

    @property
    def goodput(self) -> float:
        """Median rate of large replies, in GB/s."""
        return LARGE / statistics.median(self.replies) / 1e9


class RawSocket:
    """The plain one to compare with: blocking calls, whose deadline the operating system keeps."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN)
        # A Python time-out would put a poll before each call, and so slow the other side down.
        self._socket.settimeout(None)
        limit = struct.pack("ll", int(ANSWER_WITHIN), 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, limit)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._small = bytearray(SMALL)
        self._large = bytearray(LARGE)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, *, large: bool) -> float:
        """Ask for a body, receive it, and return the seconds it took."""
        target = memoryview(self._large if large else self._small)
        request = bytes([large]) + bytes(SMALL - 1)
        start = time.perf_counter()
        self._socket.sendall(request)
        filled = 0
        while filled < len(target):
            count = self._socket.recv_into(target[filled:])
            if not count:
                raise ConnectionLost("the raw socket's other end is gone")
            filled += count
        return time.perf_counter() - start

    def round(self, times: Times) -> None:
        """Measure one round."""
        times.trips += [self.ask(large=False) for _ in range(TRIPS)]
        times.replies += [self.ask(large=True) for _ in range(REPLIES)]


async def served_round(connection: Connection, memory: bytearray, times: Times) -> None:
    """Measure one round through the transport: `SMALL` bytes both ways, `LARGE` into ``memory``."""
    small, large = memoryview(bytearray(SMALL)), memoryview(memory)
    question = bytes(SMALL)
    for _ in range(TRIPS):
        start = time.perf_counter()
        await connection.request(Ask(size=SMALL), [question], into=[small], deadline=ANSWER_WITHIN)
        times.trips.append(time.perf_counter() - start)
    for _ in range(REPLIES):
        start = time.perf_counter()
        await connection.request(Ask(size=LARGE), into=[large], deadline=ANSWER_WITHIN)
        times.replies.append(time.perf_counter() - start)


async def measure_pair() -> tuple[Times, Times]:
    """Return the times through our transport, and over a raw socket.

    Raises:
        ParamserverError: a process or a connection failed.
        OSError: the raw socket failed.
    """
    async with (
        asyncio.timeout(WITHIN),
        started(PAIR, "served", deadline=WITHIN) as served,
        started(PAIR, "raw", deadline=WITHIN) as plain,
    ):
        return await _take_turns(served, plain)


async def _take_turns(served: Child, plain: Child) -> tuple[Times, Times]:
    address = (await served.told())["address"]
    raw = RawSocket((await plain.told())["port"])
    ours, others = Times(), Times()
    try:
        connection = await connect(address, IDENTITY, b"", deadline=ANSWER_WITHIN)
        try:
            memory = bytearray(LARGE)
            # The first round only makes the memory real.
            await served_round(connection, memory, Times())
            await asyncio.to_thread(raw.round, Times())
            for _ in range(ROUNDS):
                await served_round(connection, memory, ours)
                await asyncio.to_thread(raw.round, others)
        finally:
            await connection.close()
    finally:
        raw.close()
    return ours, others


async def examine_pair(report: Report) -> None:
    """Say what a pair of processes reaches, and the ratios, which are better when larger."""
    try:
        ours, raw = await measure_pair()
    except (TimeoutError, BlockingIOError):  # the latter is how the raw socket says it
        report.fault(f"a pair of processes was not measured within {WITHIN:g} s")
        return
    except (ParamserverError, OSError) as error:
        report.fault(f"a pair of processes failed: {error}")
        return
    report.table(
        [
            ["", "ours", "raw socket", "unit", "ratio"],
            [
                "1 kB there and back, median",
                readable(ours.trip),
                readable(raw.trip),
                "µs",
                f"{raw.trip / ours.trip:.2f}",
            ],
            [
                "replies of 16 MiB",
                readable(ours.goodput),
                readable(raw.goodput),
                "GB/s",
                f"{ours.goodput / raw.goodput:.2f}",
            ],
        ],
        "<>><>",
    )
