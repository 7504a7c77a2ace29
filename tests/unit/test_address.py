"""ZooKeeper addresses as people write them."""

import pytest

from paramserver.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("one", Address((("one", 2181),))),
        (
            "one:2182,10.0.0.2,[::1]:7/a/b/",
            Address((("one", 2182), ("10.0.0.2", 2181), ("::1", 7)), "/a/b"),
        ),
        ("one:1/", Address((("one", 1),))),
    ],
)
def test_servers_ports_and_a_path(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "one:",
        "one:0",
        "one:65536",
        "one:x",
        "one two",
        "one//a",
        "one/a b",
        "/a",
        "::1",
        "a..b",
        "a" * 64,
        "one/..",
        "one/a/.",
        "one\n",
        "one/a\n",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        parse_address(text)


def test_an_address_is_shown_as_it_is_written() -> None:
    assert str(parse_address("one,two:3/a")) == "one:2181,two:3/a"
    assert str(parse_address("[::1]:7")) == "[::1]:7"
