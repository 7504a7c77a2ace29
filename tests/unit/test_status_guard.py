"""Which Host headers are answered."""

from __future__ import annotations

import pytest

from paramserver.status.guard import allowed, host_of


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost:80", "localhost"),
        (" 127.0.0.1:7000 ", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:7000", "::1"),
        ("host.example:1", "host.example"),
        ("", None),
        (":80", None),
        ("[::1", None),
        ("[evil]:80", None),
        ("[::1]x", None),
        ("[::1]80", None),
        ("::1", None),
        ("host:http", None),
        ("host:80:80", None),
        ("host:٣", None),
        ("user@127.0.0.1:80", "user@127.0.0.1"),
    ],
)
def test_the_host_of_a_header(header: str, host: str | None) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    "header", ["localhost", "127.0.0.1:1", "127.9.9.9", "[::1]:5", "status.lan:9", "10.0.0.5:80"]
)
def test_names_that_no_foreign_site_can_own_are_answered(header: str) -> None:
    assert allowed(header, "Status.LAN", "10.0.0.5")


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "127.0.0.1.evil.example:80",
        "localhost.evil.example",
        "user@127.0.0.1:80",
        "10.0.0.6",
        "status.lan.",
        "",
    ],
)
def test_others_are_not(header: str) -> None:
    assert not allowed(header, "status.lan", "10.0.0.5")


def test_a_configured_address_in_brackets_is_itself() -> None:
    assert allowed("[fd00::1]:80", "[FD00::1]", None)
    assert allowed("[fd00:0::1]:80", "::", "fd00::1")
    assert not allowed("evil.example", "0.0.0.0", None)
