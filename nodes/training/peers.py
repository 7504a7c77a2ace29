"""What the peers of a run are told: its own, which are children, and the driver's in a cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nodes.recipe import Recipe
from paramserver.config import ClusterConfig, PeerConfig, StatusConfig
from paramserver.launch.children import Children, core_shares

SECTIONS = ("CLUSTER", "DEVICE", "STATUS")


def peer_config(recipe: Recipe) -> PeerConfig:
    """Return what the driver's peer needs to know of a cluster that is there."""
    cluster = recipe.cluster
    return PeerConfig(
        cluster=ClusterConfig(
            name=cluster.name,
            deadline=cluster.deadline,
            session_timeout=cluster.session_timeout,
            secret_file=cluster.secret_file,
            zookeeper=cluster.zookeeper,
            generation=cluster.generation,
        ),
        status=StatusConfig(host=recipe.status.host, port=recipe.status.port),
    )


@dataclass(frozen=True, slots=True)
class LocalPeers:
    """The peers of a local run, children of this process; ``workers`` are those that compute."""

    children: Children
    workers: frozenset[str]


def start_peers(children: Children, recipe: Recipe) -> frozenset[str]:
    """Start the peers that a recipe asks for; return the names of those that compute."""
    cluster = recipe.cluster
    common = [
        f"--set=cluster.name={cluster.name}",
        f"--set=cluster.deadline={cluster.deadline}",
        f"--set=cluster.session_timeout={cluster.session_timeout}",
        f"--set=device.select={recipe.device.select}",
    ]
    if recipe.device.memory is not None:
        common.append(f"--set=device.memory={recipe.device.memory}")
    if recipe.device.target_cpu is not None:
        common.append(f"--set=device.target_cpu={recipe.device.target_cpu}")
    if not recipe.device.tune:
        common.append("--set=device.tune=false")
    if recipe.device.cores is not None:
        shares = [recipe.device.cores] * cluster.worker_count
    else:
        shares = core_shares(cluster.worker_count, None)
    shards = [f"shard-{index}" for index in range(cluster.shard_count)] if cluster.dedicated else []
    role, prefix = ("worker", "worker") if cluster.dedicated else ("shard,worker", "peer")
    workers = [f"{prefix}-{index}" for index in range(cluster.worker_count)]
    for name in shards:
        children.start(name, "paramserver", ["start", "--name", name, *common], environment(1))
    for name, share in zip(workers, shares, strict=True):
        roles = ["--roles", role]
        children.start(
            name, "nodes", ["start", "--name", name, *roles, *common], environment(share)
        )
    return frozenset(workers)


def environment(cores: int) -> dict[str, str]:
    """Return what a child's environment says beyond ours: its share of the cores.

    Variables of ours that configure a peer are emptied: a child is configured by its launcher.
    """
    ours = {
        name: ""
        for name in os.environ
        if name.startswith(tuple(f"PARAMSERVER_{section}__" for section in SECTIONS))
    }
    count = str(cores)
    return {
        **ours,
        "POCL_MAX_PTHREAD_COUNT": count,
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
    }
