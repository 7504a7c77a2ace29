"""Messages: fields are strict, kinds are known, errors name the field."""

import importlib
import pkgutil
from typing import Any

import numpy as np
import pytest

import paramserver.coordination.messages
import paramserver.wire
from paramserver.errors import BadMessage
from paramserver.wire.codec import pack
from paramserver.wire.data import Pull, Pulled
from paramserver.wire.messages import Failure, Hello, Welcome, decode, encode, message

for module in pkgutil.iter_modules(paramserver.wire.__path__):
    importlib.import_module(f"paramserver.wire.{module.name}")


@message(254)
class Sample:
    """A message with one field of each sort."""

    name: str
    pairs: list[tuple[int, int]]
    maybe: float | None
    array: np.ndarray[Any, Any] | None = None
    words: list[str] = []  # noqa: RUF012


@pytest.mark.parametrize(
    "sent",
    [
        Sample("a", [(1, 2)], None),
        Sample("a", [], 2.5, None, ["x"]),
        Welcome(),
        Failure("Moved", "elsewhere", {"epoch": 3}),
        Pull("model", [(1, 2), (3, 4)], None),
        Pulled(True, [(1, 2, 3)]),
    ],
    ids=lambda sent: type(sent).__name__,
)
def test_a_message_travels(sent: Any) -> None:
    kind, meta = encode(sent)
    assert decode(kind, meta) == sent


def test_an_array_travels_in_a_message() -> None:
    kind, meta = encode(Sample("a", [], None, np.arange(3)))
    assert np.array_equal(decode(kind, meta).array, [0, 1, 2])


def test_a_default_is_not_shared() -> None:
    first = decode(254, pack({"name": "a", "pairs": [], "maybe": None}))
    second = decode(254, pack({"name": "a", "pairs": [], "maybe": None}))
    assert first.words == []
    assert first.words is not second.words


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, r"Sample\.name: Field required"),
        ({"name": 5}, r"Sample\.name: Input should be a valid string"),
        ({"name": b"a"}, r"Sample\.name"),
        ({"pairs": [[1, 2, 3]]}, r"Sample\.pairs\.0"),
        ({"pairs": [[1, "2"]]}, r"Sample\.pairs\.0\.1"),
        ({"pairs": [[1, True]]}, r"Sample\.pairs\.0\.1"),
        ({"pairs": "ab"}, r"Sample\.pairs"),
        ({"maybe": "1"}, r"Sample\.maybe"),
        ({"array": [1]}, r"Sample\.array"),
        ({"surplus": 1}, r"Sample\.surplus: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named(values: dict[str, Any], text: str) -> None:
    good = {"name": "a", "pairs": [], "maybe": None}
    with pytest.raises(BadMessage, match=text):
        decode(254, pack({**good, **values} if values else {}))


@pytest.mark.parametrize("meta", [b"", b"\x90", b"\xc0", b"\x81\x01\x02", b"\x81\xc4\x01a\x02"])
def test_what_is_no_map_of_fields_is_refused(meta: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(254, meta)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BadMessage, match="unknown kind of message 253"):
        decode(253, pack({}))


@pytest.mark.parametrize("kind", [0, 256, 254, 1])
def test_a_kind_is_given_once(kind: int) -> None:
    with pytest.raises(ValueError, match="taken or out of range"):
        message(kind)(type("Another", (), {"__annotations__": {}}))


def test_the_hello_of_today_is_read_by_every_later_release() -> None:
    # Both sides of a cluster are upgraded one after the other: these bytes must stay readable.
    assert encode(Hello("c", "n", 1, "peer", b"\0" * 16)) == (
        1,
        b"\x85\xa7cluster\xa1c\xa4name\xa1n\xabincarnation\x01\xa4role\xa4peer"
        b"\xa5nonce\xc4\x10" + b"\0" * 16,
    )
