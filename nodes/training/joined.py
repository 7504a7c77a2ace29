"""Runs a recipe on a cluster that is there already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from nodes.training.driver import Driver, Progress
from nodes.training.peers import peer_config
from nodes.training.plan import Plan
from nodes.training.result import Result
from paramserver.console import new_identity, read_secret, say
from paramserver.errors import NotReady
from paramserver.peer import Peer
from paramserver.phrases import counted
from paramserver.waiting import Changes

FIRST_LOOK = 0.5
SAID_EVERY = 10.0
"""Seconds until it is said for the first time who is missing, and again."""


async def train_joined(
    plan: Plan,
    result: Result,
    output: Path,
    progress: Progress,
    on_driver: Callable[[Driver], None],
    join: str | None,
) -> Result:
    """Publish ``plan`` to the cluster whose coordinator is at ``join``, or at its recipe's ZooKeeper.

    Waits for ``cluster.min_workers`` workers and one shard; the cluster goes on after the run.

    Raises:
        NotReady: they were not there within ``lost_after`` seconds.
    """
    cluster = plan.recipe.cluster
    config = peer_config(plan.recipe)
    peer = Peer(config, new_identity(None), read_secret(config), join=join, candidate=False)
    async with peer.running():
        members = peer.coordinator.members

        def there() -> int:
            return sum("worker" in member.roles for member in members.current.values())

        def enough() -> bool:
            shards = any("shard" in member.roles for member in members.current.values())
            return there() >= cluster.min_workers and shards

        spec = plan.spec(workers=1, min_workers=cluster.min_workers, min_shards=1)
        say(f"status page: http://{peer.status_address}/")
        changes = Changes()
        peer.coordinator.subscribe(changes.notify)
        needed = counted(cluster.min_workers, "worker")
        until = asyncio.get_running_loop().time() + spec.lost_after
        patience = FIRST_LOOK
        while not await changes.until(enough, patience):
            left = until - asyncio.get_running_loop().time()
            shards = counted(sum("shard" in one.roles for one in members.current.values()), "shard")
            here = f"{counted(there(), 'worker')} and {shards}"
            if left <= 0:
                raise NotReady(
                    f"cluster {cluster.name} at {join or cluster.zookeeper.address} has {here} after "
                    f"{spec.lost_after:g} s; the run needs {needed} and a shard: start them with "
                    "`node start` and `paramserver start`, with --join or --zookeeper"
                )
            say(
                f"waiting for {needed} and a shard, {left:.0f} s at most: cluster {cluster.name} "
                f"has {here}"
            )
            patience = min(left, SAID_EVERY)
        spec = plan.spec(workers=there(), min_workers=cluster.min_workers, min_shards=1)
        result.peers = sum(bool(member.roles) for member in members.current.values())
        driver = Driver(plan, spec, peer, output, progress)
        on_driver(driver)
        return await driver.run(result)
