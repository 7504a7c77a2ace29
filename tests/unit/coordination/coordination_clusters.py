"""Clusters that the conformance suite runs on, and the faults it may inject."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol

from faulting.proxy import FaultProxy
from virtual_time import VirtualLoop

from paramserver.coordination.coordinator import Coordinator, MemberInfo
from paramserver.coordination.embedded import TreeHost
from paramserver.coordination.messages import CloseSession, OpenSession, Transact
from paramserver.coordination.port import Clock, Delete
from paramserver.coordination.session_store import Dial, Link, SessionStore
from paramserver.coordination.zookeeper import Ensemble, parse_address
from paramserver.errors import ConnectionLost, DeadlineExceeded, Unreachable

T = 1.0
"""The session timeout in tests, in seconds."""


class Faults:
    """What one peer's way to the coordinator suffers."""

    def __init__(self, dial: Dial) -> None:
        self.inner = dial
        self._ends: list[asyncio.Future[None]] = []
        self.refuses = False
        self.frozen = False
        self.loses: list[str] = []
        """The answer to the next write below each of these is lost, and the link with it."""

    async def dial(self, seconds: float) -> Link:
        if self.refuses:
            raise Unreachable("the test refuses connections")
        if self.frozen:
            await asyncio.wait([self.end()], timeout=seconds)
            raise Unreachable(f"no connection within {seconds:g} s")
        return FaultyLink(await self.inner(seconds), self)

    def cut(self, *, refuse: bool) -> None:
        """Break the links there are, and refuse others or not."""
        self.refuses = refuse
        for end in self._ends:
            if not end.done():
                end.set_result(None)
        self._ends.clear()

    def end(self) -> asyncio.Future[None]:
        """Return a future that is done when what there is now is cut."""
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        return end


class FaultyLink:
    def __init__(self, inner: Link, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        self._broken = faults.end()

    async def request(self, message: object, *, deadline: float) -> Any:
        if self._broken.done():
            raise ConnectionLost("the test has cut the link")
        if self._faults.frozen:
            await asyncio.wait([self._broken], timeout=deadline)
            raise DeadlineExceeded(f"no answer within {deadline:g} s")
        work = asyncio.ensure_future(self._inner.request(message, deadline=deadline))
        try:
            await asyncio.wait([work, self._broken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if self._broken.done():
            raise ConnectionLost("the test has cut the link")
        answer = work.result()
        for part in self._faults.loses if isinstance(message, Transact) else ():
            if any(part in path for _, path, *_ in message.ops):
                self._faults.loses.remove(part)
                self._faults.cut(refuse=self._faults.refuses)
                raise ConnectionLost(f"the test lost the answer to a write below {part}")
        return answer

    async def close(self) -> None:
        if not self._broken.done():
            self._broken.set_result(None)
        await self._inner.close()


class ProxyFaults(FaultProxy):
    """A way that suffers in the bytes themselves."""

    inner: Dial
    dial: Dial


AnyFaults = Faults | ProxyFaults


class Host(Protocol):
    """What a coordinator runs on, and the way behind every peer's back."""

    async def faults(self) -> AnyFaults:
        """Return the way of one session, and what it suffers."""

    def end(self, dial: Dial, session: int) -> None:
        """End the session of who has this dial, before anything else happens here."""

    def delete(self, path: str) -> None:
        """Delete a node, before anything else happens here."""


class InTree:
    """A tree of this project's own."""

    def __init__(self, host: TreeHost, dial: Callable[[], Dial]) -> None:
        self._tree = host.tree
        self._dial = dial

    async def faults(self) -> Faults:
        return Faults(self._dial())

    def end(self, dial: Dial, session: int) -> None:
        self._tree.end(session)

    def delete(self, path: str) -> None:
        self._tree.multi(self._tree.sessions()[0], [Delete(path, -1)])


class InZooKeeper:
    """A folder of its own in a real ZooKeeper, each session's way behind a proxy where asked for."""

    def __init__(self, servers: str, *, proxied: bool) -> None:
        self._servers = servers
        self._chroot = f"/test-{secrets.token_hex(4)}"
        self._proxied = proxied

    async def faults(self) -> AnyFaults:
        if not self._proxied:
            return Faults(self._ensemble(self._servers).dial)
        proxy = ProxyFaults(self._servers)
        proxy.inner = proxy.dial = self._ensemble(await proxy.start()).dial
        return proxy

    def _ensemble(self, servers: str) -> Ensemble:
        return Ensemble(parse_address(f"{servers}{self._chroot}"), session_timeout=T)

    def end(self, dial: Dial, session: int) -> None:
        async def close() -> None:
            other = self._ensemble(self._servers)
            other.memory = replace(dial.__self__.memory, zxid=0)  # type: ignore[attr-defined]
            link = await other.dial(5.0)
            await link.request(OpenSession(session=session, timeout=T), deadline=5.0)
            await link.request(CloseSession(caller=(session, 0)), deadline=5.0)
            await link.close()

        _meanwhile(close)

    def delete(self, path: str) -> None:
        async def go() -> None:
            dial = self._ensemble(self._servers).dial
            store = SessionStore(dial, "the test", session_timeout=T, single=False)
            await store.open(5.0)
            await store.delete(path, -1)
            await store.close()

        _meanwhile(go)


def _meanwhile(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` to its end while this thread's loop stands still."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(work())).result(10.0)


class Cluster:
    """A coordinator's host and peers with a session each, in this process."""

    def __init__(self, host: Host, clock: Clock, *, single: bool = True) -> None:
        self.clock = clock
        self._host = host
        self._single = single
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.faults: dict[Any, Faults] = {}

    async def store(self) -> SessionStore:
        faults = await self._host.faults()
        store = SessionStore(
            faults.dial,
            "the test",
            session_timeout=T,
            clock=self.clock,
            single=self._single,
        )
        await store.open(5.0)
        self.faults[store] = faults
        if isinstance(faults, ProxyFaults):
            self._stack.push_async_callback(faults.close)
        self._stack.push_async_callback(store.close)
        return store

    async def peer(self, name: str, incarnation: int = 1, *, register: bool = True) -> "Peer":
        store = await self.store()
        peer = Peer(store, self.faults[store], name, incarnation)
        self._tasks.append(peer.task)
        if register:
            await peer.register()
        return peer

    def expire(self, store: SessionStore) -> None:
        self._host.end(self.faults[store].inner, store.session.id)

    def delete(self, path: str) -> None:
        """Delete a node behind every peer's back."""
        self._host.delete(path)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()


class Peer:
    """A peer as far as coordination goes."""

    def __init__(self, store: SessionStore, faults: AnyFaults, name: str, incarnation: int) -> None:
        self.store = store
        self.faults = faults
        self.info = MemberInfo(
            name=name, incarnation=incarnation, address=f"{name}:1", roles=("shard",)
        )
        self.coordinator = Coordinator(store, cluster="test")
        self.members = self.coordinator.members
        self.election = self.coordinator.election
        self.task = asyncio.create_task(self.coordinator.run())

    async def register(self) -> None:
        await self.coordinator.members.register(self.info)

    async def sees(self, *names: str, seconds: float = 5.0) -> bool:
        return await self.members.changes.until(
            lambda: sorted(self.members.current) == sorted(names), seconds
        )

    async def leads(self, seconds: float = 5.0) -> bool:
        def valid() -> bool:
            term = self.election.term
            return term is not None and term.valid

        return await self.election.changes.until(valid, seconds)

    async def follows(self, name: str, seconds: float = 5.0) -> bool:
        def sees() -> bool:
            leader = self.election.leader
            return leader is not None and leader.name == name

        return await self.election.changes.until(sees, seconds)

    async def crash(self) -> None:
        """Be gone without a word."""
        self.faults.cut(refuse=True)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


Scenario = Callable[[Cluster], Awaitable[None]]


async def _play_in(cluster: Cluster, scenario: Scenario) -> None:
    try:
        await scenario(cluster)
    finally:
        await cluster.close()


async def _play(host: TreeHost, dial: Callable[[], Dial], clock: Clock, scenario: Scenario) -> None:
    ticking = asyncio.create_task(host.run())
    try:
        await _play_in(Cluster(InTree(host, dial), clock), scenario)
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
    _nothing_left()


def _nothing_left() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks were left behind: {left}"


def play_embedded(scenario: Scenario) -> None:
    """Play on a tree in this process, in virtual time."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        host = TreeHost(clock)
        await _play(host, lambda: host.dial, clock, scenario)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def play_remote(scenario: Scenario) -> None:
    """Play on a tree that every peer reaches over a socket of its own, in real time."""
    from paramserver.coordination.remote import dial
    from paramserver.transport.connection import Identity
    from paramserver.transport.server import Server

    async def main() -> None:
        host = TreeHost()
        secret = b"secret"
        server = Server(Identity("test", "host", 1, "host"), secret, host.service.handle)
        address = await server.listen("127.0.0.1", 0)
        try:
            await _play(
                host,
                lambda: dial(address, Identity("test", "peer", 1, "peer"), secret),
                time.monotonic,
                scenario,
            )
        finally:
            await server.close(1.0)

    with asyncio.Runner() as runner:
        runner.run(main())


def play_zookeeper(scenario: Scenario, servers: str, *, proxied: bool = False) -> None:
    """Play on a real ZooKeeper, in real time."""

    async def main() -> None:
        host = InZooKeeper(servers, proxied=proxied)
        await _play_in(Cluster(host, time.monotonic, single=False), scenario)
        _nothing_left()

    with asyncio.Runner() as runner:
        runner.run(main())


PLAYS = {"embedded": play_embedded, "remote": play_remote}
"""How to play on what is started for each scenario alone."""
