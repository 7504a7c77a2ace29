"""Where the peers of a cluster meet, and a look at it from outside."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from paramserver.config import ClusterConfig
from paramserver.coordination.coordinator import Coordinator
from paramserver.coordination.port import Store
from paramserver.coordination.remote import open_remote
from paramserver.coordination.zookeeper import open_zookeeper
from paramserver.errors import NotReady, Unavailable, Unsupported
from paramserver.wire.handshake import Identity


async def open_store(
    cluster: ClusterConfig,
    join: str | None,
    identity: Identity,
    secret: bytes,
    *,
    make: bool = True,
) -> Store:
    """Reach the coordinator that another process hosts: at ``join``, else the ZooKeeper configured.

    ``make`` says whether the path of ZooKeeper's address is made where it is missing.

    Raises:
        NotReady: it cannot be reached within the deadline, or refuses us.
        AuthenticationFailed: it does not take the secret, or the credentials.
    """
    try:
        if join is None:
            return await open_zookeeper(cluster, deadline=cluster.deadline, make=make)
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
    try:
        store = await open_store(cluster, join, identity, secret, make=False)
        coordinator = Coordinator(store, cluster=cluster.name, generation=cluster.generation)
        try:
            if not await coordinator.exists():
                raise NotReady(
                    f"there is no cluster {cluster.name!r} of generation {cluster.generation} at "
                    f"{store.host}: see cluster.name, cluster.generation and the path"
                )
            yield coordinator
        finally:
            await coordinator.close()
    except Unsupported as error:
        raise NotReady(f"{join} hosts no coordinator: give --zookeeper, or that peer") from error
    except Unavailable as error:
        raise NotReady(str(error)) from error
