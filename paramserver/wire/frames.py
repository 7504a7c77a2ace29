"""Frames: a fixed header, a small meta (msgpack), then raw bytes.

The header is 40 bytes, little endian: magic ``PS``, protocol version u8, three bytes of zero, kind
u8, flags u8, request u32, attempt u32, meta length u32, body length u64, body checksum u64 (xxh3-64,
where the flag says so), and the CRC-32 of the 36 bytes before. The first three bytes stay what they
are in every version of the protocol, so that a mismatch is always told as such.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, NamedTuple

import xxhash

from paramserver.errors import BadFrame, TooLarge, VersionMismatch

PROTOCOL = 1
MAGIC = b"PS"
_PLAIN = struct.Struct("<2sBHBBBIIIQQ")
_WHOLE = struct.Struct("<2sBHBBBIIIQQI")
_CHECK = struct.Struct("<I")
HEADER_SIZE = _WHOLE.size
_BEGIN = (MAGIC, PROTOCOL, 0, 0)


class Flags(IntFlag):
    """What a frame is."""

    NONE = 0
    REPLY = 1
    INTERIM = 2
    CHECKSUM = 4


_KNOWN = int(Flags.REPLY | Flags.INTERIM | Flags.CHECKSUM)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one frame may hold, in bytes."""

    meta: int = 1 << 20
    body: int = 64 << 20


BEFORE_HANDSHAKE = Limits(meta=4096, body=0)


class Header(NamedTuple):
    """A frame's header."""

    kind: int
    flags: int
    request: int
    attempt: int
    meta: int
    body: int
    checksum: int = 0

    def __str__(self) -> str:
        return f"kind {self.kind} request {self.request} ({self.meta} + {self.body} bytes)"

    def serialize(self) -> bytes:
        """Return the header's 40 bytes."""
        plain = _PLAIN.pack(*_BEGIN, *self)
        return plain + _CHECK.pack(zlib.crc32(plain))


def parse_header(data: bytes | bytearray | memoryview, limits: Limits) -> Header:
    """Read the 40 bytes of a header and hold it against the limits.

    Raises:
        BadFrame: these bytes are no header.
        VersionMismatch: they are one of another protocol version.
        TooLarge: it announces more than the limits allow.
    """
    fields = _WHOLE.unpack(data)
    whole = fields[11] == zlib.crc32(data[:-4])
    if fields[:4] != _BEGIN or not whole or fields[5] & ~_KNOWN:
        raise _fault(fields, bytes(data[:16]), whole)
    header: Header = tuple.__new__(Header, fields[4:11])
    if header.meta > limits.meta or header.body > limits.body:
        check_size(header.meta, header.body, limits)
    return header


def _fault(fields: tuple[Any, ...], begin: bytes, whole: bool) -> BadFrame | VersionMismatch:
    """Say what is wrong with a header; another layout is seen by its version first."""
    if fields[0] != MAGIC:
        return BadFrame(f"these bytes are no frame: {begin!r}")
    if fields[1] != PROTOCOL:
        return VersionMismatch(
            f"the other side speaks protocol {fields[1]}, this is {PROTOCOL}: "
            "install the same release on both"
        )
    if not whole:
        return BadFrame("the header's checksum is wrong")
    return BadFrame(f"a header that begins {begin[:8].hex()}: some flag has no meaning")


def check_size(meta: int, body: int, limits: Limits) -> None:
    """Refuse a frame beyond the limits.

    Raises:
        TooLarge: it is beyond them.
    """
    if meta > limits.meta or body > limits.body:
        raise TooLarge(
            f"a frame of {meta} + {body} bytes where {limits.meta} + {limits.body} are allowed"
        )


def checksum_of(pieces: Sequence[memoryview]) -> int:
    """Return the xxh3-64 of a body's pieces."""
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
    return digest.intdigest()
