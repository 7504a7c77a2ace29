"""Any bytes, in any pieces: the wire answers with frames, messages or its own errors."""

import contextlib
import dataclasses
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paramserver.errors import (
    AuthenticationFailed,
    BadFrame,
    BadMessage,
    ProtocolError,
    TooLarge,
    VersionMismatch,
)
from paramserver.transport.memory import Budget, Memory
from paramserver.wire.codec import DTYPES, pack, unpack
from paramserver.wire.frames import (
    BEFORE_HANDSHAKE,
    Flags,
    Header,
    Limits,
    checksum_of,
    parse_header,
)
from paramserver.wire.handshake import NONCE, ClientHandshake, Identity, ServerHandshake
from paramserver.wire.messages import Challenge, Hello, Proof, Welcome, decode
from paramserver.wire.protocol import Discard, Frame, Place, Receiver

LIMITS = Limits(meta=100_000, body=200_000)

headers = st.builds(
    Header,
    kind=st.integers(0, 255),
    flags=st.integers(0, 7),
    request=st.integers(0, 2**32 - 1),
    attempt=st.integers(0, 2**32 - 1),
    meta=st.integers(0, 2**32 - 1),
    body=st.integers(0, 2**64 - 1),
    checksum=st.integers(0, 2**64 - 1),
)


@given(headers)
def test_headers_read_back_or_are_too_large(header: Header) -> None:
    try:
        assert parse_header(header.serialize(), LIMITS) == header
    except TooLarge:
        assert header.meta > LIMITS.meta or header.body > LIMITS.body


@given(st.binary(min_size=40, max_size=40))
def test_any_forty_bytes_are_a_header_or_an_error(data: bytes) -> None:
    with pytest.raises((BadFrame, VersionMismatch)):
        parse_header(data, LIMITS)


# Streams


@dataclasses.dataclass
class Sent:
    """One frame of a stream."""

    request: int
    meta: bytes
    body: bytes
    reply: bool
    checksum: bool

    def serialize(self) -> bytes:
        flags = (Flags.REPLY if self.reply else 0) | (Flags.CHECKSUM if self.checksum else 0)
        value = checksum_of([memoryview(self.body)]) if self.checksum else 0
        header = Header(5, flags, self.request, 0, len(self.meta), len(self.body), value)
        return header.serialize() + self.meta + self.body


def repeated(data: bytes, count: int) -> bytes:
    return data * count


contents = st.one_of(
    st.binary(max_size=50),
    st.builds(repeated, st.binary(min_size=1, max_size=3), st.integers(1, 30_000)),
)
frames = st.builds(Sent, st.integers(1, 5), contents, contents, st.booleans(), st.booleans())
steps = st.lists(st.one_of(st.integers(1, 64), st.integers(1, 70_000)), min_size=1, max_size=20)


class Tracked:
    """A place cut into ``pieces`` views; remembers whether it was released."""

    def __init__(self, length: int, pieces: int) -> None:
        self.data = bytearray(length)
        self.released = 0
        view = memoryview(self.data)
        size = -(-length // pieces)
        self.views = [view[start : start + size] for start in range(0, length, size)]

    def release(self) -> None:
        self.released += 1


class Side:
    """A receiver whose places are watched, and which is stalled now and then."""

    def __init__(self, pieces: int, stalls: list[bool]) -> None:
        self.pieces = pieces
        self.stalls = stalls
        self.places: list[Tracked] = []
        self.wanted: Header | None = None
        self.receiver = Receiver(BEFORE_HANDSHAKE, self.choose)
        self.receiver.open(LIMITS)

    def choose(self, header: Header) -> Place | None:
        if self.stalls and self.stalls.pop():
            self.wanted = header
            return None
        self.places.append(Tracked(header.body, self.pieces))
        return self.places[-1]

    def read(self, data: bytes, sizes: list[int], forget: dict[int, int]) -> list[Frame]:
        """Feed bytes in pieces; before piece ``n`` forget request ``forget[n]``."""
        found: list[Frame] = []
        done = turn = 0
        while done < len(data):
            if turn in forget:
                self.receiver.forget(forget[turn])
            buffer = self.receiver.get_buffer()
            count = min(len(buffer), sizes[turn % len(sizes)], len(data) - done)
            assert count > 0
            buffer[:count] = data[done : done + count]
            self.receiver.buffer_updated(count)
            done += count
            turn += 1
            found += self.drain()
        return found

    def drain(self) -> list[Frame]:
        found = []
        while True:
            frame = self.receiver.next_frame()
            if frame is not None:
                found.append(frame)
            elif self.receiver.stalled:
                assert self.wanted is not None
                self.places.append(Tracked(self.wanted.body, self.pieces))
                self.receiver.resume(self.places[-1])
            else:
                return found


@given(st.lists(frames, max_size=6), steps, st.integers(1, 5), st.lists(st.booleans(), max_size=6))
def test_any_pieces_give_the_same_frames(
    sent: list[Sent], sizes: list[int], pieces: int, stalls: list[bool]
) -> None:
    side = Side(pieces, stalls)
    found = side.read(b"".join(one.serialize() for one in sent), sizes, {})
    assert [one.header.request for one in found] == [one.request for one in sent]
    assert [one.meta for one in found] == [one.meta for one in sent]
    bodies = [b"" if one.place is None else b"".join(one.place.views) for one in found]
    assert bodies == [one.body for one in sent]
    assert not side.receiver.incomplete


@given(
    st.lists(frames, min_size=1, max_size=6),
    steps,
    st.integers(1, 5),
    st.dictionaries(st.integers(0, 30), st.integers(1, 5), max_size=10),
)
def test_whatever_is_forgotten_whenever_the_rest_is_whole(
    sent: list[Sent], sizes: list[int], pieces: int, forget: dict[int, int]
) -> None:
    side = Side(pieces, [])
    found = side.read(b"".join(one.serialize() for one in sent), sizes, forget)
    assert [one.header.request for one in found] == [one.request for one in sent]
    assert [one.meta for one in found] == [one.meta for one in sent]
    forgotten = 0
    for got, one in zip(found, sent, strict=True):
        if isinstance(got.place, Discard):
            assert one.reply
            forgotten += 1
        else:
            assert (b"" if got.place is None else b"".join(got.place.views)) == one.body
    assert sum(place.released for place in side.places) == forgotten


@given(
    st.lists(frames, min_size=1, max_size=4),
    steps,
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
def test_damaged_streams_end_in_an_error_and_leave_no_memory_behind(
    sent: list[Sent], sizes: list[int], damage: list[tuple[int, int]], end: int
) -> None:
    budget = Budget(1 << 20)
    data = bytearray(b"".join(one.serialize() for one in sent))
    for place, bit in damage:
        data[place % len(data)] ^= 1 << bit
    data = data[: end % len(data) + 1]
    receiver = Receiver(LIMITS, lambda header: budget.take(header.body))
    done = turn = 0
    try:
        while done < len(data) and not receiver.stalled:
            buffer = receiver.get_buffer()
            count = min(len(buffer), sizes[turn % len(sizes)], len(data) - done)
            buffer[:count] = data[done : done + count]
            receiver.buffer_updated(count)
            done += count
            turn += 1
            while (frame := receiver.next_frame()) is not None:
                if isinstance(frame.place, Memory):
                    frame.place.release()
    except (ProtocolError, VersionMismatch):
        pass
    receiver.close()
    assert budget.held == 0


# Values

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(plain)
def test_any_plain_value_travels(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=4), st.binary())
def test_any_array_travels_bit_for_bit(name: str, shape: list[int], noise: bytes) -> None:
    dtype = DTYPES[name]
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = (noise * (size // max(len(noise), 1) + 1)).ljust(size, b"\0")[:size]
    if dtype.kind == "b":
        raw = bytes(byte & 1 for byte in raw)
    array = np.frombuffer(raw, dtype).reshape(shape)
    found = unpack(pack(array))
    assert (found.dtype, found.shape, found.tobytes()) == (dtype, array.shape, raw)


@given(st.binary(max_size=200))
@example(b"\x81\xc4\x02nd\xc3")
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with contextlib.suppress(BadMessage):
        unpack(data)


array_fields = st.fixed_dictionaries(
    {},
    optional={
        b"nd": st.booleans() | plain,
        b"type": st.sampled_from([*DTYPES, "|O", "<c8", "|V3", ">f4", "f4,f4"]) | plain,
        b"kind": st.sampled_from([b"", b"O", b"V", "O"]) | plain,
        b"shape": st.lists(st.integers(-2, 4) | st.integers()) | plain,
        b"data": st.binary(max_size=64) | plain,
        b"complex": st.booleans(),
    },
)


@settings(max_examples=300)
@given(array_fields)
def test_any_map_that_looks_like_an_array_is_one_or_an_error(fields: dict[bytes, Any]) -> None:
    try:
        found = unpack(msgpack.packb(fields))
    except (BadMessage, OverflowError):
        return
    if isinstance(found, np.ndarray | np.generic):
        assert found.dtype.str in DTYPES
        assert not found.dtype.hasobject
    else:
        assert b"nd" not in found


@given(st.integers(0, 300), plain | st.dictionaries(st.text(), plain) | array_fields)
def test_any_value_is_a_message_or_an_error(kind: int, value: Any) -> None:
    try:
        data = msgpack.packb(value)
    except (OverflowError, UnicodeEncodeError):
        return
    with contextlib.suppress(BadMessage):
        decode(kind, data)


# The handshake

names = st.text(max_size=5)
nonces = st.binary(min_size=NONCE, max_size=NONCE) | st.binary(max_size=NONCE + 1)
said = st.one_of(
    st.builds(Hello, names, names, st.integers(), names, nonces),
    st.builds(Challenge, names, names, st.integers(), names, nonces, st.binary(max_size=32)),
    st.builds(Proof, st.binary(max_size=32)),
    st.builds(Welcome),
    plain,
)
ME = Identity("c", "n", 1)


@given(st.lists(said, max_size=5))
def test_nobody_without_the_secret_gets_in(messages: list[object]) -> None:
    for side in (ServerHandshake(ME, b"secret"), ClientHandshake(ME, b"secret")):
        for message in messages:
            try:
                side.receive(message)
            except (BadMessage, AuthenticationFailed):
                break
        assert not side.done
        assert side.remote is None
