"""The worker's role of a peer: opens the device, and works on whatever run the cluster has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from kernels.device.discovery import DeviceInfo
from kernels.device.trial import Tell
from kernels.engine import Engine, open_engine
from kernels.errors import KernelError
from nodes.data import load_dataset
from nodes.models import Model
from nodes.recipe import Recipe
from nodes.training.compute import Compute, ModelCompute
from nodes.training.learner import Clip, Local
from nodes.training.worker import RunWorker
from paramserver.client import TableClient
from paramserver.errors import Evicted, NotReady, ParamserverError, Refused, RequestFailed
from paramserver.peer import Peer
from paramserver.slices import kernel_rule
from paramserver.spec import RunSpec
from paramserver.waiting import Changes, end
from paramserver.wire.run import Finished, Report

log = logging.getLogger(__name__)

LONGEST_REASON = 1000
ATTEMPTS = 20
PAUSE = 0.1


class WorkerRole:
    """Computes for the cluster.

    ``data_root`` is this machine's folder of data sets, the recipe's unless given. ``wrap`` may
    replace what a run computes with (see `Compute`). ``memory``, ``target`` and ``tune`` are those of
    the configuration's ``device``. ``tell`` is told what of a first start takes long.
    """

    name = "worker"

    def __init__(
        self,
        device: str,
        data_root: Path | None = None,
        wrap: Callable[[Compute], Compute] | None = None,
        memory: float | None = None,
        target: str | None = None,
        tune: bool = False,
        tell: Tell = log.info,
    ) -> None:
        self._select = device
        self._open = partial(open_engine, device, memory, target=target, search=tune, tell=tell)
        self._data_root = data_root
        self._wrap = wrap
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._engine: Engine | None = None
        self.last: Finished | None = None
        self._worker: RunWorker | None = None
        self._idle = Changes()
        self._leaving = False

    def __repr__(self) -> str:
        return f"<WorkerRole on {self.device}>"

    @property
    def device(self) -> str:
        """The device's name, once it is open."""
        info: DeviceInfo | None = self._engine.info if self._engine is not None else None
        return info.label if info is not None else f"{self._select} (not open yet)"

    async def prepare(self) -> None:
        """Open the device and build its kernels, on the thread that owns them."""
        loop = asyncio.get_running_loop()
        self._engine = await loop.run_in_executor(self._thread, self._open)

    async def leave(self, seconds: float) -> None:
        """Finish the step under way and leave the run, within so many seconds."""
        self._leaving = True
        if self._worker is not None:
            self._worker.leave()
            await self._idle.until(lambda: self._worker is None, seconds)

    async def run(self, peer: Peer) -> None:
        """Work on one run after the other until cancelled.

        A worker that holds slices too goes on serving them after it was dropped from a run.

        Raises:
            Evicted: this incarnation was dropped from a run, and holds nothing.
        """
        try:
            done: tuple[str, int] | None = None
            while True:
                run = await peer.runs.next(other_than=done)
                if self._leaving:
                    return
                spec = await peer.runs.spec(run)
                if spec is not None:
                    try:
                        await self._work(peer, spec)
                    except Evicted as error:
                        if "shard" not in peer.roles:
                            raise
                        log.error("computing no more for this run, still serving slices: %s", error)
                done = (run.name, run.attempt)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self, peer: Peer, spec: RunSpec) -> None:
        """Work on one run for as long as the map names it."""
        loop = asyncio.get_running_loop()
        try:
            compute, fingerprint = await loop.run_in_executor(self._thread, self._build, spec)
        except (ParamserverError, KernelError) as error:
            log.error("cannot work on run %s: %s", spec.name, error)
            await self._decline(peer, spec, str(error))
            return
        worker = RunWorker(
            spec,
            peer.me,
            self.device,
            self._engine.info.kind if self._engine is not None else "",
            peer.links,
            TableClient(peer.links, peer.maps, spec.table_name, peer.me, deadline=spec.deadline),
            lambda: peer.runs.address(spec.name),
            compute,
            self._thread,
            fingerprint,
        )
        self._worker = worker
        working = asyncio.create_task(worker.run())
        withdrawn = asyncio.create_task(peer.runs.end_of(spec.name, spec.attempt))
        try:
            await asyncio.wait({working, withdrawn}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                self.last = working.result()
                log.info("run %s is over: %s", spec.name, self.last.status)
            else:
                log.info("run %s was withdrawn", spec.name)
        finally:
            for task in (working, withdrawn):
                await end(task)
            self._worker = None
            self._idle.notify()

    async def _decline(self, peer: Peer, spec: RunSpec, reason: str) -> None:
        """Tell the run table why this worker cannot work, for as long as there is one to tell."""
        report = Report(
            run=spec.name,
            worker=peer.me.name,
            incarnation=peer.me.incarnation,
            device=self.device,
            data="",
            wants=False,
            number=1,
            unable=" ".join(reason.split())[:LONGEST_REASON],
        )
        for _ in range(ATTEMPTS):
            try:
                await peer.links.request(
                    peer.runs.address(spec.name), report, deadline=spec.deadline
                )
                return
            except (RequestFailed, Refused) as error:
                log.info("not told yet: %s", error)
                await asyncio.sleep(PAUSE)

    def _build(self, spec: RunSpec) -> tuple[Compute, str]:
        """Load the data and make the model, on the compute thread."""
        if self._engine is None:
            raise NotReady("the worker's device is not open")
        recipe = Recipe.model_validate(spec.recipe)
        data = recipe.data
        if self._data_root is not None:
            data = data.model_copy(update={"root": self._data_root})
        dataset = load_dataset(data)
        model = Model.for_dataset(recipe.model, dataset)
        train, local = recipe.train, spec.local
        part = -(-spec.batch_size * spec.period // spec.table.parts)
        compute: Compute = ModelCompute(
            self._engine,
            model,
            dataset,
            seed=spec.seed,
            largest=min(-(-part // spec.period), spec.examples),
            clip=Clip(train.clip_value, train.clip_norm),
            local=None
            if local is None
            else Local(
                kernel_rule(local),
                spec.period,
                average=spec.mode == "average",
                weighted=spec.table.consistency == "bsp",
            ),
        )
        return (self._wrap(compute) if self._wrap is not None else compute), dataset.fingerprint()
