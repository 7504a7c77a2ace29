"""Runs a shard's numerical work on a thread of its own, in order, off the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kernels.engine import RuleHost
from kernels.rules import RuleRunner, RuleSpec, Update
from paramserver.averaging import add_weighted, divide
from paramserver.slices import Job
from paramserver.store import Store
from paramserver.waiting import Changes


@dataclass(slots=True)
class _Batch:
    jobs: Sequence[Job]
    done: asyncio.Future[None]


class Applier:
    """One thread that owns the shard's engine and applies jobs in the order they were made.

    `run` is the owner of the work: an error of the device ends it, and with it the peer.
    """

    def __init__(self, store: Store, open_rules: Callable[[], RuleHost]) -> None:
        self._store = store
        self._open_rules = open_rules
        self._engine: RuleHost | None = None
        self._runners: dict[RuleSpec, RuleRunner] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="applier")
        self._queue: deque[_Batch] = deque()
        self._wake = asyncio.Event()
        self.published = Changes()

    async def prepare(self) -> None:
        """Open the device; a rule's kernel is built when a table first asks for it."""
        loop = asyncio.get_running_loop()
        self._engine = await loop.run_in_executor(self._thread, self._open_rules)

    async def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs and wait until all are done and published."""
        if not jobs:
            return
        batch = _Batch(jobs, asyncio.get_running_loop().create_future())
        self._queue.append(batch)
        self._wake.set()
        await batch.done

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batches = list(self._queue)
                self._queue.clear()
                jobs = [job for batch in batches for job in batch.jobs]
                if jobs:
                    await loop.run_in_executor(self._thread, self._work, jobs)
                published = [self._store.finish(job) for job in jobs]
                if any(published):
                    self.published.notify()
                for batch in batches:
                    if not batch.done.done():
                        batch.done.set_result(None)
                batches.clear()  # while idle nothing is held
                jobs.clear()
        finally:
            for batch in self._queue:
                batch.done.cancel()
            self._thread.shutdown(wait=True)
            if self._engine is not None:
                self._engine.close()

    def _work(self, jobs: Sequence[Job]) -> None:
        """Run jobs on the applier thread: sums at once, rules gathered by their kind."""
        group: dict[RuleSpec, list[Update]] = {}
        touched: set[int] = set()
        for job in jobs:
            held = job.slice
            if id(held) in touched:
                self._apply(group)  # a second job on a slice begins from what the first one made
                touched.clear()
            if job.captured is not None:
                _copy(job)
                continue
            gradient = job.gradient
            if job.weight is not None:
                _average(job, job.weight)
                continue
            if job.fold:
                assert held.sum is not None
                if job.first:
                    np.copyto(held.sum, gradient)
                else:
                    np.add(held.sum, gradient, out=held.sum)
                gradient = held.sum
            if job.out is None:
                continue
            assert held.head is not None
            touched.add(id(held))
            group.setdefault(job.rule, []).append(
                Update(
                    weights=held.head,
                    out=job.out,
                    state=held.state,
                    gradient=gradient,
                    scale=job.scale,
                    rate=job.rate,
                    step=job.step,
                )
            )
            held.head = job.out
        self._apply(group)

    def _apply(self, group: dict[RuleSpec, list[Update]]) -> None:
        for rule, updates in group.items():
            self._runner(rule).apply(updates)
        group.clear()

    def _runner(self, rule: RuleSpec) -> RuleRunner:
        runner = self._runners.get(rule)
        if runner is None:
            assert self._engine is not None
            runner = self._runners[rule] = RuleRunner(self._engine, rule)
        return runner


def _average(job: Job, examples: int) -> None:
    """Add a part of a mean; the clock's last part makes the slice's next version."""
    held = job.slice
    assert held.weighted_sum is not None
    add_weighted(held.weighted_sum, job.gradient, examples, first=job.first)
    if job.out is not None:
        divide(held.weighted_sum, job.total, job.out)
        held.head = job.out


def _copy(job: Job) -> None:
    """Copy a slice's weights and rule state into what was made for them."""
    held, captured = job.slice, job.captured
    assert captured is not None
    assert held.head is not None
    for target, source in zip(captured.arrays, (held.head, *held.state), strict=True):
        np.copyto(target, source)
