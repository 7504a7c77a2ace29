"""The codec: small values and arrays travel; nothing unpickles and nothing takes memory unchecked."""

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest

from paramserver.errors import BadMessage
from paramserver.wire.codec import LONGEST, pack, unpack


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def array_map(**changes: Any) -> bytes:
    """Return a packed array of three float32, with some keys changed or, where None, left out."""
    fields: dict[bytes, Any] = {
        b"nd": True,
        b"type": "<f4",
        b"kind": b"",
        b"shape": [3],
        b"data": b"\0" * 12,
    }
    fields.update({key.encode(): value for key, value in changes.items()})
    whole = {key: value for key, value in fields.items() if value is not None}
    return msgpack.packb(whole, use_bin_type=True)


@pytest.mark.parametrize(
    "value",
    [None, True, -5, 2**64 - 1, 1.5, "größe", b"\0\xff", [1, [2, "x"]], {"a": {"b": [None]}}, {}],
)
def test_plain_values_travel(value: Any) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    "code", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (1, 0, 4)])
def test_arrays_travel(code: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2).astype(code).reshape(shape)
    found = unpack(pack({"array": array}))["array"]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert np.array_equal(found, array)


def test_an_array_in_any_order_travels() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)[:, ::2].T
    assert np.array_equal(unpack(pack(array)), array)


def test_scalars_travel_with_their_type() -> None:
    found = unpack(pack(np.float32(1.5)))
    assert found == 1.5
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array([1j]),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.arange(3, dtype=">f4"),
        np.longdouble(1),
        1j,
        {1, 2},
        object(),
        2**64,
        "\ud800",
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_what_may_not_travel_is_not_sent(value: Any) -> None:
    with pytest.raises(BadMessage):
        pack({"value": value})


# The exploits


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    payload = pickle.dumps(Exploit(target))
    pickle.loads(payload)
    assert target.exists(), "the exploit itself must work"
    target.unlink()
    for kind in (b"O", "O"):
        for shape in ([1], [len(payload)], None):
            for name in ("|O", "O", "<f4", b"|O", "|u1"):
                data = array_map(kind=kind, data=payload, type=name, shape=shape)
                with pytest.raises(BadMessage):
                    unpack(data)
                with pytest.raises(BadMessage):
                    unpack(msgpack.packb({"deep": [msgpack.unpackb(data)]}))
    assert not target.exists()


def test_the_library_itself_still_opens_pickles(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    data = array_map(kind=b"O", data=pickle.dumps(Exploit(target)))
    msgpack.unpackb(data, object_hook=msgpack_numpy.decode)
    assert target.exists(), "if this fails, the checks of the codec may become simpler"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "|O", "shape": [1], "data": b"\x41" * 8},
        {"type": "O", "shape": [1], "data": b"\x41" * 8},
        {"type": "<c8", "shape": [1], "data": b"\0" * 8},
        {"type": "<U1"},
        {"type": "|V4"},
        {"type": ">f4"},
        {"type": "<M8[s]", "shape": [1], "data": b"\0" * 8},
        {"type": "f4,f4"},
        {"type": b"<f4"},
        {"type": [["a", "<f4"]], "kind": b"V"},
        {"type": [["a", "<f4"]]},
        {"type": None},
        {"type": 5},
        {"kind": b"V"},
        {"kind": ""},
        {"kind": None},
        {"shape": [4]},
        {"shape": [2]},
        {"shape": [-3]},
        {"shape": [-1, -3]},
        {"shape": [True, 3]},
        {"shape": [3.0]},
        {"shape": ["3"]},
        {"shape": 3},
        {"shape": None},
        {"shape": [1] * 33},
        {"shape": [2**62, 2**62]},
        {"shape": [2**63, 0], "data": b""},
        {"shape": [2**62, 2**62, 0], "data": b""},
        {"data": b"\0" * 11},
        {"data": "\0" * 12},
        {"data": None},
        {"nd": 1},
        {"nd": None},
        {"nd": "yes"},
        {"complex": True},
        {"surplus": 1},
        {"type": "|b1", "data": b"\0\1\2"},
        {"nd": False},
    ],
    ids=str,
)
def test_crafted_arrays_are_refused(changes: dict[str, Any]) -> None:
    data = array_map(**changes)
    if changes == {"nd": None}:
        assert isinstance(unpack(data), dict)
        return
    with pytest.raises(BadMessage):
        unpack(data)


@pytest.mark.parametrize(
    "fields",
    [
        {b"nd": False, b"type": "<f4", b"data": b"\0" * 5},
        {b"nd": False, b"type": "|O", b"data": b"\0" * 8},
        {b"nd": False, b"type": "<c8", b"data": b"\0" * 8},
        {b"nd": False, b"type": "<f4", b"data": b"\0" * 4, b"kind": b"O"},
        {b"complex": True, b"data": b"1+2j"},
        {b"complex": True, b"data": b"1" * 100},
    ],
)
def test_crafted_scalars_are_refused(fields: dict[bytes, Any]) -> None:
    with pytest.raises(BadMessage):
        unpack(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x02",
        b"\xa2\xff\xfe",
        b"\xd4\x05a",
        b"\xc7\x00\x05",
        b"\xd6\xff\0\0\0\0",
        b"\xd7\xff" + b"\xff" * 8,
        b"\x81\x90\x01",
        b"\x81\x81\x01\x02\x03",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 2000 + b"\x01",
        b"\x81\x01" * 2000 + b"\x01",
    ],
)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        unpack(data)


def test_a_message_beyond_the_limit_is_not_read() -> None:
    with pytest.raises(BadMessage, match="where 1048576 are allowed"):
        unpack(b"\0" * (LONGEST + 1))


@pytest.mark.parametrize("opening", [b"\xdd", b"\xdf"], ids=["lists", "maps"])
@pytest.mark.parametrize("size", [1000, LONGEST])
def test_nested_lengths_take_no_memory_that_the_message_cannot_fill(
    opening: bytes, size: int
) -> None:
    level = opening + (size - 1).to_bytes(4, "big") + (b"\x01" if opening == b"\xdf" else b"")
    bomb = (level * min(1000, size // len(level))).ljust(size, b"\xc0")
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage):
            unpack(bomb)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * LONGEST
