"""This project's session and plain aiozk, behind one interface."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Protocol

from aiozk import ZKClient, protocol
from aiozk.states import States

from paramserver.config import ClusterConfig, ZooKeeperConfig
from paramserver.coordination.coordinator import Coordinator, MemberInfo
from paramserver.coordination.port import ANY, Check, Create, SessionState, Store
from paramserver.coordination.zookeeper import open_zookeeper
from paramserver.errors import Unavailable

T = 3.0
"""The session timeout asked for, in seconds."""
PAUSE = 0.05


class Client(Protocol):
    """What a scenario needs of a client; its errors are its own."""

    async def open(self) -> None:
        """Reach a server."""

    async def close(self) -> None:
        """Leave."""

    @property
    def connected(self) -> bool:
        """Whether the client believes now that its session stands."""

    @property
    def expiries(self) -> int:
        """How often the client was told that its session has expired."""

    async def create(self, path: str, data: bytes = b"", *, sequential: bool = False) -> None:
        """Make a node."""

    async def read(self, path: str) -> bytes:
        """Return a node's data, and remember its version."""

    async def write(self, path: str, data: bytes) -> None:
        """Change a node, whatever its version is."""

    async def delete(self, path: str) -> None:
        """Delete a node as it was when it was read."""

    async def names(self, path: str) -> list[str]:
        """Return the names below a node."""

    async def create_if(self, path: str, other: str, version: int) -> None:
        """Make a node, if another one has this version."""

    async def until_gone(self, path: str) -> asyncio.Future[None]:
        """Watch a node; return a future that is done when it has gone."""

    async def stand(self, name: str) -> None:
        """Stand for election."""

    @property
    def leads(self) -> bool:
        """Whether the client believes that it leads."""


class Ours:
    """The session of this project."""

    def __init__(self, address: str, auth_file: Path | None = None) -> None:
        zookeeper = ZooKeeperConfig(address=address, auth_file=auth_file)
        self._config = ClusterConfig(session_timeout=T, zookeeper=zookeeper)
        self._store: Store | None = None
        self._versions: dict[str, int] = {}
        self._coordinator: Coordinator | None = None
        self._leading: asyncio.Task[None] | None = None
        self.expiries = 0

    def __repr__(self) -> str:
        return f"<Ours at {self._store!r}>"

    @property
    def _open(self) -> Store:
        if self._store is None:
            raise RuntimeError("open it first")
        return self._store

    async def open(self) -> None:
        """Reach a server."""
        self._store = await open_zookeeper(self._config, deadline=T)
        self._store.session.listen(self._moved)

    def _moved(self, state: SessionState) -> None:
        self.expiries += state is SessionState.EXPIRED

    async def close(self) -> None:
        """Leave."""
        if self._leading is not None:
            self._leading.cancel()
            await asyncio.gather(self._leading, return_exceptions=True)
        await self._open.close()

    @property
    def connected(self) -> bool:
        """Whether the session's lease runs."""
        return self._open.session.leased

    async def create(self, path: str, data: bytes = b"", *, sequential: bool = False) -> None:
        """Make a node."""
        await self._open.create(path, data, sequential=sequential)

    async def read(self, path: str) -> bytes:
        """Return a node's data, and remember its version."""
        data, stat = await self._open.get(path)
        self._versions[path] = stat.version
        return data

    async def write(self, path: str, data: bytes) -> None:
        """Change a node, whatever its version is."""
        await self._open.set(path, data, ANY)

    async def delete(self, path: str) -> None:
        """Delete a node as it was when it was read."""
        await self._open.delete(path, self._versions.get(path, ANY))

    async def names(self, path: str) -> list[str]:
        """Return the names below a node."""
        return await self._open.children(path)

    async def create_if(self, path: str, other: str, version: int) -> None:
        """Make a node, if another one has this version."""
        await self._open.multi([Check(other, version), Create(path, b"")])

    async def until_gone(self, path: str) -> asyncio.Future[None]:
        """Watch a node; return a future that is done when it has gone."""

        async def wait() -> None:
            while True:
                changed = self._open.watch(path, "data")
                try:
                    if path.rpartition("/")[2] not in await self._open.children("/"):
                        return
                except Unavailable:
                    if not await self._open.session.connected(T):
                        raise
                    await asyncio.sleep(PAUSE)
                    continue
                await changed

        return asyncio.ensure_future(wait())

    async def stand(self, name: str) -> None:
        """Stand for election."""
        self._coordinator = Coordinator(self._open, cluster="faults")
        self._leading = asyncio.create_task(self._coordinator.run())
        info = MemberInfo(name=name, incarnation=1, address=f"{name}:1")
        await self._coordinator.members.register(info)

    @property
    def leads(self) -> bool:
        """Whether the term is valid."""
        term = self._coordinator.election.term if self._coordinator is not None else None
        return term is not None and term.valid


class Plain:
    """aiozk as it is."""

    def __init__(self, address: str, auth_file: Path | None = None) -> None:
        servers, _, chroot = address.partition("/")
        self._auth = auth_file.read_bytes().strip() if auth_file is not None else None
        acl = [protocol.AUTHED_UNRESTRICTED] if self._auth is not None else None
        self._client = ZKClient(servers, chroot or None, session_timeout=T, default_acl=acl)
        self._election: Any = None
        self.expiries = 0
        """Stays 0: there is nothing to listen to."""

    def __repr__(self) -> str:
        return f"<Plain {self._client.session.hosts}>"

    async def open(self) -> None:
        """Reach a server."""
        await self._client.session.start()
        if self._auth is not None:
            await self._client.send(protocol.AuthRequest(type=0, scheme="digest", auth=self._auth))
        await self._client.start()  # makes the chroot

    async def close(self) -> None:
        """Leave."""
        await self._client.close()

    @property
    def connected(self) -> bool:
        """Whether the session says so."""
        return bool(self._client.session.state == States.CONNECTED)

    async def create(self, path: str, data: bytes = b"", *, sequential: bool = False) -> None:
        """Make a node."""
        await self._client.create(path, data, sequential=sequential)

    async def read(self, path: str) -> bytes:
        """Return a node's data, whose version the client remembers."""
        data, _ = await self._client.get(path)
        return bytes(data or b"")

    async def write(self, path: str, data: bytes) -> None:
        """Change a node, whatever its version is."""
        await self._client.set_data(path, data, force=True)

    async def delete(self, path: str) -> None:
        """Delete a node as it was when it was read."""
        await self._client.delete(path)

    async def names(self, path: str) -> list[str]:
        """Return the names below a node."""
        return list(await self._client.get_children(path))

    async def create_if(self, path: str, other: str, version: int) -> None:
        """Make a node, if another one has this version."""
        transaction = self._client.begin_transaction()
        transaction.check_version(other, version)
        transaction.create(path)
        await transaction.commit()

    async def until_gone(self, path: str) -> asyncio.Future[None]:
        """Watch a node; return a future that is done when it has gone."""
        future: asyncio.Future[None] = self._client.wait_for_events(
            [protocol.WatchEvent.DELETED], path
        )
        await self._client.exists(path, watch=True)
        return future

    async def stand(self, name: str) -> None:
        """Stand for election."""
        self._election = self._client.recipes.LeaderElection("/election")
        await self._election.volunteer()

    @property
    def leads(self) -> bool:
        """Whether the recipe says so."""
        return self._election is not None and bool(self._election.has_leadership)


async def leave(client: Client) -> None:
    """Close a client that may be in any state; what hangs is left behind."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1.0):
            await client.close()
