"""The receiving half of a connection, as a machine of buffers: no sockets.

It tells where the next bytes shall go (`Receiver.get_buffer`) and makes frames of them
(`Receiver.buffer_updated`). Headers and metas pass through a scratch buffer, so that a small frame is
one read; a body goes straight to its place: memory from the budget, or the views that the requester
of a reply gave. Where the budget has no room now, the receiver is stalled: the caller stops reading
until `resume`.
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


class Place(Protocol):
    """Where a body goes."""

    views: Sequence[memoryview]

    def release(self) -> None:
        """Give the memory back."""


class Discard:
    """A place for a body that nobody waits for: the same bytes over and over."""

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
        self.limits = limits
        self._choose = choose
        self._scratch = bytearray(SCRATCH)
        self._view = memoryview(self._scratch)
        self._start = 0
        self._stop = 0
        self._header: Header | None = None
        self._meta = b""
        self._place: Place | None = None
        self._views: list[memoryview] = []
        self._filled = 0
        self.stalled = False

    def __repr__(self) -> str:
        return f"<Receiver of {self._header}, {self._stop - self._start} bytes waiting>"

    def get_buffer(self) -> memoryview:
        """Return where the next bytes shall go; never empty while not stalled."""
        if self._views:
            return self._views[0][self._filled :]
        if self._start == self._stop:
            self._start = self._stop = 0
        elif self._stop == len(self._scratch):
            waiting = bytes(self._view[self._start : self._stop])
            self._view[: len(waiting)] = waiting
            self._start, self._stop = 0, len(waiting)
        return self._view[self._stop :]

    def buffer_updated(self, count: int) -> list[Frame]:
        """Take ``count`` bytes written into the buffer; return the frames they complete.

        Raises:
            ProtocolError: these bytes are no frame, or one beyond the limits.
        """
        frames: list[Frame] = []
        if self._views:
            self._advance(count, frames)
        else:
            self._stop += count
        self._parse(frames)
        return frames

    def resume(self) -> list[Frame]:
        """Go on after a stall; return the frames that were waiting."""
        self.stalled = False
        frames: list[Frame] = []
        self._parse(frames)
        return frames

    def forget(self, request: int) -> None:
        """Send the rest of a reply's body nowhere: its requester has gone, and with it its views."""
        header = self._header
        if header is not None and header.request == request and self._views:
            left = sum(len(view) for view in self._views) - self._filled
            self._place = Discard(left)
            self._views = list(self._place.views)
            self._filled = 0

    def _parse(self, frames: list[Frame]) -> None:
        while not self.stalled and not self._views:
            if self._header is None and not self._parse_header():
                return
            header = self._header
            assert header is not None
            if header.body:
                self._place = self._choose(header)
                if self._place is None:
                    self.stalled = True
                    return
                self._views = [view for view in self._place.views if len(view)]
                self._filled = 0
                self._take_waiting(frames)
            else:
                self._complete(frames)

    def _parse_header(self) -> bool:
        """Read header and meta where they are all here; say whether they were."""
        waiting = self._stop - self._start
        if waiting < HEADER_SIZE:
            return False
        header = parse_header(self._view[self._start : self._start + HEADER_SIZE], self.limits)
        whole = HEADER_SIZE + header.meta
        if waiting < whole:
            if whole > len(self._scratch):
                self._grow(whole)
            return False
        begin = self._start + HEADER_SIZE
        self._meta = bytes(self._view[begin : begin + header.meta])
        self._start += whole
        self._header = header
        return True

    def _grow(self, size: int) -> None:
        waiting = bytes(self._view[self._start : self._stop])
        self._scratch = bytearray(size)
        self._view = memoryview(self._scratch)
        self._view[: len(waiting)] = waiting
        self._start, self._stop = 0, len(waiting)

    def _take_waiting(self, frames: list[Frame]) -> None:
        """Move what of the body is in the scratch buffer to its place."""
        while self._views and self._start < self._stop:
            target = self._views[0]
            count = min(self._stop - self._start, len(target) - self._filled)
            target[self._filled : self._filled + count] = self._view[
                self._start : self._start + count
            ]
            self._start += count
            self._advance(count, frames)

    def _advance(self, count: int, frames: list[Frame]) -> None:
        self._filled += count
        if self._filled == len(self._views[0]):
            self._views.pop(0)
            self._filled = 0
            if not self._views:
                self._complete(frames)

    def _complete(self, frames: list[Frame]) -> None:
        header, place = self._header, self._place
        assert header is not None
        if header.flags & Flags.CHECKSUM and place is not None and not isinstance(place, Discard):
            found = checksum_of(list(place.views))
            if found != header.checksum:
                raise BadFrame(f"the body of {header} was damaged on its way")
        self._header, self._place = None, None
        frames.append(Frame(header, self._meta, place))
