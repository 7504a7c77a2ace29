"""What a session promises beyond the recipes: opening, ending, limits, and who is named."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
from coordination_clusters import Cluster, Faults, T, play_embedded
from virtual_time import VirtualLoop

from paramserver.coordination.coordinator import Coordinator, MemberInfo
from paramserver.coordination.embedded import EmbeddedStore, TreeHost
from paramserver.coordination.messages import AwaitEvents, GetNode, OpenSession
from paramserver.coordination.port import SessionState, Store
from paramserver.coordination.remote import open_remote
from paramserver.coordination.service import StoreService
from paramserver.coordination.session_store import Link, SessionStore
from paramserver.errors import (
    AuthenticationFailed,
    Unavailable,
    Unreachable,
    Unsupported,
)
from paramserver.transport.connection import Identity
from paramserver.transport.server import Server

SECRET = b"secret"
ME = Identity("test", "peer", 1, "peer")


async def open_at(address: str, secret: bytes = SECRET, deadline: float = 2.0) -> Store:
    return await open_remote(address, ME, secret, session_timeout=T, deadline=deadline)


async def serve(service: StoreService, stack: AsyncExitStack, port: int = 0) -> Server:
    server = Server(Identity("test", "host", 1, "host"), SECRET, service.handle)
    await server.listen("127.0.0.1", port)
    stack.push_async_callback(server.close, 1.0)
    return server


async def test_a_host_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"cannot reach the coordinator at 127\.0\.0\.1:1 "):
        await open_at("127.0.0.1:1", deadline=0.2)


async def test_a_wrong_secret_ends_the_opening_at_once() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(TreeHost().service, stack)
        began = time.monotonic()
        with pytest.raises(AuthenticationFailed):
            await open_at(server.address, b"another", deadline=5.0)
        assert time.monotonic() - began < 2.0


async def test_a_host_that_goes_is_noticed_at_once_and_one_that_comes_back_is_joined() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(TreeHost().service, stack)
        address = server.address
        store = await open_at(address)
        coordinator = Coordinator(store, cluster="test")
        stack.push_async_callback(coordinator.close)
        running = asyncio.create_task(coordinator.run())
        info = MemberInfo(name="a", incarnation=1, address="a:1", roles=["worker"])
        await coordinator.members.register(info)
        assert await coordinator.members.changes.until(
            lambda: coordinator.members.current == {"a": info}, 5.0
        )
        session = store.session.id
        suspended = asyncio.Event()
        store.session.listen(lambda state: suspended.set())
        await server.close(1.0)
        async with asyncio.timeout(T / 3):
            await suspended.wait()
        assert store.session.state is SessionState.SUSPENDED
        empty = TreeHost()
        await serve(empty.service, stack, int(address.rpartition(":")[2]))
        assert await store.session.connected(5.0)
        other = await open_at(address)
        stack.push_async_callback(other.close)
        watcher = Coordinator(other, cluster="test")
        watching = asyncio.create_task(watcher.run(candidate=False))
        assert await watcher.members.changes.until(
            lambda: watcher.members.current == {"a": info}, 5.0
        )
        assert await watcher.election.changes.until(lambda: watcher.leader() is not None, 5.0)
        assert store.session.id != session
        for task in (running, watching):
            task.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)


async def test_the_host_s_own_store_needs_no_opening_and_serves_others() -> None:
    async with AsyncExitStack() as stack:
        hosted = EmbeddedStore(session_timeout=T)
        stack.push_async_callback(hosted.close)
        handlers = StoreService(hosted.tree).handlers
        server = Server(
            Identity("test", "host", 1, "host"),
            SECRET,
            lambda request: handlers[type(request.message)](request),
        )
        address = await server.listen("127.0.0.1", 0)
        stack.push_async_callback(server.close, 1.0)
        host = Coordinator(hosted, cluster="test")
        stack.push_async_callback(host.close)
        guest = Coordinator(await open_at(address), cluster="test")
        stack.push_async_callback(guest.close)
        tasks = [
            asyncio.create_task(host.run(candidate=False)),
            asyncio.create_task(guest.run()),
        ]
        await host.members.register(MemberInfo(name="host", incarnation=1, address="h:1"))
        await guest.members.register(MemberInfo(name="guest", incarnation=1, address="g:1"))
        assert await host.members.changes.until(lambda: len(host.members.current) == 2, 5.0)
        assert await host.election.changes.until(lambda: host.leader() is not None, 5.0)
        leader = host.leader()
        assert leader is not None
        assert leader.name == "guest"
        await guest.close()
        assert await host.members.changes.until(lambda: len(host.members.current) == 1, T / 3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_foreign_message_is_not_served() -> None:
    service = TreeHost().service
    with pytest.raises(Unsupported):
        await service.answer(object())


def in_virtual_time(main: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


def test_an_opening_gives_up_at_its_deadline() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        faults = Faults(TreeHost(clock).dial)
        faults.frozen = True
        store = SessionStore(faults.dial, "host:1", session_timeout=T, clock=clock)
        began = clock()
        with pytest.raises(Unavailable, match="host:1 after 3 s"):
            await store.open(3.0)
        assert clock() - began <= 3.1
        await store.close()

    in_virtual_time(main())


def test_a_wait_for_events_ends_and_frees_what_it_held() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        service = TreeHost(clock).service
        opened = await service.answer(OpenSession(session=0, timeout=60.0))
        caller = (opened.session, opened.attachment)
        began = clock()
        answer = await service.answer(AwaitEvents(caller=caller, after=0, wait=2.0))
        assert answer.events == []
        assert clock() - began == pytest.approx(2.0)
        assert not service._awaiting
        waiting = asyncio.ensure_future(
            service.answer(AwaitEvents(caller=caller, after=0, wait=20.0))
        )
        await asyncio.sleep(1.0)
        again = await service.answer(OpenSession(session=opened.session, timeout=60.0))
        with pytest.raises(Unavailable, match="another connection"):
            await waiting
        assert clock() - began == pytest.approx(3.0)
        with pytest.raises(Unavailable, match="another connection"):
            await service.answer(GetNode(caller=caller, path="/"))
        caller = (again.session, again.attachment)
        assert (await service.answer(GetNode(caller=caller, path="/"))).data == b""

    in_virtual_time(main())


def test_backoff_grows_no_further_than_two_seconds() -> None:
    """A host away for a minute is found within two seconds and a dial of its return."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        host = TreeHost(clock)
        ticking = asyncio.create_task(host.run())
        faults = Faults(host.dial)
        store = SessionStore(faults.dial, "host:1", session_timeout=T, clock=clock)
        await store.open(1.0)
        dials = []
        dial = faults.inner

        async def counted(seconds: float) -> Link:
            dials.append(clock())
            raise Unreachable("away")

        faults.inner = counted
        faults.cut(refuse=False)
        await asyncio.sleep(60.0)
        assert 30 < len(dials) < 120
        assert max(b - a for a, b in pairwise(dials)) <= 2.0
        faults.inner = dial
        assert await store.session.connected(2.1)
        await store.close()
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)

    in_virtual_time(main())


def test_cancelled_waiters_do_not_pile_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        store = await cluster.store()
        for _ in range(100):
            store.watch("/a", "data").cancel()
            await asyncio.sleep(0)
        assert await store.children("/") == []
        (watch,) = store._watches.values()
        assert not watch.futures

    play_embedded(scenario)
