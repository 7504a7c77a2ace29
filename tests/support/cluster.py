"""A whole cluster in one event loop: real sockets and real roles, no processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kernels.engine import open_engine, open_rules
from kernels.rules import RuleRunner, Update, state_count
from nodes.data import Dataset, load_dataset
from nodes.models import Model
from nodes.recipe import Recipe
from nodes.training.compute import Compute, ModelCompute
from nodes.training.driver import Driver
from nodes.training.learner import Clip, Local
from nodes.training.plan import Plan, name_run
from nodes.training.result import Result
from nodes.training.role import WorkerRole
from paramserver.checkpointer import Cut
from paramserver.clocks import cut
from paramserver.config import ClusterConfig, PeerConfig
from paramserver.console import new_identity
from paramserver.peer import Peer
from paramserver.slices import Floats, aligned, kernel_rule
from paramserver.spec import RunSpec
from paramserver.types import Span

SECRET = b"a secret for tests"


def recipe_of(**changes: Any) -> Recipe:
    """Return a small recipe on digits; ``changes`` are dotted keys with ``__`` for dots."""
    values: dict[str, Any] = {
        "name": "small",
        "seed": 1,
        "model": {"layers": [{"units": 16, "activation": "relu"}, {"units": 10}]},
        "data": {"source": "digits"},
        "train": {"epochs": 2, "batch_size": 64, "rate": 0.1, "rule": "momentum"},
        "cluster": {"deadline": 4.0},
    }
    for key, value in changes.items():
        section, _, rest = key.partition("__")
        if rest:
            values[section] = {**values.get(section, {}), rest: value}
        else:
            values[section] = value
    return Recipe.model_validate(values)


def plan_of(recipe: Recipe) -> Plan:
    """Load a recipe's data and make its model."""
    dataset = load_dataset(recipe.data)
    return Plan(recipe, dataset, Model.for_dataset(recipe.model, dataset), name_run("test"))


@dataclass(slots=True)
class Cluster:
    """The peers of a cluster under test; ``host`` hosts the coordinator and holds nothing."""

    host: Peer
    peers: list[Peer] = field(default_factory=list)
    roles: dict[str, WorkerRole] = field(default_factory=dict)

    async def train(
        self,
        plan: Plan,
        spec: RunSpec,
        output: Path,
        progress: Callable[[dict[str, Any]], None],
        on_driver: Callable[[Driver], None] | None = None,
    ) -> tuple[Result, Floats]:
        """Run a plan to its end; return the result and the final weights."""
        result = Result(run=plan.run, recipe="test")
        weights: list[Floats] = []

        class Keeper(Driver):
            async def _keep_model(self, cut: Cut) -> None:
                weights.append(cut.table.weights)

        driver = Keeper(plan, spec, self.host, output, progress)
        if on_driver is not None:
            on_driver(driver)
        await driver.run(result)
        return result, weights[0] if weights else aligned(0)

    @contextlib.asynccontextmanager
    async def another_worker(self, name: str, *, after_start_of: str) -> AsyncIterator[None]:
        """Start one more worker once a run is under way, and end it with the context."""

        async def join() -> None:
            view = self.host.view
            await view.changes.until(lambda: view.map.run is not None, 10.0)
            assert view.map.run is not None
            assert view.map.run.name == after_start_of
            role = WorkerRole("numpy")
            peer = Peer(
                self.host.config, new_identity(name), SECRET, role=role, join=self.host.address
            )
            async with peer.running():
                await ended.wait()

        ended = asyncio.Event()
        task = asyncio.ensure_future(join())
        try:
            yield
        finally:
            ended.set()
            await task


@contextlib.asynccontextmanager
async def cluster(
    *,
    both: int = 0,
    shards: int = 0,
    workers: int = 0,
    device: str = "numpy",
    deadline: float = 4.0,
    wrap: dict[str, Callable[[Compute], Compute]] | None = None,
) -> AsyncIterator[Cluster]:
    """Run a cluster: ``wrap`` replaces what the worker of a name computes with."""
    config = PeerConfig(cluster=ClusterConfig(deadline=deadline))
    host = Peer(config, new_identity("host"), SECRET, candidate=False)
    engine = partial(open_rules, device)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(host.running())
        running = Cluster(host)
        kinds = [("peer", True, True)] * both
        kinds += [("shard", True, False)] * shards + [("worker", False, True)] * workers
        for index, (prefix, shard, worker) in enumerate(kinds):
            name = f"{prefix}-{index}"
            role = WorkerRole(device, wrap=(wrap or {}).get(name)) if worker else None
            if role is not None:
                running.roles[name] = role
            peer = Peer(
                config,
                new_identity(name),
                SECRET,
                shard=shard,
                role=role,
                join=host.address,
                open_rules=engine,
            )
            await stack.enter_async_context(peer.running())
            running.peers.append(peer)
        yield running


async def train(
    recipe: Recipe,
    output: Path,
    *,
    both: int = 0,
    shards: int = 0,
    workers: int = 0,
    device: str = "numpy",
    wrap: dict[str, Callable[[Compute], Compute]] | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda _: None,
) -> tuple[Result, Floats]:
    """Train a recipe on a cluster of its own; return the result and the final weights."""
    plan = plan_of(recipe)
    count = both + workers
    spec = plan.spec(workers=count, min_workers=count, min_shards=both + shards)
    async with cluster(
        both=both,
        shards=shards,
        workers=workers,
        device=device,
        deadline=recipe.cluster.deadline,
        wrap=wrap,
    ) as running:
        return await running.train(plan, spec, output, progress)


def train_alone(recipe: Recipe, parts: int, device: str = "auto") -> Floats:
    """Train in this process alone: compute the same parts and sum them in the same order."""
    plan = plan_of(recipe)
    dataset: Dataset = plan.dataset
    spec = plan.spec(workers=1, min_workers=1, min_shards=1)
    engine = open_engine(device)
    train, mode = recipe.train, recipe.mode
    local = None
    if spec.local is not None:
        average = mode == "average"
        local = Local(kernel_rule(spec.local), spec.period, average=average, weighted=True)
    clip = Clip(train.clip_value, train.clip_norm)
    compute = ModelCompute(
        engine,
        plan.model,
        dataset,
        seed=recipe.seed,
        largest=train.batch_size,
        clip=clip,
        local=local,
    )
    rule = spec.table.rule
    runner = RuleRunner(engine, kernel_rule(rule))
    weights = aligned(plan.model.size)
    weights[:] = compute.initial_weights(recipe.seed)
    state = tuple(aligned(plan.model.size) for _ in range(state_count(rule.name)))
    for one in state:
        one[:] = 0
    pushed, summed = aligned(plan.model.size), aligned(plan.model.size)
    examples, stride = len(dataset.train_x), train.batch_size * train.period
    clocks = [
        (epoch, Span(start, min(start + stride, examples)))
        for epoch in range(train.epochs)
        for start in range(0, examples, stride)
    ]
    for step, (epoch, span) in enumerate(clocks):
        total: Any = 0
        for piece in cut(span, parts):
            if spec.local is None:
                compute.gradient(weights, epoch, piece.start, piece.stop, pushed)
            else:
                pieces = cut(piece, train.period)
                compute.local(weights, epoch, pieces, spec.local.rate_at(step), pushed)
            total = total + (pushed * np.float64(len(piece)) if mode == "average" else pushed)
        if mode == "average":
            weights[:] = total / len(span)
            continue
        summed[:] = total
        scale, rate = 1.0 / len(span), rule.rate_at(step)
        runner.apply([Update(weights, weights, state, summed, scale, rate, step + 1)])
    engine.close()
    return weights
