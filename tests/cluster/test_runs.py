"""Runs of one cluster, one after another, and what becomes of those without a driver."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from nodes.errors import DataError
from nodes.training.compute import Compute, Floats
from nodes.training.learner import StepResult
from paramserver.config import ClusterConfig, PeerConfig
from paramserver.console import new_identity
from paramserver.peer import Peer
from tests.support.cluster import SECRET, cluster, plan_of, recipe_of
from tests.support.computes import Poisoned


async def test_a_cluster_works_on_one_run_after_the_other(tmp_path: Path) -> None:
    async with cluster(both=2) as running:
        for consistency in ("bsp", "asp", "ssp"):
            plan = plan_of(recipe_of(consistency=consistency, train__epochs=1))
            spec = plan.spec(workers=2, min_workers=2, min_shards=2)
            result, weights = await running.train(plan, spec, tmp_path, lambda _: None)
            assert (result.status, result.examples) == ("done", 1438)
            assert len(weights) == plan.model.size
        for peer in running.peers:
            await peer.view.changes.until(lambda peer=peer: not peer.view.map.tables, 5.0)
            assert not peer.store.tables, "slices of runs that are over are let go"


async def test_a_run_whose_driver_died_makes_way_for_the_next(tmp_path: Path) -> None:
    async with cluster(both=2) as running:
        plan = plan_of(recipe_of(train__epochs=1))
        spec = plan.spec(workers=2, min_workers=2, min_shards=2)
        config = PeerConfig(cluster=ClusterConfig(deadline=4.0))
        driver = Peer(
            config, new_identity("driver"), SECRET, join=running.host.address, candidate=False
        )
        async with driver.running():
            orphan = spec.model_copy(update={"driver": tuple(driver.me)})
            await driver.coordinator.put_config(orphan.name, orphan.model_dump(mode="json"))
            view = running.host.view
            assert await view.changes.until(lambda: view.map.run is not None, 5.0)
        plan = plan_of(recipe_of(train__epochs=1))
        spec = plan.spec(workers=2, min_workers=2, min_shards=2)
        result, _ = await running.train(plan, spec, tmp_path, lambda _: None)
        assert (result.status, result.examples) == ("done", 1438)


async def test_a_worker_that_joins_in_mid_run_gets_work(tmp_path: Path) -> None:
    async with cluster(both=1) as running:
        plan = plan_of(recipe_of(consistency="asp", train__epochs=30, train__batch_size=16))
        spec = plan.spec(workers=1, min_workers=1, min_shards=1)
        seen: set[str] = set()
        async with running.another_worker("late", after_start_of=plan.run):
            result, _ = await running.train(
                plan, spec, tmp_path, lambda state: seen.update(state["workers"])
            )
        assert result.status == "done"
        assert result.examples == 30 * 1438
        assert seen == {"peer-0", "late"}


async def test_a_run_that_no_worker_can_work_on_fails_at_once_with_their_words(
    tmp_path: Path,
) -> None:
    def refuse(_: Compute) -> Compute:
        raise DataError("/data/mine.csv: no such file")

    async with cluster(both=2, wrap={"peer-0": refuse, "peer-1": refuse}) as running:
        plan = plan_of(recipe_of(train__epochs=1))
        spec = plan.spec(workers=2, min_workers=2, min_shards=2)
        result, _ = await running.train(plan, spec, tmp_path, lambda _: None)
        assert (result.status, result.exit_code) == ("failed", 2)
        assert "peer-0: /data/mine.csv: no such file" in str(result.error)
        assert len(running.host.coordinator.members.current) == 3, "the peers stay"


async def test_a_worker_dropped_from_one_run_computes_in_the_next(tmp_path: Path) -> None:
    poison = [True]

    class Once(Poisoned):
        def gradient(self, weights: Floats | None, *where: Any) -> StepResult:
            return (super() if poison[0] else self._inner).gradient(weights, *where)

    async with cluster(both=2, wrap={"peer-1": lambda inner: Once(inner, True)}) as running:
        for number in range(2):
            plan = plan_of(recipe_of(train__epochs=1))
            spec = plan.spec(workers=2, min_workers=2, min_shards=2)
            states: list[dict[str, Any]] = []
            result, _ = await running.train(plan, spec, tmp_path, states.append)
            assert result.status == "done"
            assert list(states[-1]["dropped"]) == ([] if number else ["peer-1"])
            poison[0] = False
        assert set(states[-1]["workers"]) == {"peer-0", "peer-1"}


async def test_a_run_whose_driver_died_in_mid_run_is_withdrawn_after_a_while() -> None:
    async with cluster(both=2) as running:
        plan = plan_of(recipe_of(train__epochs=100_000))
        spec = plan.spec(workers=2, min_workers=2, min_shards=2)
        config = PeerConfig(cluster=ClusterConfig(deadline=4.0))
        driver = Peer(
            config, new_identity("driver"), SECRET, join=running.host.address, candidate=False
        )
        view = running.host.view
        async with driver.running():
            orphan = spec.model_copy(update={"driver": tuple(driver.me), "lost_after": 0.5})
            await driver.coordinator.put_config(orphan.name, orphan.model_dump(mode="json"))
            assert await view.changes.until(lambda: view.map.run is not None, 5.0)
        assert await view.changes.until(lambda: view.map.run is None, 10.0)
        assert await running.host.coordinator.configs() == {}


async def test_a_run_withdrawn_while_a_worker_prepares_leaves_the_worker_for_the_next(
    tmp_path: Path,
) -> None:
    preparing, withdrawn = threading.Event(), threading.Event()

    def wait(compute: Compute) -> Compute:
        preparing.set()
        assert withdrawn.wait(10.0)
        return compute

    async with cluster(both=1, wrap={"peer-0": wait}) as running:
        plan = plan_of(recipe_of(train__epochs=1))
        spec = plan.spec(workers=1, min_workers=1, min_shards=1)
        coordinator = running.host.coordinator
        early = spec.model_copy(update={"name": "early", "driver": tuple(running.host.me)})
        await coordinator.put_config(early.name, early.model_dump(mode="json"))
        assert await asyncio.to_thread(preparing.wait, 10.0)
        await coordinator.drop_config(early.name)
        for peer in (running.host, *running.peers):
            seen = peer.view
            assert await seen.changes.until(lambda seen=seen: seen.map.run is None, 5.0)
        withdrawn.set()
        result, _ = await running.train(plan, spec, tmp_path, lambda _: None)
        assert (result.status, result.examples) == ("done", 1438)
