"""What leaves a connection: frames onto a transport, and whose memory they still need.

A transport may go on reading the memory that it was given after its ``write`` has returned: uvloop
and asyncio from 3.12 on keep references to what the operating system did not take at once. The memory
behind a frame is free only when the operating system has taken the frame's last byte, or the
connection is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence

from paramserver.transport.exchange import Buffer
from paramserver.wire.frames import Flags, Header, Limits, check_size, checksum_of

SMALL = 64 * 1024
"""Bodies up to here are copied behind their header and leave with one system call."""


class Outbox:
    """Writes frames onto ``transport``; bodies carry a checksum where asked for."""

    def __init__(self, transport: asyncio.Transport, checksum: bool) -> None:
        self._transport = transport
        self._checksum = checksum
        self._unsent: deque[tuple[int, Callable[[], None]]] = deque()
        self._written = 0
        self._seen = (0, 0.0)
        # With a low and a high mark of zero the transport tells each time that its buffer is empty.
        transport.set_write_buffer_limits(high=0)

    def __repr__(self) -> str:
        return f"<Outbox of {self.waiting} bytes, {len(self._unsent)} bodies unsent>"

    @property
    def waiting(self) -> int:
        """The bytes that the operating system has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """The bytes that the operating system has taken so far."""
        return self._written - self.waiting

    def write(
        self,
        kind: int,
        meta: bytes,
        flags: int,
        number: int,
        attempt: int,
        body: Sequence[Buffer],
        limits: Limits,
        on_sent: Callable[[], None] | None,
    ) -> None:
        """Write one frame; ``on_sent`` is called when the body's memory is free again.

        Raises:
            TooLarge: it is beyond the limits; nothing was written, ``on_sent`` is not called.
        """
        if not body:
            check_size(len(meta), 0, limits)
            head = Header(kind, flags, number, attempt, len(meta), 0).serialize()
            self._put(head + meta)
        else:
            pieces = [flat(piece) for piece in body]
            length = sum(map(len, pieces))
            check_size(len(meta), length, limits)
            checksum = 0
            if self._checksum and length:
                flags |= Flags.CHECKSUM
                checksum = checksum_of(pieces)
            header = Header(kind, flags, number, attempt, len(meta), length, checksum)
            if length <= SMALL:
                self._put(b"".join((header.serialize(), meta, *pieces)))
            else:
                self._put(header.serialize() + meta)
                for piece in pieces:
                    self._put(piece)
                if on_sent is not None:
                    self.when_sent(on_sent)
                return
        if on_sent is not None:
            on_sent()

    def _put(self, data: bytes | memoryview) -> None:
        self._written += len(data)
        self._transport.write(data)

    def when_sent(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once the memory of all written so far is free; at once if it is."""
        if self.waiting:
            self._unsent.append((self._written, call))
        else:
            call()

    def stalled(self, now: float, seconds: float) -> bool:
        """Say whether nothing was taken for ``seconds``, as far as calls of this could see."""
        taken = self.taken
        if taken != self._seen[0] or not self.waiting:
            self._seen = (taken, now)
        return now - self._seen[1] > seconds

    async def flush(self, seconds: float) -> None:
        """Wait until all written so far has left, for ``seconds`` at most."""
        empty = asyncio.Event()
        self.when_sent(empty.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await empty.wait()

    def settle(self) -> None:
        """Let go of the memory of the frames that have left."""
        if self._unsent:
            taken = self.taken
            while self._unsent and self._unsent[0][0] <= taken:
                self._unsent.popleft()[1]()

    def let_go(self) -> None:
        """Let go of all memory: the transport is gone."""
        while self._unsent:
            self._unsent.popleft()[1]()

    def cut(self) -> None:
        """End the connection so that not one more byte leaves.

        To abort the transport is not enough: uvloop may write once more before it closes.
        """
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.fileno() != -1:
            with contextlib.suppress(OSError), raw.dup() as twin:
                twin.shutdown(socket.SHUT_RDWR)
        self._transport.abort()


def flat(piece: Buffer) -> memoryview:
    """Return a view of bytes of any contiguous buffer."""
    view = memoryview(piece)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
