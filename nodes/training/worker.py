"""The worker's loop of one run: ask for work, pull, compute, push, report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from nodes.training.compute import Compute
from nodes.training.learner import StepResult
from nodes.training.pulling import Pulling
from nodes.training.reporting import Reporter
from paramserver.client import TableClient
from paramserver.clocks import cut
from paramserver.errors import NonFinite, RequestFailed, TryAgain, UnknownTable, Unsupported
from paramserver.slices import Floats, aligned
from paramserver.spec import RunSpec
from paramserver.transport.links import Links
from paramserver.types import PeerId, Span
from paramserver.waiting import first_error
from paramserver.wire.run import (
    Evaluate,
    Finished,
    MakeWeights,
    Noted,
    Parts,
    Range,
)

log = logging.getLogger(__name__)

PAUSE = 0.05
LONGEST_PAUSE = 2.0

T = TypeVar("T")


class RunWorker:
    """Works on one run until it has finished.

    ``run_address`` returns the address of the run table's primary as the map has it now.
    """

    def __init__(
        self,
        spec: RunSpec,
        me: PeerId,
        device: str,
        kind: str,
        links: Links,
        table: TableClient,
        run_address: Callable[[], str],
        compute: Compute,
        executor: Executor,
        fingerprint: str,
    ) -> None:
        self._spec = spec
        self._device = device
        self._table = table
        self._compute = compute
        self._executor = executor
        self._reporter = Reporter(spec, me, device, kind, fingerprint, links, run_address)
        admission = self._reporter.admission if spec.table.consistency == "ssp" else None
        self._pulling = Pulling(table, spec.table.size, spec.deadline, admission)
        self._pushes: dict[int, asyncio.Task[None]] = {}
        self._gradients: dict[int, Floats] = {}
        self._group: asyncio.TaskGroup | None = None
        self._leaving = False
        self._pass = 0

    def __repr__(self) -> str:
        return f"<RunWorker on {self._spec.name}: {self._reporter!r}, {self._pulling!r}>"

    def leave(self) -> None:
        """Finish the step under way, report it, and leave the run."""
        self._leaving = True

    async def run(self) -> Finished:
        """Work until the run is over, or until this worker has left it.

        A request that fails is not the end: the worker asks anew for its work, since the map may
        have changed, for as long as the run table's primary can be reached.

        Raises:
            Evicted: this incarnation was dropped.
            TryAgain: the run table could not be reached for ``lost_after`` seconds.
        """
        loop = asyncio.get_running_loop()
        pause, said = PAUSE, ""
        while True:
            try:
                return await self._work()
            except (RequestFailed, UnknownTable, Unsupported) as error:
                if str(error) != said:
                    said = str(error)
                    log.info("asking for work again: %s", said)
                if loop.time() - self._reporter.answered > self._spec.lost_after:
                    raise TryAgain(
                        f"run {self._spec.name} was out of reach for "
                        f"{self._spec.lost_after:g} s: {error}"
                    ) from error
                await asyncio.sleep(pause)
                recent = loop.time() - self._reporter.answered < 2 * pause
                pause = PAUSE if recent else min(pause * 2, LONGEST_PAUSE)
                self._pulling.forget()

    async def _work(self) -> Finished:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                beats = group.create_task(self._reporter.beat())
                try:
                    return await self._loop()
                finally:
                    beats.cancel()
                    self._pulling.stop()
                    for push in self._pushes.values():
                        push.cancel()
                    self._pushes.clear()
        except BaseExceptionGroup as several:
            raise first_error(several) from several
        finally:
            self._group = None

    async def _loop(self) -> Finished:
        while True:
            if self._leaving:
                await self._settle_pushes()
                await self._reporter.leave()
                return Finished("left", None)
            work = await self._reporter.report(wants=True)
            if isinstance(work, Finished):
                return work
            if isinstance(work, MakeWeights):
                weights = await self._off_loop(self._compute.initial_weights, work.seed)
                await self._table.initialise(weights)
                self._reporter.tidings.initialised = True
            elif isinstance(work, Parts):
                await self._do_parts(work)
            elif isinstance(work, Range):
                await self._do_range(work)
            elif isinstance(work, Evaluate):
                await self._do_evaluate(work)

    async def _train(
        self, epoch: int, span: Span, pieces: Sequence[Span], update: int, out: Floats
    ) -> StepResult:
        """Compute what is to be pushed for a span: its gradient, or what local steps on it make.

        ``pieces`` are the local steps' minibatches, ``update`` the count of server updates in the
        weights.
        """
        weights, rule = self._pulling.weights(), self._spec.local
        if rule is None:
            gradient = self._compute.gradient
            return await self._off_loop(gradient, weights, epoch, span.start, span.stop, out)
        rate = rule.rate_at(update)
        return await self._off_loop(self._compute.local, weights, epoch, pieces, rate, out)

    # Training in bsp

    async def _do_parts(self, work: Parts) -> None:
        pulling = self._pulling
        if pulling.iteration != work.clock:
            await pulling.next(work.clock, work.clock)
            await self._settle_pushes()
            if not pulling.front.is_of(work.clock):
                pulling.forget()
                await asyncio.sleep(PAUSE)  # others had our parts; the run table has yet to hear
                return
        if not pulling.pulls_ahead(work.clock + 1):
            assert self._group is not None
            pulling.pull_ahead(self._group, work.clock + 1, work.clock + 1)
        for part, start, stop in work.parts:
            gradient = self._gradients.get(part)
            if gradient is None:
                gradient = self._gradients[part] = aligned(self._spec.table.size)
            old = self._pushes.pop(part, None)
            if old is not None:
                await old  # a part that is handed out again: what is pushed must not change
            span = Span(start, stop)
            pieces = cut(span, self._spec.period)
            result = await self._train(work.epoch, span, pieces, work.clock, gradient)
            if not self._sound(result, f"part {part} of clock {work.clock}"):
                return
            await self._push_part(work.clock, part, result, gradient)
            if self._reporter.tidings.poisoned is not None:
                return
            self._reporter.tidings.parts.append(
                (work.clock, part, result.examples, result.loss_sum, result.correct)
            )

    async def _push_part(self, clock: int, part: int, result: StepResult, gradient: Floats) -> None:
        """Push a part and wait until every primary holds it; its commit is awaited later."""
        assert self._group is not None
        held = asyncio.get_running_loop().create_future()

        def note() -> None:
            if not held.done():
                held.set_result(None)

        async def push() -> None:
            try:
                outcome = await self._table.push_part(
                    gradient, clock=clock, part=part, examples=result.examples, held=note
                )
            except NonFinite as error:
                self._reporter.tidings.refused += 1
                self._reporter.tidings.poisoned = str(error)
                return
            self._reporter.tidings.duplicate += outcome.duplicate

        self._pushes[part] = task = self._group.create_task(push())
        await asyncio.wait({task, held}, return_when=asyncio.FIRST_COMPLETED)
        if not held.done():
            await task

    async def _settle_pushes(self) -> None:
        """Wait for the answers of an earlier clock: its buffers are about to be used again."""
        for part, push in list(self._pushes.items()):
            await push
            self._pushes.pop(part, None)

    # Training in ssp and asp

    async def _do_range(self, work: Range) -> None:
        size = work.batch_size
        batch = max(size // self._spec.period, 1)
        iteration = work.clock
        gradient = self._gradients.setdefault(0, aligned(self._spec.table.size))
        for start in range(work.start, work.stop, size):
            stop = min(start + size, work.stop)
            await self._pulling.next(None, iteration)
            if self._spec.local is None:
                assert self._group is not None
                # Where it trains locally, weights without its own last period would add it twice.
                self._pulling.pull_ahead(self._group, None, iteration + 1)
            pieces = [Span(at, min(at + batch, stop)) for at in range(start, stop, batch)]
            update = int(self._pulling.front.versions.min())
            result = await self._train(work.epoch, Span(start, stop), pieces, update, gradient)
            if not self._sound(result, f"positions {start} to {stop} of epoch {work.epoch}"):
                return
            try:
                outcome = await self._table.push(
                    gradient,
                    scale=1.0 / (stop - start) if self._spec.mode == "gradient" else 1.0,
                    computed_from=self._pulling.front,
                    finite=True,
                )
            except NonFinite as error:
                self._reporter.tidings.refused += 1
                self._reporter.tidings.poisoned = str(error)
                return
            except BaseException:
                # It may have reached some primaries.
                self._reporter.tidings.repeated += stop - start
                raise
            self._reporter.tidings.pushed(outcome)
            self._reporter.tidings.ranges.append(
                (work.lease, stop, result.examples, result.loss_sum, result.correct)
            )
            iteration += 1
            if stop < work.stop:
                answer: Noted = await self._reporter.report(wants=False)
                if answer.recalled or self._leaving:
                    return

    # Evaluation

    async def _do_evaluate(self, work: Evaluate) -> None:
        """Evaluate with the weights of the pass: in bsp of its clock, else as they stand now."""
        if work.clock is not None:
            if self._pulling.iteration != work.clock:
                await self._pulling.next(work.clock, work.clock)
                await self._settle_pushes()
        elif self._pass != work.number:
            await self._pulling.fresh()
        self._pass = work.number
        result = await self._off_loop(
            self._compute.evaluate, self._pulling.weights(), work.start, work.stop, work.split
        )
        self._reporter.tidings.evaluated.append(
            (work.lease, result.examples, result.loss_sum, result.correct)
        )

    # Odds and ends of a step

    def _sound(self, result: StepResult, what: str) -> bool:
        """Say whether a result is finite; where it is not, the next report says so."""
        if result.finite:
            return True
        made = "gradient of" if self._spec.local is None else "local training on"
        self._reporter.tidings.poisoned = (
            f"its {made} {what} held NaN or infinity (on {self._device}); nothing was sent"
        )
        log.error("%s", self._reporter.tidings.poisoned)
        return False

    async def _off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run blocking numerical work on the compute thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)
