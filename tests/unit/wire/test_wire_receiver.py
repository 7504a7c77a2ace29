"""The receiver: bytes become frames, bodies go where they belong, also when things go wrong."""

from collections.abc import Iterable

import pytest

from paramserver.errors import BadFrame, ProtocolError, TooLarge
from paramserver.wire.frames import BEFORE_HANDSHAKE, Flags, Header, Limits, checksum_of
from paramserver.wire.protocol import Discard, Frame, Place, Receiver

LIMITS = Limits(meta=200_000, body=1 << 20)


class Owned:
    """A place that counts how often it was released."""

    def __init__(self, *lengths: int) -> None:
        self.whole = [bytearray(length) for length in lengths]
        self.views = [memoryview(one) for one in self.whole]
        self.released = 0

    def release(self) -> None:
        self.released += 1

    def content(self) -> bytes:
        return b"".join(self.whole)


class Chooser:
    """Gives an `Owned` place for every body while there is ``room``."""

    def __init__(self, room: bool = True) -> None:
        self.room = room
        self.places: list[Owned] = []

    def __call__(self, header: Header) -> Place | None:
        if not self.room:
            return None
        self.places.append(Owned(header.body))
        return self.places[-1]


def frame(
    request: int = 1,
    meta: bytes = b"meta",
    body: bytes = b"",
    flags: Flags = Flags.NONE,
    checksum: int | None = None,
) -> bytes:
    value = 0
    if flags & Flags.CHECKSUM:
        value = checksum_of([memoryview(body)]) if checksum is None else checksum
    return Header(9, flags, request, 0, len(meta), len(body), value).serialize() + meta + body


def opened(choose: Chooser, limits: Limits = LIMITS) -> Receiver:
    receiver = Receiver(BEFORE_HANDSHAKE, choose)
    receiver.open(limits)
    return receiver


def frames_of(receiver: Receiver) -> list[Frame]:
    found = []
    while (one := receiver.next_frame()) is not None:
        found.append(one)
    return found


def feed(receiver: Receiver, data: bytes, step: int | None = None) -> list[Frame]:
    """Write ``data`` as a transport does, ``step`` bytes at most each time."""
    found: list[Frame] = []
    left = memoryview(data)
    while len(left):
        buffer = receiver.get_buffer()
        assert len(buffer), "a transport takes an empty buffer for an error"
        count = min(len(buffer), len(left), step or len(left))
        buffer[:count] = left[:count]
        receiver.buffer_updated(count)
        left = left[count:]
        found += frames_of(receiver)
    return found


def bodies(frames: Iterable[Frame]) -> list[bytes]:
    return [b"" if one.place is None else b"".join(one.place.views) for one in frames]


@pytest.mark.parametrize("step", [1, 7, 39, 40, 41, 4096, None])
def test_frames_come_in_order_whatever_the_pieces(step: int | None) -> None:
    data = frame(1, b"") + frame(2, b"m" * 500, b"b" * 300) + frame(3, b"x", b"c") + frame(4)
    found = feed(opened(Chooser()), data, step)
    assert [one.header.request for one in found] == [1, 2, 3, 4]
    assert [one.meta for one in found] == [b"", b"m" * 500, b"x", b"meta"]
    assert bodies(found) == [b"", b"b" * 300, b"c", b""]


def test_a_large_body_is_written_to_its_place_by_the_transport() -> None:
    choose = Chooser()
    receiver = opened(choose)
    assert feed(receiver, frame(body=b"\1" * 500_000)[:100]) == []
    buffer = receiver.get_buffer()
    assert buffer.obj is choose.places[0].whole[0]
    assert len(buffer) == 500_000 - (100 - 44)


def test_a_body_may_lie_in_several_views_some_empty() -> None:
    place = Owned(0, 3, 0, 5, 70_000, 0)
    receiver = Receiver(LIMITS, lambda _: place)
    data = bytes(range(256)) * 274
    found = feed(receiver, frame(body=data[:70_008]), 1000)
    assert len(found) == 1
    assert place.content() == data[:70_008]


def test_a_meta_larger_than_the_scratch_buffer_is_read_and_the_memory_given_back() -> None:
    receiver = opened(Chooser())
    found = feed(receiver, frame(meta=b"m" * 150_000, body=b"b") + frame(2), 10_000)
    assert [len(one.meta) for one in found] == [150_000, 4]
    assert len(receiver.get_buffer()) <= 64 * 1024


def test_a_stranger_costs_little() -> None:
    receiver = Receiver(BEFORE_HANDSHAKE, Chooser())
    assert len(receiver.get_buffer()) <= 4096
    with pytest.raises(TooLarge):
        feed(receiver, frame(meta=b"m" * 4097))


@pytest.mark.parametrize(
    ("announced", "limits"),
    [
        (Header(9, 0, 1, 0, 200_001, 0), LIMITS),
        (Header(9, 0, 1, 0, 0, (1 << 20) + 1), LIMITS),
        (Header(9, 0, 1, 0, 0, 1), BEFORE_HANDSHAKE),
        (Header(9, 0, 1, 0, 2**32 - 1, 2**64 - 1), LIMITS),
    ],
)
def test_no_place_is_chosen_for_what_is_too_large(announced: Header, limits: Limits) -> None:
    choose = Chooser()
    receiver = Receiver(limits, choose)
    with pytest.raises(TooLarge):
        feed(receiver, announced.serialize())
    assert choose.places == []


def test_limits_rise_between_two_frames_of_one_read() -> None:
    receiver = Receiver(BEFORE_HANDSHAKE, Chooser())
    data = frame(1) + frame(2, body=b"body")
    receiver.get_buffer()[: len(data)] = data
    receiver.buffer_updated(len(data))
    first = receiver.next_frame()
    assert first is not None
    receiver.open(LIMITS)
    assert bodies(frames_of(receiver)) == [b"body"]


# Checksums


def test_a_damaged_body_is_refused_and_its_place_released() -> None:
    choose = Chooser()
    receiver = opened(choose)
    good = feed(receiver, frame(1, body=b"body", flags=Flags.CHECKSUM))
    assert bodies(good) == [b"body"]
    with pytest.raises(BadFrame, match="damaged on its way"):
        feed(receiver, frame(2, body=b"body", flags=Flags.CHECKSUM, checksum=5))
    receiver.close()
    assert [place.released for place in choose.places] == [0, 1]


def test_frames_before_a_bad_one_are_served() -> None:
    receiver = opened(Chooser())
    data = frame(1) + frame(2) + b"garbage" * 10
    receiver.get_buffer()[: len(data)] = data
    receiver.buffer_updated(len(data))
    assert receiver.next_frame() is not None
    assert receiver.next_frame() is not None
    with pytest.raises(ProtocolError):
        receiver.next_frame()


# Stalls


def test_a_body_without_room_waits_and_what_follows_waits_too() -> None:
    choose = Chooser(room=False)
    receiver = opened(choose)
    assert feed(receiver, frame(1)) != []
    assert feed(receiver, frame(2, body=b"body") + frame(3)) == []
    assert receiver.stalled
    assert frames_of(receiver) == []
    place = Owned(4)
    receiver.resume(place)
    assert not receiver.stalled
    found = frames_of(receiver)
    assert [one.header.request for one in found] == [2, 3]
    assert place.content() == b"body"


def test_a_stall_in_the_middle_of_a_body_goes_on_with_its_rest() -> None:
    receiver = opened(Chooser(room=False))
    data = frame(2, body=b"0123456789")
    assert feed(receiver, data[:-6]) == []
    place = Owned(10)
    receiver.resume(place)
    assert frames_of(receiver) == []
    assert [one.place for one in feed(receiver, data[-6:])] == [place]
    assert place.content() == b"0123456789"


def test_closed_in_a_stall_nothing_more_is_made() -> None:
    receiver = opened(Chooser(room=False))
    feed(receiver, frame(2, body=b"body"))
    receiver.close()
    assert frames_of(receiver) == []
    assert not receiver.incomplete


# Forgetting


REPLY = Flags.REPLY


@pytest.mark.parametrize("cut", [0, 30, 44, 45, 50, 1043, 1044])
def test_forgotten_views_are_not_written_any_more(cut: int) -> None:
    choose = Chooser()
    receiver = opened(choose)
    data = frame(1, body=b"\1" * 1000, flags=REPLY) + frame(2, b"next", b"\2", REPLY)
    found = feed(receiver, data[:cut])
    before = [place.content() for place in choose.places]
    receiver.forget(1)
    found += feed(receiver, data[cut:])
    assert [one.header.request for one in found] == [1, 2]
    if before and cut < 1044:
        assert choose.places[0].content() == before[0]
        assert choose.places[0].released == 1


def test_only_the_reply_of_that_number_is_forgotten() -> None:
    for flags, number in ((Flags.NONE, 1), (REPLY, 2)):
        choose = Chooser()
        receiver = opened(choose)
        data = frame(1, body=b"\1" * 1000, flags=flags)
        feed(receiver, data[:500])
        receiver.forget(number)
        assert bodies(feed(receiver, data[500:])) == [b"\1" * 1000]
        assert choose.places[0].released == 0


def test_a_forgotten_body_has_no_checksum() -> None:
    receiver = opened(Chooser())
    data = frame(1, body=b"\1" * 1000, flags=REPLY | Flags.CHECKSUM)
    feed(receiver, data[:500])
    receiver.forget(1)
    assert len(feed(receiver, data[500:])) == 1


# The end


def test_a_half_filled_place_is_released_at_the_end() -> None:
    choose = Chooser()
    receiver = opened(choose)
    feed(receiver, frame(1, body=b"\1" * 1000)[:500])
    assert receiver.incomplete
    buffer = receiver.get_buffer()
    receiver.close()
    receiver.close()
    assert choose.places[0].released == 1
    buffer[:10] = b"\7" * 10
    receiver.buffer_updated(10)
    assert frames_of(receiver) == []


def test_discarded_bytes_take_no_memory_of_their_size() -> None:
    place = Discard(10_000_000)
    assert sum(map(len, place.views)) == 10_000_000
    assert len({id(view.obj) for view in place.views}) == 1
    assert len(place.views[0].obj) <= 64 * 1024
    assert list(Discard(0).views) == []
