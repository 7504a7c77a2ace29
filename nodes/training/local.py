"""A local cluster: peers as children of this process, which hosts the coordinator."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from nodes.training.driver import Driver, Progress
from nodes.training.peers import LocalPeers
from nodes.training.plan import Plan
from nodes.training.result import Result
from paramserver.config import ClusterConfig, PeerConfig, StatusConfig
from paramserver.console import new_identity, say
from paramserver.errors import NotReady, ParamserverError, TryAgain, UserError
from paramserver.launch.children import Child
from paramserver.launch.lifeline import Handover
from paramserver.launch.presence import announced
from paramserver.peer import Peer


class Watch:
    """Knows whether the children that a run needs are still there."""

    def __init__(self, peers: LocalPeers) -> None:
        self._children = peers.children
        self._workers = peers.workers
        self.running = False

    def __call__(self) -> None:
        """Raise where the run cannot begin, or cannot go on, because children ended.

        A shard that died in mid-run is left to the leader, whose error names the slices lost.
        """
        if not self.running:
            for child in self._children.all:
                for text in child.told():
                    say(f"{child.name}: {text}")
        ended = [child for child in self._children.all if child.ended]
        if ended and not self.running:
            raise failure_of(ended[0])
        if self._workers <= {child.name for child in ended}:
            raise failure_of(ended[-1])


def failure_of(child: Child) -> ParamserverError:
    """Return the error that a child ended with, as its last words and exit code tell it."""
    code = child.process.returncode
    words = [
        line for line in child.tail().splitlines() if line.startswith(("node:", "paramserver:"))
    ]
    text = words[-1].partition(": ")[2] if words else f"see {child.log}"
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended ({code})"
    kinds: dict[int | None, type[ParamserverError]] = {2: UserError, 3: NotReady, 75: TryAgain}
    kind = kinds.get(code, TryAgain if code is not None and code < 0 else ParamserverError)
    return kind(f"{child.name} {how}: {text}")


async def train_locally(
    plan: Plan,
    result: Result,
    output: Path,
    progress: Progress,
    on_driver: Callable[[Driver], None],
    peers: LocalPeers,
) -> Result:
    """Run ``plan`` on peers of this machine and end them all, whatever happens."""
    recipe = plan.recipe
    cluster = recipe.cluster
    secret = secrets.token_bytes(32)
    own = PeerConfig(
        cluster=ClusterConfig(
            name=cluster.name, deadline=cluster.deadline, session_timeout=cluster.session_timeout
        ),
        status=StatusConfig(host=recipe.status.host, port=recipe.status.port),
    )
    peer = Peer(own, new_identity("launcher"), secret, candidate=False)
    async with peer.running(), peers.children as children:
        children.hand_over(Handover(secret.hex(), peer.address))
        say(f"status page: http://{peer.status_address}/")
        watch = Watch(peers)
        spec = plan.spec(
            workers=cluster.worker_count,
            min_workers=cluster.worker_count,
            min_shards=cluster.shard_count,
        )
        result.peers = len(children.all)

        def note(state: dict[str, object]) -> None:
            watch.running = True
            progress(state)

        driver = Driver(plan, spec, peer, output, note, watch)
        on_driver(driver)
        with announced(plan.run, cluster.name, peer.address, secret):
            return await driver.run(result)
