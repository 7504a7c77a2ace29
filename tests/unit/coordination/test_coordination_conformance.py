"""What every recipe promises on every back end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from coordination_clusters import PLAYS, Cluster, Peer, T, play_zookeeper

from paramserver.coordination.documents import ABSENT
from paramserver.coordination.port import (
    LARGEST_VALUE,
    Check,
    Create,
    Delete,
    SessionState,
    Set,
)
from paramserver.coordination.tree import TICK
from paramserver.errors import (
    BadVersion,
    ConfigurationError,
    Fenced,
    NodeExists,
    NoNode,
    NotEmpty,
    OutcomeUnknown,
    SessionExpired,
    Unavailable,
    ValueTooLarge,
)

X = TypeVar("X")

SLACK = 0.3
"""What a loaded machine may add, in seconds."""


def on_every_store(
    scenario: Callable[[Cluster], Awaitable[None]],
) -> Callable[[str, pytest.FixtureRequest], None]:
    @pytest.mark.parametrize("back_end", [*PLAYS, "zookeeper", "ensemble", "proxied"])
    def test(back_end: str, request: pytest.FixtureRequest) -> None:
        if back_end in PLAYS:
            PLAYS[back_end](scenario)
        else:
            kind = "ensemble" if back_end == "ensemble" else "zookeeper"
            servers = request.getfixturevalue(kind)
            play_zookeeper(scenario, servers, proxied=back_end == "proxied")

    test.__name__ = scenario.__name__
    return test


async def within(work: Awaitable[X], seconds: float = 5.0) -> X:
    async with asyncio.timeout(seconds):
        return await work


# The port


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


# Members


@on_every_store
async def test_members_who_joined_are_seen(cluster: Cluster) -> None:
    peers = [await cluster.peer(name) for name in "abc"]
    for peer in peers:
        assert await peer.sees("a", "b", "c")
        assert peer.members.current["b"] == peers[1].info


@on_every_store
async def test_a_clean_leave_is_seen_at_once(cluster: Cluster) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b")
    assert await a.sees("a", "b")
    began = cluster.clock()
    await b.coordinator.close()
    assert await a.sees("a")
    assert cluster.clock() - began < T / 3 + SLACK
    await within(b.task)


@on_every_store
async def test_a_crash_is_seen_when_the_session_runs_out(cluster: Cluster) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b")
    assert await a.sees("a", "b")
    began = cluster.clock()
    await b.crash()
    assert await a.sees("a")
    assert 2 * T / 3 - 0.01 <= cluster.clock() - began <= T + TICK + SLACK


@on_every_store
async def test_a_peer_registers_again_in_a_new_session(cluster: Cluster) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b")
    assert await a.sees("a", "b")
    cluster.expire(b.store)
    assert await a.sees("a")
    assert await a.sees("a", "b")
    assert a.members.current["b"] == b.info


@on_every_store
async def test_a_restarted_peer_replaces_its_earlier_life(cluster: Cluster) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b", incarnation=1)
    assert await a.sees("a", "b")
    await b.crash()
    reborn = await cluster.peer("b", incarnation=2)
    assert await a.members.changes.until(lambda: a.members.current.get("b") == reborn.info, 5.0)
    assert sorted(a.members.current) == ["a", "b"]


@on_every_store
async def test_a_living_foreign_owner_of_the_name_is_named(cluster: Cluster) -> None:
    await cluster.peer("a", incarnation=1)
    other = await cluster.peer("a", incarnation=2, register=False)
    with pytest.raises(NodeExists, match=r"'a' belongs to a living peer: a #1 at a:1"):
        await other.register()
    assert await other.sees("a")
    assert other.members.current["a"].incarnation == 1


@on_every_store
async def test_a_lost_answer_to_a_registration_is_settled(cluster: Cluster) -> None:
    a = await cluster.peer("a", register=False)
    assert await a.sees()
    a.faults.loses.append("/members/")
    await a.register()
    assert not a.faults.loses
    assert await a.sees("a")


def test_a_name_that_would_leave_its_folder_is_refused() -> None:
    async def scenario(cluster: Cluster) -> None:
        peer = await cluster.peer("../x", register=False)
        with pytest.raises(ConfigurationError):
            await peer.register()

    PLAYS["embedded"](scenario)


# Election


def valid_leaders(peers: list[Peer]) -> list[Peer]:
    return [p for p in peers if (term := p.election.term) is not None and term.valid]


async def first_to_lead(peers: list[Peer]) -> Peer:
    leading = {asyncio.ensure_future(peer.leads()): peer for peer in peers}
    done, others = await asyncio.wait(leading, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    first = done.pop()
    assert first.result()
    return leading[first]


@on_every_store
async def test_one_term_is_valid_at_a_time_and_terms_grow(cluster: Cluster) -> None:
    peers = [await cluster.peer(name) for name in "abc"]
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, len(valid_leaders(peers)))

    for peer in peers:
        peer.coordinator.subscribe(look)
    terms = []
    living = list(peers)
    while living:
        # The first to register, unless a loaded machine kept it from its session for too long.
        leader = await first_to_lead(living)
        for peer in living:
            assert await peer.follows(leader.info.name)
            seen = peer.election.leader
            assert seen is not None
            assert seen.address == leader.info.address
            assert seen.term == leader.election.term
        terms.append(leader.election.term)
        await leader.crash()
        living.remove(leader)
    assert terms == sorted(set(terms))
    assert len(terms) == 3
    assert most == 1


@on_every_store
async def test_a_lone_candidate_wins_though_the_answer_to_its_create_was_lost(
    cluster: Cluster,
) -> None:
    a = await cluster.peer("a", register=False)
    assert await a.sees()
    a.faults.loses.append("/election/")
    await a.register()
    assert await a.leads()
    assert not a.faults.loses
    assert len(await a.store.children("/test/1/election")) == 1


@on_every_store
async def test_a_term_ends_with_suspension_and_is_taken_up_again(cluster: Cluster) -> None:
    a = await cluster.peer("a")
    assert await a.leads()
    term = a.election.term
    assert term is not None
    a.faults.cut(refuse=True)
    assert await a.election.changes.until(lambda: a.election.term is None, T / 3)
    assert not term.valid
    with pytest.raises(Fenced):
        await a.coordinator.put_map({}, ABSENT)
    a.faults.refuses = False
    assert await a.leads()
    assert a.election.term == term
    assert term.valid


@on_every_store
async def test_the_lease_ends_a_term_before_the_host_forgets_a_silent_session(
    cluster: Cluster,
) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b")
    assert await a.leads()
    term = a.election.term
    assert term is not None
    a.faults.frozen = True
    overlap = []
    b.election.changes.subscribe(lambda: overlap.append(term.valid and b.election.term is not None))
    assert await b.leads()
    assert not term.valid
    assert not any(overlap)
    assert b.election.term is not None
    assert b.election.term > term


@on_every_store
async def test_a_deposed_leader_is_fenced(cluster: Cluster) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b")
    assert await a.leads()
    assert await b.follows("a")
    first = await a.coordinator.put_map({"by": "a"}, ABSENT)
    leader = b.election.leader
    assert leader is not None
    assert a.election.term is not None
    old = a.election.term
    work = asyncio.gather(
        b.election.depose(leader),
        a.coordinator.put_map({"by": "a again"}, first),
        return_exceptions=True,
    )
    deposed, late = await work
    assert deposed is True
    assert isinstance(late, Fenced | int)
    assert await b.leads()
    with pytest.raises(Fenced):
        await a.coordinator.put_map({"by": "a, late"}, first)
    assert await b.election.depose(leader) is False
    assert b.election.term is not None
    assert b.election.term > old
    found, version = await b.coordinator.get_map()
    assert found in ({"by": "a"}, {"by": "a again"})
    await b.coordinator.put_map({"by": "b"}, version)
    assert await a.follows("b")
    assert not await a.leads(0.0)


@on_every_store
async def test_a_stale_leader_is_fenced_by_its_node_and_not_by_hearsay(cluster: Cluster) -> None:
    a = await cluster.peer("a")
    assert await a.leads()
    other = await cluster.store()
    (candidate,) = await other.children("/test/1/election")
    assert a.election.term is not None
    # No await in between: the leader still believes in its term when it writes.
    cluster.delete(f"/test/1/election/{candidate}")
    assert a.election.term.valid
    with pytest.raises(Fenced, match="deposed"):
        await a.election.fenced([Create("/test/1/map", b"")])
    assert (await a.coordinator.get_map())[0] is None
    old = a.election.term
    assert old is None
    assert await a.leads()


@on_every_store
async def test_a_peer_that_is_no_candidate_cannot_lead_or_depose(cluster: Cluster) -> None:
    a = await cluster.peer("a")
    assert await a.leads()
    watcher = await cluster.peer("w", register=False)
    assert await watcher.follows("a")
    leader = watcher.election.leader
    assert leader is not None
    with pytest.raises(Fenced):
        await watcher.election.depose(leader)
    with pytest.raises(Fenced):
        await watcher.coordinator.put_outcome("run", {})


@on_every_store
async def test_who_was_seen_dead_leaves_nothing_and_who_lives_comes_back(cluster: Cluster) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b", incarnation=1)
    assert await a.leads()
    assert await a.sees("a", "b")
    with pytest.raises(Fenced):
        await b.coordinator.bury("a", a.info.incarnation)
    assert await a.coordinator.bury("b", 2) is False
    await b.crash()
    began = cluster.clock()
    assert await a.coordinator.bury("b", 1) is True
    assert await a.sees("a")
    assert cluster.clock() - began < T / 3 + SLACK
    assert len(await a.store.children("/test/1/election")) == 1
    assert await a.coordinator.bury("b", 1) is False
    c = await cluster.peer("c")
    assert await a.sees("a", "c")
    assert await c.follows("a")
    gone = a.store.watch("/test/1/members/c", "data")
    assert await a.coordinator.bury("c", c.info.incarnation) is True
    await within(gone)
    assert await a.sees("a", "c")
    assert await c.follows("a")
    async with asyncio.timeout(5.0):
        changed = a.store.watch("/test/1/election", "children")
        while len(await a.store.children("/test/1/election")) != 2:
            await within(changed)
            changed = a.store.watch("/test/1/election", "children")


# Documents


@on_every_store
async def test_of_racing_swaps_exactly_one_wins(cluster: Cluster) -> None:
    stores = [await cluster.peer(f"p{i}", register=False) for i in range(5)]
    path = "/test/1/map"
    version = ABSENT
    for _ in range(3):
        results = await asyncio.gather(
            *(peer.coordinator.documents.swap(path, i, version) for i, peer in enumerate(stores)),
            return_exceptions=True,
        )
        won = [i for i, result in enumerate(results) if isinstance(result, int)]
        assert len(won) == 1
        assert sum(isinstance(result, BadVersion) for result in results) == 4
        found = await stores[0].coordinator.documents.get(path)
        assert found is not None
        assert found.value == won[0]
        version = found.version


@on_every_store
async def test_a_lost_answer_to_a_write_is_settled(cluster: Cluster) -> None:
    a, b = [await cluster.peer(name, register=False) for name in "ab"]
    await a.coordinator.configs()
    documents = a.coordinator.documents
    assert await a.sees()
    a.faults.loses.append("/test/1/")
    assert await documents.swap("/test/1/map", "one", ABSENT) == 0
    a.faults.loses.append("/test/1/")
    assert await documents.swap("/test/1/map", "two", 0) == 1
    a.faults.loses.append("/test/1/")
    assert await a.coordinator.put_config("run", {"x": 1}) == 0
    assert not a.faults.loses
    a.faults.loses.append("/test/1/")
    await a.coordinator.drop_config("run")
    assert await b.coordinator.configs() == {}
    found = await b.coordinator.documents.get("/test/1/map")
    assert found is not None
    assert (found.value, found.version) == ("two", 1)


@on_every_store
async def test_a_write_whose_answer_was_lost_and_that_others_overwrote(cluster: Cluster) -> None:
    a, b = [await cluster.peer(name, register=False) for name in "ab"]
    path = "/test/1/map"
    await b.coordinator.documents.put(path, 0)
    assert await a.sees()
    a.faults.loses.append("/test/1/")
    lost = asyncio.create_task(a.coordinator.documents.swap(path, 1, 0))

    async def overwrite() -> None:
        following = b.coordinator.documents.follow(path)
        while await anext(following) != 1:
            pass
        await b.coordinator.documents.put(path, 2)

    a.faults.refuses = True
    writing = asyncio.create_task(within(overwrite()))
    await writing
    a.faults.refuses = False
    with pytest.raises(OutcomeUnknown, match="cannot be told"):
        await lost


@on_every_store
async def test_runs_are_asked_for_and_end(cluster: Cluster) -> None:
    a, b = await cluster.peer("a"), await cluster.peer("b")
    assert await a.leads()
    noticed = asyncio.Event()
    assert await b.coordinator.outcomes() == {}
    b.coordinator.subscribe(noticed.set)
    assert await a.coordinator.put_config("r1", {"epochs": 3}) == 0
    await within(noticed.wait())
    assert await b.coordinator.configs() == {"r1": {"epochs": 3}}
    assert await b.coordinator.put_config("r1", {"epochs": 4}) == 1
    assert await b.coordinator.get_config("r1") == {"epochs": 4}
    assert await b.coordinator.get_outcome("r1") is None
    await a.coordinator.put_outcome("r1", {"status": "done"})
    await a.coordinator.put_outcome("r1", {"status": "stopped"})
    assert await b.coordinator.outcomes() == {"r1": {"status": "stopped"}}
    assert await b.coordinator.get_outcome("r1") == {"status": "stopped"}
    await b.coordinator.drop_config("r1")
    await b.coordinator.drop_config("r1")
    assert await a.coordinator.get_config("r1") is None


@on_every_store
async def test_following_converges_over_bursts_deletions_and_interruptions(
    cluster: Cluster,
) -> None:
    a, b = [await cluster.peer(name, register=False) for name in "ab"]
    path = "/test/1/map"
    seen: list[object] = []

    async def follow() -> None:
        async for value in a.coordinator.follow_map():
            seen.append(value)
            arrived.set()

    async def shows(value: object) -> None:
        while not seen or seen[-1] != value:
            arrived.clear()
            await arrived.wait()

    arrived = asyncio.Event()
    task = asyncio.create_task(follow())
    documents = b.coordinator.documents
    await within(shows(None))
    for i in range(30):
        await documents.put(path, i)
    await within(shows(29))
    await documents.drop(path)
    await within(shows(None))
    a.faults.cut(refuse=True)
    await documents.put(path, "while away")
    a.faults.refuses = False
    await within(shows("while away"))
    cluster.expire(a.store)
    await documents.put(path, "in another session")
    await within(shows("in another session"))
    await documents.drop(path)
    await documents.put(path, "again")
    await within(shows("again"))
    await a.coordinator.close()
    await within(task)


# Leaving


@on_every_store
async def test_closing_during_an_outage_is_quick(cluster: Cluster) -> None:
    refused, frozen = await cluster.peer("a"), await cluster.peer("b")
    assert await refused.sees("a", "b")
    assert await frozen.sees("a", "b")
    refused.faults.cut(refuse=True)
    frozen.faults.frozen = True
    for peer in (refused, frozen):
        began = cluster.clock()
        await peer.coordinator.close()
        await within(peer.task)
        assert cluster.clock() - began < 2.0
        assert peer.coordinator.state == "closed"
        await peer.coordinator.close()
        with pytest.raises(Unavailable):
            await peer.store.get("/")


@on_every_store
async def test_what_people_see(cluster: Cluster) -> None:
    a = await cluster.peer("a")
    assert await a.leads()
    described = a.coordinator.describe()
    assert described["state"] == "connected"
    assert described["leader"] == "a"
    assert described["leads"] is True
    assert a.coordinator.members_document()["a"]["roles"] == ["shard"]
    assert "connected" in repr(a.coordinator)
