"""Who is taken for dead, and who is not: peers with real sockets in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from faulting.proxy import Proxy

from paramserver.config import ClusterConfig, PeerConfig
from paramserver.console import new_identity
from paramserver.deathwatch import REFUSED_FOR
from paramserver.peer import Peer

SECRET = b"a secret for tests"
OWN, ADVERTISED = "127.0.0.2", "127.0.0.3"
SESSION = 30.0


def config(**cluster: Any) -> PeerConfig:
    return PeerConfig(
        cluster=ClusterConfig(session_timeout=SESSION, deadline=SESSION, insecure=True, **cluster)
    )


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[tuple[Peer, Peer, Proxy]]:
    """Run a leader that watches over a spare, and the way by which others reach the spare."""
    leader = Peer(config(), new_identity("leader"), SECRET)
    async with leader.running():
        spare = Peer(
            config(host=OWN, advertise=ADVERTISED),
            new_identity("spare"),
            SECRET,
            join=leader.address,
        )
        async with spare.running():
            port = spare.address.rpartition(":")[2]
            way = Proxy(f"{OWN}:{port}", int(port), host=ADVERTISED)
            await way.start()
            try:
                yield leader, spare, way
            finally:
                await way.close()


async def until(what: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.01)


async def away(way: Proxy, seconds: float) -> None:
    """Have nobody listen at the way for so long."""
    await way.close()
    await asyncio.sleep(seconds)
    way.refuses = False
    await way.start()


def buries(caplog: pytest.LogCaptureFixture) -> int:
    return sum("was seen dead" in record.message for record in caplog.records)


async def test_a_way_that_is_away_for_a_moment_kills_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with watched() as (leader, _, way):
        await until(lambda: "watching over spare" in caplog.text)
        for _ in range(3):
            await away(way, REFUSED_FOR / 2)
            await asyncio.sleep(2 * REFUSED_FOR)
        assert buries(caplog) == 0
        assert "spare" in leader.coordinator.members.current


async def test_who_lives_comes_back_and_is_not_counted_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with watched() as (leader, _, way):
        await until(lambda: "watching over spare" in caplog.text)
        await way.close()
        await until(lambda: buries(caplog) > 0)
        await until(lambda: "spare" in leader.coordinator.members.current)
        await asyncio.sleep(2 * REFUSED_FOR)
        # Whoever cannot be reached from here is not counted as lost while it registers again.
        assert leader.coordinator.buried == frozenset()
        way.refuses = False
        await way.start()
        await asyncio.sleep(2 * REFUSED_FOR)
        made = buries(caplog)
        await asyncio.sleep(4 * REFUSED_FOR)
        assert buries(caplog) == made
        assert "spare" in leader.coordinator.members.current


async def test_who_is_frozen_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with watched() as (leader, _, way):
        await until(lambda: "watching over spare" in caplog.text)
        way.frozen = True
        way.cut(refuse=False)
        await asyncio.sleep(4 * REFUSED_FOR)
        assert buries(caplog) == 0
        assert "spare" in leader.coordinator.members.current
        way.frozen = False


async def test_who_dies_is_taken_out_within_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with watched() as (leader, spare, way):
        await until(lambda: "watching over spare" in caplog.text)
        # Its session goes on, as that of a process which ended without a word.
        await spare._server.close(0.1)
        await way.close()
        spare.coordinator.members._mine = None
        await until(lambda: "spare" not in leader.coordinator.members.current, 1.5)
        await until(lambda: leader.coordinator.buried == {tuple(spare.me)})
