"""What ZooKeeper has and the project's own tree has not: paths, credentials, servers that lie."""

import asyncio
import json
import secrets
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from zookeeping.server import Ensemble

from paramserver.config import ClusterConfig
from paramserver.coordination.coordinator import Coordinator, MemberInfo
from paramserver.coordination.port import SessionState, Store
from paramserver.coordination.zookeeper import open_zookeeper
from paramserver.errors import (
    AuthenticationFailed,
    ConfigurationError,
    Forbidden,
    NotReady,
    Unavailable,
)

T = 1.0
ME = MemberInfo(name="me", incarnation=7, address="me:1", roles=("shard",))


def config(address: str, **more: Any) -> ClusterConfig:
    return ClusterConfig(
        name="lab", session_timeout=T, zookeeper={"address": address, **more}, generation=3
    )


@asynccontextmanager
async def store(address: str, **more: Any) -> AsyncIterator[Store]:
    found = await open_zookeeper(config(address, **more), deadline=5.0)
    try:
        yield found
    finally:
        await found.close()


@pytest.fixture
def path() -> str:
    return f"/test-{secrets.token_hex(4)}/below"


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    file = tmp_path / "auth"
    file.write_text("lab:a password\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def certified(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1's own, and its key."""
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def leading(found: Store, work: Callable[[Coordinator], Coroutine[Any, Any, None]]) -> None:
    """Register, wait for the term, and do some ``work`` as the leader."""
    coordinator = Coordinator(found, cluster="lab", generation=3)
    task = asyncio.create_task(coordinator.run())
    try:
        await coordinator.members.register(ME)
        election = coordinator.election
        assert await election.changes.until(lambda: election.term is not None, 5.0)
        await work(coordinator)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_another_client_reads_the_tree_as_documented(zookeeper: str, path: str) -> None:
    async def work(coordinator: Coordinator) -> None:
        await coordinator.put_config("run", {"epochs": 3})
        await coordinator.put_map({"serial": 1}, -1)
        seen = await asyncio.to_thread(read, zookeeper, f"{path}/lab/3")
        assert seen["members"] == ["me"]
        assert seen["me"]["address"] == seen["leader"]["address"] == "me:1"
        assert seen["config"]["value"] == {"epochs": 3}
        assert seen["map"]["value"] == {"serial": 1}

    async with store(f"{zookeeper}{path}") as found:
        await leading(found, work)


def read(address: str, base: str) -> dict[str, Any]:
    client = KazooClient(address)
    client.start(5)
    try:
        (candidate,) = client.get_children(f"{base}/election")
        return {
            "members": client.get_children(f"{base}/members"),
            "me": json.loads(client.get(f"{base}/members/me")[0]),
            "leader": json.loads(client.get(f"{base}/election/{candidate}")[0]),
            "config": json.loads(client.get(f"{base}/config/run")[0]),
            "map": json.loads(client.get(f"{base}/map")[0]),
        }
    finally:
        client.stop()
        client.close()


async def test_with_credentials_the_tree_is_the_clusters_alone(
    zookeeper: str, path: str, auth_file: Path
) -> None:
    def touch(*auth: str) -> None:
        client = KazooClient(zookeeper, auth_data=[("digest", *auth)] if auth else None)
        client.start(5)
        try:
            for node in (path, f"{path}/lab/3/map"):
                client.set(node, b'{"serial":2}')
        finally:
            client.stop()
            client.close()

    async def work(coordinator: Coordinator) -> None:
        await coordinator.put_map({"serial": 1}, -1)
        for wrong in ((), ("lab:another",)):
            with pytest.raises(NoAuthError):
                await asyncio.to_thread(touch, *wrong)
        async with store(f"{zookeeper}{path}") as stranger:
            with pytest.raises(Forbidden, match="auth_file"):
                await stranger.get("/lab/3/map")
        await asyncio.to_thread(touch, "lab:a password")

    async with store(f"{zookeeper}{path}", auth_file=str(auth_file)) as found:
        await leading(found, work)


async def test_what_was_made_without_credentials_is_refused(
    zookeeper: str, path: str, auth_file: Path
) -> None:
    async def nothing(_: Coordinator) -> None:
        return

    async with store(f"{zookeeper}{path}") as found:
        await leading(found, nothing)
    async with store(f"{zookeeper}{path}", auth_file=str(auth_file)) as found:
        with pytest.raises(AuthenticationFailed, match="made without credentials"):
            await leading(found, nothing)


async def test_credentials_survive_reconnects(tmp_path: Path, auth_file: Path) -> None:
    with Ensemble(tmp_path / "zookeeper", 1, tick=200) as ensemble:
        async with store(f"{ensemble.address}/lab", auth_file=str(auth_file)) as found:
            await found.create("/a", b"")
            (server,) = ensemble.servers
            changed = found.watch("/a", "data")
            await found.get("/a")
            server.kill()
            assert await state(found, SessionState.SUSPENDED)
            server.start()
            assert await found.session.connected(10.0)
            await asyncio.wait_for(changed, 5.0)
            await found.set("/a", b"after a reconnect", 0)
            server.freeze()
            assert await state(found, SessionState.SUSPENDED)
            server.thaw()
            assert await found.session.connected(10.0)
            await found.set("/a", b"after a sleep", 1)


async def state(found: Store, wanted: SessionState) -> bool:
    arrived = asyncio.Event()
    leave = found.session.listen(lambda now: arrived.set() if now is wanted else None)
    try:
        if found.session.state is not wanted:
            await asyncio.wait_for(arrived.wait(), 5.0)
    finally:
        leave()
    return True


async def test_a_frozen_server_is_left_for_another(tmp_path: Path) -> None:
    with Ensemble(tmp_path, 3, tick=200) as ensemble:
        async with store(ensemble.address) as found:
            session = found.session.id
            await found.create("/a", b"")
            # A server that leads is missed by the others too, which takes them longer.
            frozen = next(one for one in ensemble.servers if one.has(session))
            frozen.freeze()
            assert await state(found, SessionState.SUSPENDED)
            assert await found.session.connected(10.0)
            assert (await found.get("/a"))[0] == b""
            frozen.thaw()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(struct.pack("!i", 1 << 30), id="too long"),
        pytest.param(struct.pack("!i", 8) + b"12345678", id="no record"),
        pytest.param(struct.pack("!i", 100) + b"cut", id="cut off"),
    ],
)
async def test_a_server_that_is_none_is_refused(answer: bytes) -> None:
    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(lie, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=f"ZooKeeper 127.0.0.1:{port}"):
            await open_zookeeper(config(f"127.0.0.1:{port}"), deadline=0.5)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [("lab:secret", 0o644, "chmod 600"), ("lab", 0o600, "must hold user:password")],
)
async def test_a_file_of_credentials_that_is_none(
    tmp_path: Path, content: str, mode: int, words: str
) -> None:
    file = tmp_path / "auth"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match=words):
        await open_zookeeper(config("127.0.0.1:1", auth_file=str(file)), deadline=1.0)
    with pytest.raises(ConfigurationError, match="No such file"):
        await open_zookeeper(config("127.0.0.1:1", auth_file="/nothing"), deadline=1.0)


async def test_certificates_that_are_none() -> None:
    given = config("127.0.0.1:1", tls=True, ca_file="/nothing")
    with pytest.raises((ConfigurationError, NotReady), match="No such file"):
        await open_zookeeper(given, deadline=1.0)


async def test_the_way_to_zookeeper_can_be_encrypted(
    zookeeper: str, path: str, certified: tuple[Path, Path]
) -> None:
    certificate, key = certified
    host, _, port = zookeeper.partition(":")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    tasks: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there, back = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(copy(reader, back), copy(there, writer))
        finally:
            writer.close()
            back.close()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(4096):
            sink.write(data)
        sink.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
        async with store(address, tls=True, ca_file=str(certificate)) as found:
            await found.create("/a", b"sealed")
            assert (await found.get("/a"))[0] == b"sealed"
        with pytest.raises(Unavailable, match="certificate"):
            await open_zookeeper(config(address, tls=True), deadline=0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
