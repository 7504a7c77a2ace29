"""Random faults in virtual time: never two valid leaders, terms grow, and all converges after."""

import asyncio
import random

import pytest
from coordination_clusters import Cluster, Peer, T, play_embedded
from virtual_time import elapse, virtual_loop

from paramserver.coordination.documents import ABSENT
from paramserver.coordination.election import Term
from paramserver.coordination.watching import LOOK_AGAIN
from paramserver.errors import BadVersion, Fenced, StoreError
from paramserver.waiting import Changes

SECONDS = 40.0
NAMES = "abcd"

BROKEN = ("cut", "refuse", "freeze", "lose", "heal")
"""What networks do: a lease outlives none of it, so two terms are never valid at once."""

FORCED = (*BROKEN, "expire", "depose")
"""What ends a term early, so that a frozen leader may believe in it still: the fence must hold."""


async def misfortune(
    cluster: Cluster, peers: list[Peer], chance: random.Random, faults: tuple[str, ...]
) -> None:
    end = cluster.clock() + SECONDS
    while cluster.clock() < end:
        await elapse(chance.expovariate(4.0))
        peer = chance.choice(peers)
        match chance.choice(faults):
            case "cut":
                peer.faults.cut(refuse=False)
            case "refuse":
                peer.faults.cut(refuse=True)
            case "freeze":
                peer.faults.frozen = True
            case "lose":
                peer.faults.loses.append("/")
            case "expire":
                cluster.expire(peer.store)
            case "depose" if (leader := peer.election.leader) is not None:
                try:
                    await peer.election.depose(leader)
                except (StoreError, Fenced):
                    continue
            case _:
                heal(peer)
        if chance.random() < 0.3:
            for one in peers:
                heal(one)


def heal(peer: Peer) -> None:
    peer.faults.refuses = peer.faults.frozen = False
    peer.faults.loses.clear()


async def count(peer: Peer, wins: list[tuple[Term, int]]) -> None:
    """Raise the number in the map whenever this peer leads; note each success."""
    while True:
        await peer.leads(T)
        try:
            found, version = await peer.coordinator.get_map()
            term = peer.election.term
            if term is None or (found is None and version != ABSENT):
                continue
            n = found["n"] + 1 if found is not None else 1
            await peer.coordinator.put_map({"n": n, "by": peer.info.name}, version)
            wins.append((term, n))
        except (StoreError, Fenced, BadVersion):
            pass
        await elapse(0.05)


@pytest.mark.parametrize("faults", [BROKEN, FORCED], ids=["broken", "forced"])
@pytest.mark.parametrize("number", range(3))
def test_chaos(number: int, faults: tuple[str, ...], seed: int) -> None:
    chance = random.Random(seed + number)

    async def scenario(cluster: Cluster) -> None:
        peers = [await cluster.peer(name) for name in NAMES]
        wins: list[tuple[Term, int]] = []
        counting = [asyncio.create_task(count(peer, wins)) for peer in peers]
        shown: dict[str, object] = {}
        news = Changes()

        async def follow(peer: Peer) -> None:
            async for value in peer.coordinator.follow_map():
                shown[peer.info.name] = value
                news.notify()

        following = [asyncio.create_task(follow(peer)) for peer in peers]
        trouble = asyncio.create_task(misfortune(cluster, peers, chance, faults))
        terms = [Term(0, 0)]
        wrong: list[tuple[float, list[Term]]] = []

        def look() -> None:
            """Note every moment with two valid terms, or with an earlier one than there was."""
            valid = [term for p in peers if (term := p.election.term) is not None and term.valid]
            if len(valid) > 1 or min(valid, default=terms[-1]) < terms[-1]:
                wrong.append((cluster.clock(), valid))
            elif valid and valid[0] != terms[-1]:
                terms.extend(valid)

        with virtual_loop().at_every_turn(look):
            await trouble
        if faults is BROKEN:
            assert wrong == []
            assert len(terms) > 1, "nobody led"
        for peer in peers:
            heal(peer)
        await elapse(T)  # by then every request that the trouble swallowed has been given up
        for peer in peers:
            assert await peer.sees(*NAMES), f"{peer.info.name} sees {peer.members}"
            assert all(peer.members.current[p.info.name] == p.info for p in peers)
        for task in counting:
            task.cancel()
        await asyncio.gather(*counting, return_exceptions=True)
        leader = await the_leader(peers)
        for peer in peers:
            assert await peer.follows(leader.info.name)
        numbers = [n for _, n in wins]
        assert len(numbers) > 10
        assert numbers == sorted(set(numbers)), "a number was written twice, or taken back"
        assert [term for term, _ in wins] == sorted(term for term, _ in wins)
        last, version = await leader.coordinator.get_map()
        assert version == last["n"] - 1
        await leader.coordinator.put_map({"last": True}, version)
        assert await news.until(
            lambda: all(shown.get(name) == {"last": True} for name in NAMES), 10.0
        )
        async with asyncio.timeout(LOOK_AGAIN - 1.0):
            await all_stand(leader)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)

    play_embedded(scenario)


async def all_stand(peer: Peer) -> None:
    folder = "/test/1/election"
    while True:
        changed = peer.store.watch(folder, "children")
        if len(await peer.store.children(folder)) == len(NAMES):
            return
        await changed


async def the_leader(peers: list[Peer]) -> Peer:
    async with asyncio.timeout(10.0):
        while True:
            for peer in peers:
                if await peer.leads(0.1):
                    return peer
