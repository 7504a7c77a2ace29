"""The receiving half of a connection, as a machine of buffers: no sockets.

It tells where the next bytes shall go (`Receiver.get_buffer`), takes note of them
(`Receiver.buffer_updated`) and makes frames of them one by one (`Receiver.next_frame`). Headers and
metas pass through a scratch buffer, so that a small frame is one read; a body goes straight to its
place: memory from the budget, or the views that the requester of a reply gave. Where the budget has
no room now, the receiver is stalled: the caller stops reading until it can `Receiver.resume`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from paramserver.errors import BadFrame
from paramserver.wire.frames import (
    HEADER_SIZE,
    Flags,
    Header,
    Limits,
    checksum_of,
    parse_header,
)

SCRATCH = 64 * 1024
FIRST_SCRATCH = 4096
_REPLY = int(Flags.REPLY)
_CHECKSUM = int(Flags.CHECKSUM)


class Place(Protocol):
    """Where a body goes: as many bytes of views as the body has."""

    views: Sequence[memoryview]

    def release(self) -> None:
        """Give the memory back."""


class Discard:
    """A place for a body that nobody waits for: the same bytes over and over."""

    __slots__ = ("views",)

    def __init__(self, length: int) -> None:
        block = memoryview(bytearray(min(length, SCRATCH)))
        whole, rest = divmod(length, max(len(block), 1))
        self.views: Sequence[memoryview] = [block] * whole + ([block[:rest]] if rest else [])

    def release(self) -> None:
        """Give the memory back: there is none."""


@dataclass(slots=True)
class Frame:
    """A whole frame; ``place`` holds its body, None where it has none."""

    header: Header
    meta: bytes
    place: Place | None

    def __str__(self) -> str:
        return f"<Frame {self.header}>"


class Receiver:
    """Makes frames of bytes. ``choose`` gives a body's place, None where there is no room now."""

    def __init__(self, limits: Limits, choose: Callable[[Header], Place | None]) -> None:
        self._limits = limits
        self._choose = choose
        self._largest = FIRST_SCRATCH
        self._scratch = bytearray(FIRST_SCRATCH)
        self._view = memoryview(self._scratch)
        self._start = 0
        self._stop = 0
        self._header: Header | None = None
        self._meta = b""
        self._place: Place | None = None
        self._views: list[memoryview] = []
        self._filled = 0
        self._closed = False
        self.stalled = False

    def __repr__(self) -> str:
        return f"<Receiver of {self._header}, {self._stop - self._start} bytes waiting>"

    @property
    def incomplete(self) -> bool:
        """Whether it stands in the middle of a frame."""
        return self._header is not None or self._stop > self._start

    def open(self, limits: Limits) -> None:
        """Take frames up to ``limits`` from here on: the other side is known now."""
        self._limits = limits
        self._largest = SCRATCH
        self._resize(SCRATCH)

    def get_buffer(self) -> memoryview:
        """Return where the next bytes shall go; never empty while not stalled."""
        if self._views:
            view = self._views[-1]
            return view[self._filled :] if self._filled else view
        if self._start == self._stop:
            self._start = self._stop = 0
            if len(self._scratch) > self._largest:
                self._resize(self._largest)
        elif self._stop == len(self._scratch):
            self._resize(len(self._scratch))
        return self._view[self._stop :]

    def buffer_updated(self, count: int) -> None:
        """Take note of ``count`` bytes written into the buffer."""
        if self._closed:
            return
        if self._views:
            self._advance(count)
        else:
            self._stop += count

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, None where bytes, or room for a body, are missing.

        Raises:
            ProtocolError: these bytes are no frame, or one beyond the limits.
            VersionMismatch: they are one of another version of the protocol.
        """
        header = self._header
        if header is None:
            if self._stop - self._start < HEADER_SIZE:
                return None
            header = self._next_header()
            if header is None:
                return None
            self._header = header
            if header.body:
                place = self._choose(header)
                if place is None:
                    self.stalled = True
                    return None
                self._begin(place)
        if self.stalled or self._views:
            return None
        place = self._place
        if place is not None and header.flags & _CHECKSUM and _is_damaged(place, header):
            raise BadFrame(f"the body of {header} was damaged on its way")
        self._header = self._place = None
        return Frame(header, self._meta, place)

    def resume(self, place: Place) -> None:
        """Go on after a stall: the body that waited goes to ``place``."""
        self.stalled = False
        self._begin(place)

    def forget(self, request: int) -> None:
        """Send the rest of a reply's body nowhere: its requester has gone, and with it its views."""
        header = self._header
        if (
            self._place is not None
            and header is not None
            and header.flags & _REPLY
            and header.request == request
        ):
            left = sum(map(len, self._views)) - self._filled
            self._place.release()
            self._place = Discard(left)
            self._views = list(self._place.views)
            self._filled = 0

    def close(self) -> None:
        """Take no more: the memory of a half-filled body goes back, what was read is dropped."""
        self._closed = True
        self.stalled = False
        place, self._place = self._place, None
        self._header = None
        self._views = []
        self._start = self._stop = 0
        if place is not None:
            place.release()

    def _next_header(self) -> Header | None:
        """Take header and meta from the scratch buffer; None where the meta is not all here."""
        start = self._start
        begin = start + HEADER_SIZE
        header = parse_header(self._view[start:begin], self._limits)
        end = begin + header.meta
        if end > self._stop:
            if end - start > len(self._scratch):
                self._resize(end - start)
            return None
        self._meta = bytes(self._view[begin:end])
        self._start = end
        return header

    def _resize(self, size: int) -> None:
        """Move what waits to the front of a scratch buffer of ``size`` bytes."""
        waiting = bytes(self._view[self._start : self._stop])
        if size != len(self._scratch):
            self._scratch = bytearray(size)
            self._view = memoryview(self._scratch)
        self._view[: len(waiting)] = waiting
        self._start, self._stop = 0, len(waiting)

    def _begin(self, place: Place) -> None:
        """Fill a place, first with what of the body is in the scratch buffer."""
        self._place = place
        self._views = [view for view in reversed(place.views) if len(view)]
        self._filled = 0
        while self._views and self._start < self._stop:
            target = self._views[-1]
            count = min(self._stop - self._start, len(target) - self._filled)
            begin = self._start
            self._start += count
            target[self._filled : self._filled + count] = self._view[begin : self._start]
            self._advance(count)

    def _advance(self, count: int) -> None:
        self._filled += count
        if self._filled == len(self._views[-1]):
            self._views.pop()
            self._filled = 0


def _is_damaged(place: Place, header: Header) -> bool:
    return not isinstance(place, Discard) and checksum_of(place.views) != header.checksum
