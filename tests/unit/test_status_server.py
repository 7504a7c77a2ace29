"""The HTTP server of a peer's status, asked by a real client on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from paramserver.errors import AddressInUse, NotReady
from paramserver.status import server as server_module
from paramserver.status.server import StatusServer
from paramserver.status.site import Site

PATHS = ("/", "/status", "/metrics", "/livez", "/readyz", "/events")


@dataclass
class Peer:
    """What the server under test serves."""

    document: dict[str, Any] = field(default_factory=lambda: {"version": 1, "cluster": "local"})
    ready: tuple[str, str] = ("ok", "ok")


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def server(peer: Peer) -> AsyncIterator[StatusServer]:
    made = StatusServer(lambda: peer.document, lambda: peer.ready)
    await made.start("127.0.0.1", 0)
    yield made
    await made.close()


@pytest.fixture
async def client(server: StatusServer) -> AsyncIterator[ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with ClientSession(f"http://{server.address}", timeout=timeout) as session:
        yield session


async def test_port_0_is_announced_as_bound(server: StatusServer) -> None:
    assert server.address is not None
    host, port = server.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert repr(server) == f"<StatusServer at {server.address}, not asked yet>"
    async with (
        ClientSession(f"http://{server.address}") as session,
        session.get("/livez") as answer,
    ):
        assert await answer.text() == "ok\n"
    shown = f"<StatusServer at {server.address}, <Site, <Events, 0 of 32 listeners>>>"
    assert repr(server) == shown


async def test_the_status_document(client: ClientSession, peer: Peer) -> None:
    peer.document = {
        "version": 1,
        "run": {"loss": math.nan, "ok": (1, math.inf, 2.5)},
        "é": "\ud800",
    }
    async with client.get("/status") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        body = await answer.read()
    assert json.loads(body) == {
        "version": 1,
        "run": {"loss": None, "ok": [1, None, 2.5]},
        "é": "\ud800",
    }
    assert b"\n" not in body


async def test_the_page_needs_its_own_files_only(client: ClientSession) -> None:
    for path, content_type in (
        ("/", "text/html"),
        ("/static/page.js", "text/javascript"),
        ("/static/dom.js", "text/javascript"),
        ("/static/text.js", "text/javascript"),
        ("/static/page.css", "text/css"),
        ("/static/icon.svg", "image/svg+xml"),
    ):
        async with client.get(path) as answer:
            assert answer.status == 200
            assert answer.content_type == content_type
            text = await answer.text()
        # The one address of another host that may be named is SVG's own, which nothing fetches.
        assert "//" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "").replace(
            "// ", ""
        ).replace("`http://${host}", "")
        assert "<style" not in text
        assert "onclick" not in text


async def test_metrics_parse(client: ClientSession) -> None:
    async with client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        names = {family.name for family in text_string_to_metric_families(await answer.text())}
    assert {"paramserver_members", "process_cpu_seconds", "process_open_fds"} <= names
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with client.get("/metrics", headers=accept) as answer:
        assert answer.content_type == "application/openmetrics-text"
        same = {family.name for family in parse_openmetrics(await answer.text())}
    # Only OpenMetrics has a type for constant facts; elsewhere they are a gauge named so.
    assert same - {"paramserver_peer"} == names - {"paramserver_peer_info"}


async def test_two_servers_in_one_process_have_metrics_of_their_own(client: ClientSession) -> None:
    other = StatusServer(lambda: {"members": {"a": {}}}, lambda: ("ok", "ok"))
    address = await other.start("127.0.0.1", 0)
    try:
        async with client.get(f"http://{address}/metrics") as answer:
            assert "\nparamserver_members 1.0\n" in await answer.text()
        async with client.get("/metrics") as answer:
            assert "\nparamserver_members 0.0\n" in await answer.text()
    finally:
        await other.close()


async def test_livez(client: ClientSession, peer: Peer) -> None:
    peer.ready = ("not ready", "starting")
    async with client.get("/livez") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


@pytest.mark.parametrize(
    ("ready", "status", "text"),
    [
        (("ok", "whatever"), 200, "ok\n"),
        (
            ("degraded", "the coordinator\nis away"),
            200,
            "degraded: the coordinator is away\n",
        ),
        (("not ready", "starting"), 503, "not ready: starting\n"),
    ],
)
async def test_readyz(
    client: ClientSession, peer: Peer, ready: tuple[str, str], status: int, text: str
) -> None:
    peer.ready = ready
    async with client.get("/readyz") as answer:
        assert (answer.status, await answer.text()) == (status, text)


async def test_head_is_answered_but_not_on_events(client: ClientSession) -> None:
    for path in PATHS:
        async with client.head(path) as answer:
            assert answer.status == (405 if path == "/events" else 200)
            assert await answer.read() == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_other_methods_are_405(client: ClientSession, method: str) -> None:
    for path in (*PATHS, "/static/page.js", "/nowhere"):
        async with client.request(method, path, data=b"x") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize(
    "path", ["/nowhere", "/static/", "/static/../server.py", "/static/page.html"]
)
async def test_other_paths_are_404(client: ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("path", [*PATHS, "/static/page.js", "/nowhere"])
async def test_a_foreign_host_name_is_403_in_one_line(client: ClientSession, path: str) -> None:
    async with client.get(path, headers={"Host": "rebound.example"}) as answer:
        assert answer.status == 403
        text = await answer.text()
    assert text.count("\n") == 1
    assert "rebound" not in text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:80", "LOCALHOST:65535"])
async def test_loopback_names_are_answered_with_any_port(client: ClientSession, host: str) -> None:
    async with client.get("/livez", headers={"Host": host}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: rebound.example\r\n"])
async def test_none_or_two_host_headers_are_refused(server: StatusServer, hosts: str) -> None:
    assert server.address is not None
    host, port = server.address.split(":")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /status HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.split()[1] in (b"400", b"403")


async def test_every_answer_has_the_security_headers(client: ClientSession) -> None:
    foreign = {"Host": "rebound.example"}
    asked = [(path, {}) for path in (*PATHS, "/static/page.js", "/nowhere")] + [("/", foreign)]
    for path, headers in asked:
        async with client.get(path, headers=headers) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Server"] == "paramserver"
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_port_in_use_is_said(server: StatusServer) -> None:
    assert server.address is not None
    port = int(server.address.split(":")[1])
    other = StatusServer(dict, lambda: ("ok", "ok"))
    with pytest.raises(AddressInUse, match=rf"at 127.0.0.1:{port}: .* set status.port") as caught:
        await other.start("127.0.0.1", port)
    assert caught.value.exit_code == 3
    await other.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_a_host_that_is_not_here_is_said(host: str) -> None:
    server = StatusServer(dict, lambda: ("ok", "ok"))
    with pytest.raises(NotReady, match=r"set status\.host") as caught:
        await server.start(host, 0)
    assert not isinstance(caught.value, AddressInUse)


async def test_a_name_is_listened_on_at_one_address() -> None:
    server = StatusServer(lambda: {"version": 1}, lambda: ("ok", "ok"))
    address = await server.start("localhost", 0)
    try:
        async with ClientSession() as session, session.get(f"http://{address}/status") as answer:
            assert answer.status == 200
    finally:
        await server.close()


async def test_ipv6_is_announced_in_brackets() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here: the address in brackets goes untested")
    server = StatusServer(lambda: {"version": 1}, lambda: ("ok", "ok"))
    address = await server.start("::1", 0)
    try:
        assert address.startswith("[::1]:")
        async with ClientSession() as session, session.get(f"http://{address}/status") as answer:
            assert answer.status == 200
    finally:
        await server.close()


async def test_close_frees_the_port_and_may_come_early_or_twice() -> None:
    server = StatusServer(dict, lambda: ("ok", "ok"))
    await server.close()
    server = StatusServer(dict, lambda: ("ok", "ok"))
    address = await server.start("127.0.0.1", 0)
    await server.close()
    await server.close()
    again = StatusServer(dict, lambda: ("ok", "ok"))
    assert await again.start("127.0.0.1", int(address.split(":")[1])) == address
    await again.close()


async def test_what_cannot_answer_at_first_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = server_module._imported, []

    def imported() -> type[Site]:
        if not failed:
            failed.append(True)
            raise OSError(errno.EMFILE, "Too many open files")
        return real()

    monkeypatch.setattr(server_module, "_imported", imported)
    monkeypatch.setattr(server_module, "RETRY", 0.01)
    server = StatusServer(dict, lambda: ("ok", "ok"))
    address = await server.start("127.0.0.1", 0)
    async with ClientSession() as session, session.get(f"http://{address}/livez") as answer:
        assert await answer.text() == "ok\n"
    assert failed
    await server.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 100, 2000])
async def test_close_may_come_while_the_first_visitor_waits(turns: int) -> None:
    server = StatusServer(dict, lambda: ("ok", "ok"))
    address = await server.start("127.0.0.1", 0)
    host, port = address.split(":")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    again = StatusServer(dict, lambda: ("ok", "ok"))
    assert await again.start(host, int(port)) == address
    await again.close()


async def test_close_takes_less_than_a_second_whatever_clients_do(server: StatusServer) -> None:
    assert server.address is not None
    host, port = server.address.split(":")
    sent = (
        b"",
        b"GET /status HT",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nx",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    writers = []
    async with asyncio.timeout(10):
        for data in sent:
            reader, writer = await asyncio.open_connection(host, int(port))
            writers.append(writer)
            writer.write(data)
            if data.endswith(b"\r\n\r\n"):
                await reader.readuntil(b"\r\n\r\n")
        before = time.monotonic()
        await server.close()
        assert time.monotonic() - before < 1.0
        for writer in writers:
            writer.close()
