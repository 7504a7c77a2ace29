"""Where the peers of a cluster meet, and a look at it from outside."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from paramserver.config import ClusterConfig
from paramserver.coordination.coordinator import Coordinator
from paramserver.coordination.port import Store
from paramserver.coordination.remote import open_remote
from paramserver.coordination.zookeeper import open_zookeeper
from paramserver.errors import NotReady, Unavailable
from paramserver.wire.handshake import Identity


async def open_store(
    cluster: ClusterConfig, join: str | None, identity: Identity, secret: bytes
) -> Store:
    """Reach the coordinator that another process hosts: at ``join``, else the ZooKeeper configured.

    Raises:
        NotReady: it cannot be reached within the deadline, or refuses us.
        AuthenticationFailed: it does not take the secret, or the credentials.
    """
    try:
        if join is None:
            return await open_zookeeper(cluster, deadline=cluster.deadline)
        return await open_remote(
            join,
            identity,
            secret,
            session_timeout=cluster.session_timeout,
            deadline=cluster.deadline,
        )
    except Unavailable as error:
        raise NotReady(str(error)) from error


@contextlib.asynccontextmanager
async def looking_in(
    cluster: ClusterConfig, join: str | None, identity: Identity, secret: bytes
) -> AsyncIterator[Coordinator]:
    """Read what a cluster's coordinator holds, without being a member.

    Raises:
        NotReady: it cannot be reached, or no more.
        AuthenticationFailed: it does not take the secret, or the credentials.
    """
    store = await open_store(cluster, join, identity, secret)
    coordinator = Coordinator(store, cluster=cluster.name, generation=cluster.generation)
    try:
        yield coordinator
    except Unavailable as error:
        raise NotReady(str(error)) from error
    finally:
        await coordinator.close()
