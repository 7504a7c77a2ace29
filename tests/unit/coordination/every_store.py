"""Play a scenario on every back end there is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from coordination_clusters import PLAYS, Cluster, play_zookeeper

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
