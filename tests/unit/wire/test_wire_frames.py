"""Headers: what is written is read, and what is no header is refused with a clear text."""

import struct
import zlib

import pytest

from paramserver.errors import BadFrame, TooLarge, VersionMismatch
from paramserver.wire.frames import (
    HEADER_SIZE,
    Flags,
    Header,
    Limits,
    check_size,
    checksum_of,
    parse_header,
)

LIMITS = Limits(meta=1000, body=5000)
HEADER = Header(kind=68, flags=Flags.CHECKSUM, request=7, attempt=2, meta=10, body=20, checksum=9)


def resealed(data: bytes) -> bytes:
    """Return a header's bytes with the checksum that belongs to them."""
    return data[:36] + struct.pack("<I", zlib.crc32(data[:36]))


def test_a_header_is_40_bytes_and_reads_back() -> None:
    data = HEADER.serialize()
    assert len(data) == HEADER_SIZE == 40
    assert parse_header(data, LIMITS) == HEADER
    assert str(HEADER) == "kind 68 request 7 (10 + 20 bytes)"


def test_every_damaged_bit_is_seen() -> None:
    data = HEADER.serialize()
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BadFrame, VersionMismatch)):
            parse_header(damaged, LIMITS)


def test_what_is_no_frame_is_shown() -> None:
    with pytest.raises(BadFrame, match="no frame: b'GET / HTTP/1.1"):
        parse_header(b"GET / HTTP/1.1\r\nHost: somewhere.example\r", LIMITS)


def test_another_version_is_named_even_where_the_rest_has_another_layout() -> None:
    with pytest.raises(VersionMismatch, match="speaks protocol 9, this is 1: install the same"):
        parse_header(b"PS\x09" + b"\xff" * 37, LIMITS)


@pytest.mark.parametrize("place", [3, 4, 5, 7])
def test_flags_without_a_meaning_are_refused(place: int) -> None:
    data = bytearray(HEADER.serialize())
    data[place] |= 0x80
    with pytest.raises(BadFrame, match="some flag has no meaning"):
        parse_header(resealed(bytes(data)), LIMITS)


@pytest.mark.parametrize(("meta", "body"), [(1001, 0), (0, 5001), (2**32 - 1, 2**64 - 1)])
def test_sizes_beyond_the_limits_are_refused(meta: int, body: int) -> None:
    header = HEADER._replace(meta=meta, body=body)
    with pytest.raises(TooLarge, match="where 1000 \\+ 5000 are allowed"):
        parse_header(header.serialize(), LIMITS)
    with pytest.raises(TooLarge):
        check_size(meta, body, LIMITS)
    check_size(1000, 5000, LIMITS)


def test_the_checksum_of_pieces_is_that_of_the_whole() -> None:
    whole = bytes(range(256)) * 3
    pieces = [memoryview(whole)[:1], memoryview(whole)[1:500], memoryview(whole)[500:]]
    assert checksum_of(pieces) == checksum_of([memoryview(whole)])
    assert checksum_of(pieces) != checksum_of(pieces[::-1])
