"""A peer's life as a command: from its start to a signal, or the end of who launched it."""

from __future__ import annotations

import asyncio
import logging

from paramserver.address import parse_address
from paramserver.config import is_loopback
from paramserver.console import Signals, say
from paramserver.launch.lifeline import watch_lifeline
from paramserver.peer import Peer
from paramserver.transport.sockets import is_local
from paramserver.waiting import first_error

log = logging.getLogger(__name__)


async def live(peer: Peer, *, lifeline: int | None, embedded: bool) -> Signals:
    """Run a peer until a signal, or the end of its lifeline, asks it to leave."""
    stop = asyncio.Event()

    def leave(reason: str) -> None:
        log.info("leaving: %s", reason)
        stop.set()

    signals = Signals(leave)
    signals.install()

    def ready() -> None:
        roles = ", ".join(peer.roles) or "none"
        say(
            f"peer {peer.me.name} of cluster {peer.config.cluster.name} serves at {peer.address} "
            f"(roles: {roles}), status page http://{peer.status_address}/"
        )
        if embedded:
            say(
                f"others join with --join {peer.address}; this peer hosts the coordinator: "
                "its death ends the cluster"
            )
        if peer.config.cluster.insecure and not is_loopback(peer.config.cluster.host):
            say("warning: --insecure: whoever reaches this port can read and change the weights")
        zookeeper = peer.config.cluster.zookeeper.address
        afar = zookeeper and not all(is_loopback(one) for one, _ in parse_address(zookeeper).hosts)
        if afar and is_local(peer.address):
            say(
                f"warning: peers on other machines cannot reach {peer.address}: give "
                "--listen 0.0.0.0:PORT, and cluster.advertise where the machine's name is another"
            )

    try:
        async with asyncio.TaskGroup() as group:
            # From before the peer is prepared until it has ended: its end may be what takes too long.
            watching = (
                group.create_task(watch_lifeline(lifeline, lambda: leave("the launcher has ended")))
                if lifeline is not None
                else None
            )
            try:
                async with peer.running():
                    ready()
                    await stop.wait()
                    if signals.got is not None:
                        await peer.drain()
            finally:
                if watching is not None:
                    watching.cancel()
    except BaseExceptionGroup as several:
        raise first_error(several) from several
    return signals
