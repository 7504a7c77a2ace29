"""Runs a recipe on a cluster that is there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nodes.training.driver import Driver, Progress
from nodes.training.plan import Plan
from nodes.training.result import Result
from paramserver.config import ClusterConfig, PeerConfig, StatusConfig
from paramserver.console import new_identity, read_secret, say
from paramserver.errors import NotReady
from paramserver.peer import Peer
from paramserver.phrases import counted
from paramserver.waiting import Changes


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
    config = PeerConfig(
        cluster=ClusterConfig(
            name=cluster.name,
            deadline=cluster.deadline,
            session_timeout=cluster.session_timeout,
            secret_file=cluster.secret_file,
            zookeeper=cluster.zookeeper,
            generation=cluster.generation,
        ),
        status=StatusConfig(host=plan.recipe.status.host, port=plan.recipe.status.port),
    )
    peer = Peer(config, new_identity(None), read_secret(config), join=join, candidate=False)
    async with peer.running():
        members = peer.coordinator.members

        def there() -> int:
            return sum("worker" in member.roles for member in members.current.values())

        def enough() -> bool:
            shards = any("shard" in member.roles for member in members.current.values())
            return there() >= cluster.min_workers and shards

        spec = plan.spec(workers=1, min_workers=cluster.min_workers, min_shards=1)
        changes = Changes()
        peer.coordinator.subscribe(changes.notify)
        needed = counted(cluster.min_workers, "worker")
        if not enough():
            say(f"waiting for {needed} and a shard; {counted(there(), 'worker')} so far")
        if not await changes.until(enough, spec.lost_after):
            here = f"{counted(there(), 'worker')} and {counted(len(members.current), 'member')}"
            raise NotReady(
                f"the cluster at {join or cluster.zookeeper.address} has {here} after "
                f"{spec.lost_after:g} s; the run needs {needed} and a shard: "
                "start them with `node start` and `paramserver start`, with --join or --zookeeper"
            )
        spec = plan.spec(workers=there(), min_workers=cluster.min_workers, min_shards=1)
        result.peers = sum(bool(member.roles) for member in members.current.values())
        driver = Driver(plan, spec, peer, output, progress)
        on_driver(driver)
        return await driver.run(result)
