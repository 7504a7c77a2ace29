"""What every recipe promises on every back end."""

import asyncio

import pytest
from coordination_clusters import PLAYS, Cluster, Peer, T
from every_store import SLACK, on_every_store, within

from paramserver.coordination.documents import ABSENT
from paramserver.coordination.port import (
    Create,
)
from paramserver.coordination.tree import TICK
from paramserver.errors import (
    BadVersion,
    ConfigurationError,
    Fenced,
    NodeExists,
    OutcomeUnknown,
    Unavailable,
)

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


async def first_to_lead(peers: list[Peer]) -> Peer:
    leading = {asyncio.ensure_future(peer.leads()): peer for peer in peers}
    done, others = await asyncio.wait(leading, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    first = done.pop()
    assert first.result()
    return leading[first]


@on_every_store
async def test_the_lease_ends_a_term_before_the_host_forgets_a_silent_session(
    cluster: Cluster,
) -> None:
    peers = [await cluster.peer(name) for name in "ab"]
    a = await first_to_lead(peers)  # "a", unless a loaded machine kept it from its session
    (b,) = (peer for peer in peers if peer is not a)
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
    a.faults.loses.append("/test/1/map")
    assert await documents.swap("/test/1/map", "one", ABSENT) == 0
    a.faults.loses.append("/test/1/map")
    assert await documents.swap("/test/1/map", "two", 0) == 1
    a.faults.loses.append("/test/1/config/")
    assert await a.coordinator.put_config("run", {"x": 1}) == 0
    assert not a.faults.loses
    a.faults.loses.append("/test/1/config/")
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
    a.faults.loses.append(path)  # and no write of its views, which make their folders
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
