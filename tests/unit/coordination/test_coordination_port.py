"""What every back end promises of its store."""

import asyncio

import pytest
from coordination_clusters import Cluster, T
from every_store import on_every_store, within

from paramserver.coordination.port import (
    LARGEST_VALUE,
    Check,
    Create,
    Delete,
    SessionState,
    Set,
)
from paramserver.errors import (
    BadVersion,
    NodeExists,
    NoNode,
    NotEmpty,
    OutcomeUnknown,
    SessionExpired,
    Unavailable,
    ValueTooLarge,
)


@on_every_store
async def test_nodes_can_be_made_read_changed_and_deleted(cluster: Cluster) -> None:
    store = await cluster.store()
    path, made = await store.create("/a", b"one")
    assert (path, made.version, made.owner) == ("/a", 0, 0)
    assert await store.get("/a") == (b"one", made)
    changed = await store.set("/a", b"two", 0)
    assert (changed.version, changed.czxid) == (1, made.czxid)
    assert changed.mzxid > made.czxid
    await store.create("/a/b", b"")
    assert await store.children("/a") == ["b"]
    for error, work in [
        (NodeExists, store.create("/a", b"")),
        (BadVersion, store.set("/a", b"", 0)),
        (NotEmpty, store.delete("/a", -1)),
        (NoNode, store.get("/c")),
        (NoNode, store.children("/c")),
        (NoNode, store.create("/c/d", b"")),
        (ValueTooLarge, store.create("/big", bytes(LARGEST_VALUE + 1))),
        (ValueTooLarge, store.multi([Create(f"/{i}", bytes(LARGEST_VALUE)) for i in range(2)])),
    ]:
        with pytest.raises(error):
            await work
    await store.delete("/a/b", 0)
    await store.delete("/a", -1)
    with pytest.raises(NoNode):
        await store.get("/a")


@on_every_store
async def test_the_largest_value_fits(cluster: Cluster) -> None:
    store = await cluster.store()
    value = bytes(range(256)) * (LARGEST_VALUE // 256)
    await store.create("/a", value)
    assert (await store.get("/a"))[0] == value


@on_every_store
async def test_a_multi_does_all_or_nothing(cluster: Cluster) -> None:
    store = await cluster.store()
    await store.create("/a", b"")
    with pytest.raises(BadVersion) as caught:
        await store.multi([Set("/a", b"x", 0), Create("/b", b""), Check("/a", 7)])
    assert caught.value.detail["op"] == 2
    assert await store.children("/") == ["a"]
    results = await store.multi([Check("/a", 0), Create("/b", b""), Set("/a", b"x", 0)])
    assert results[0] is None
    assert results[1] is not None
    assert results[1][0] == "/b"
    assert await store.multi([Delete("/b", 0)]) == [None]


@on_every_store
async def test_ephemerals_go_with_their_session_and_another_begins(cluster: Cluster) -> None:
    one, two = await cluster.store(), await cluster.store()
    _, stat = await one.create("/a", b"", ephemeral=True)
    assert stat.owner == one.session.id
    gone = two.watch("/a", "data")
    assert await two.get("/a") == (b"", stat)
    heard: list[SessionState] = []
    one.session.listen(heard.append)
    cluster.expire(one)
    with pytest.raises((SessionExpired, Unavailable)):
        await one.get("/a")
    await within(gone)
    assert await two.children("/") == []
    assert await one.session.connected(5.0)
    assert one.session.id != stat.owner
    assert stat.owner in one.session.past
    assert SessionState.EXPIRED in heard
    assert heard[-1] is SessionState.CONNECTED


@on_every_store
async def test_a_watch_fires_after_each_kind_of_change(cluster: Cluster) -> None:
    one, two = await cluster.store(), await cluster.store()
    data, children = one.watch("/a", "data"), one.watch("/", "children")
    with pytest.raises(NoNode):
        await one.get("/a")
    await two.create("/a", b"")
    await within(data)
    await within(children)
    changed = one.watch("/a", "data")
    assert (await one.get("/a"))[0] == b""
    await two.set("/a", b"x", 0)
    await within(changed)
    deleted = one.watch("/a", "data")
    assert (await one.get("/a"))[0] == b"x"
    await two.delete("/a", 1)
    await within(deleted)


@on_every_store
async def test_a_waiter_survives_a_harmless_reconnect(cluster: Cluster) -> None:
    one, two = await cluster.store(), await cluster.store()
    await two.create("/a", b"")
    changed, cancelled = one.watch("/a", "data"), one.watch("/a", "data")
    await one.get("/a")
    cancelled.cancel()
    session = one.session.id
    cluster.faults[one].cut(refuse=True)
    await two.set("/a", b"missed", 0)
    cluster.faults[one].refuses = False
    await within(changed)
    assert one.session.id == session
    assert (await one.get("/a"))[0] == b"missed"


@on_every_store
async def test_a_lost_link_suspends_and_nothing_is_sent(cluster: Cluster) -> None:
    store = await cluster.store()
    suspended = asyncio.Event()
    store.session.listen(lambda state: suspended.set())
    assert store.session.leased
    cluster.faults[store].cut(refuse=True)
    await within(suspended.wait(), T / 3)
    assert store.session.state is SessionState.SUSPENDED
    assert not store.session.leased
    with pytest.raises(Unavailable):
        await store.create("/a", b"")
    cluster.faults[store].refuses = False
    assert await store.session.connected(5.0)
    assert await store.children("/") == []


@on_every_store
async def test_a_lost_answer_is_said_to_be_unknown(cluster: Cluster) -> None:
    store = await cluster.store()
    cluster.faults[store].loses.append("/a")
    with pytest.raises(OutcomeUnknown):
        await store.create("/a", b"")
    assert await store.session.connected(5.0)
    assert await store.children("/") == ["a"]
