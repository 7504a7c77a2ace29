"""The worker's loop of one run: ask for work, pull, compute, push, report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nodes.training.compute import Compute
from nodes.training.learner import StepResult
from paramserver.client import Copy, PushResult, TableClient
from paramserver.clocks import cut
from paramserver.errors import NonFinite, RequestFailed, TryAgain, UnknownTable, Unsupported
from paramserver.slices import Floats, aligned
from paramserver.spec import RunSpec
from paramserver.transport.links import Links
from paramserver.types import PeerId, Span
from paramserver.waiting import first_error
from paramserver.wire.run import (
    Admit,
    Admitted,
    Evaluate,
    Finished,
    Heartbeat,
    Leave,
    MakeWeights,
    Noted,
    Parts,
    Range,
    Report,
)

log = logging.getLogger(__name__)

PAUSE = 0.05
LONGEST_PAUSE = 2.0
FRESH = -2  # stands for the iteration of weights that are for evaluation only

T = TypeVar("T")


@dataclass(slots=True)
class Tidings:
    """What the next report will say."""

    initialised: bool = False
    parts: list[tuple[int, int, int, float, int]] = field(default_factory=list)
    ranges: list[tuple[int, int, int, float, int]] = field(default_factory=list)
    evaluated: list[tuple[int, int, float, int]] = field(default_factory=list)
    applied: int = 0
    duplicate: int = 0
    refused: int = 0
    staleness: int = 0
    slices: int = 0
    repeated: int = 0
    poisoned: str | None = None

    def pushed(self, result: PushResult) -> None:
        """Count one logical push."""
        if result.duplicate:
            self.duplicate += 1
        else:
            self.applied += 1
        self.staleness += result.staleness
        self.slices += result.slices


class RunWorker:
    """Works on one run until it has finished.

    ``run_address`` returns the address of the run table's primary as the map has it now.
    """

    def __init__(
        self,
        spec: RunSpec,
        me: PeerId,
        device: str,
        links: Links,
        table: TableClient,
        run_address: Callable[[], str],
        compute: Compute,
        executor: Executor,
        fingerprint: str,
    ) -> None:
        self._spec = spec
        self._me = me
        self._device = device
        self._links = links
        self._table = table
        self._run_address = run_address
        self._compute = compute
        self._executor = executor
        self._fingerprint = fingerprint
        self._tidings = Tidings()
        self._unsent: list[Report] = []
        self._answered = asyncio.get_running_loop().time()
        self._reports = 0
        self._front = Copy(spec.table.size)
        self._back = Copy(spec.table.size)
        self._on_device = False
        self._front_clock = -1
        self._prefetch: asyncio.Task[bool] | None = None
        self._prefetched = -1
        self._pushes: dict[int, asyncio.Task[None]] = {}
        self._gradients: dict[int, Floats] = {}
        self._group: asyncio.TaskGroup | None = None
        self._leaving = False
        self._pass = 0

    def __repr__(self) -> str:
        return f"<RunWorker {self._me} on {self._spec.name}, weights of clock {self._front_clock}>"

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
                if loop.time() - self._answered > self._spec.lost_after:
                    raise TryAgain(
                        f"run {self._spec.name} was out of reach for "
                        f"{self._spec.lost_after:g} s: {error}"
                    ) from error
                await asyncio.sleep(pause)
                recent = loop.time() - self._answered < 2 * pause
                pause = PAUSE if recent else min(pause * 2, LONGEST_PAUSE)
                self._front_clock = -1
                self._on_device = False

    async def _work(self) -> Finished:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                beats = group.create_task(self._beat())
                try:
                    return await self._loop()
                finally:
                    beats.cancel()
                    self._forget_prefetch()
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
                return await self._go()
            work = await self._ask()
            if isinstance(work, Finished):
                return work
            if isinstance(work, MakeWeights):
                weights = await self._off_loop(self._compute.initial_weights, work.seed)
                await self._table.initialise(weights)
                self._tidings.initialised = True
            elif isinstance(work, Parts):
                await self._do_parts(work)
            elif isinstance(work, Range):
                await self._do_range(work)
            elif isinstance(work, Evaluate):
                await self._do_evaluate(work)

    # Talking to the run table

    async def _ask(self) -> Any:
        """Report what was done and wait for work."""
        while True:
            answer = await self._report(wants=True)
            if not isinstance(answer, Noted):
                return answer
            if self._leaving:
                return await self._go()

    async def _go(self) -> Finished:
        """Tell what is still untold, and that nothing more will come."""
        await self._settle_pushes()
        await self._report(wants=False)
        leave = Leave(run=self._spec.name, worker=self._me.name, incarnation=self._me.incarnation)
        await self._links.request(self._run_address(), leave, deadline=self._spec.deadline)
        return Finished("left", None)

    async def _report(self, *, wants: bool) -> Any:
        """Tell the run table what was done; what got no answer before is told again, first."""
        told, self._tidings = self._tidings, Tidings()
        self._reports += 1
        self._unsent.append(
            Report(
                run=self._spec.name,
                worker=self._me.name,
                incarnation=self._me.incarnation,
                device=self._device,
                data=self._fingerprint,
                wants=wants,
                number=self._reports,
                initialised=told.initialised,
                parts=told.parts,
                ranges=told.ranges,
                evaluated=told.evaluated,
                pushes=(told.applied, told.duplicate, told.refused),
                versions=(told.staleness, told.slices),
                repeated=told.repeated,
                poisoned=told.poisoned,
            )
        )
        while True:
            report = self._unsent[0]
            last = len(self._unsent) == 1
            reply = await self._links.request(
                self._run_address(),
                report if last else replace(report, wants=False),
                deadline=self._spec.deadline,
            )
            self._unsent.pop(0)
            self._answered = asyncio.get_running_loop().time()
            if last:
                return reply.message

    async def _beat(self) -> None:
        """Say that this worker lives, also while it computes."""
        beat = Heartbeat(
            run=self._spec.name, worker=self._me.name, incarnation=self._me.incarnation
        )
        while True:
            await asyncio.sleep(self._spec.beat)
            try:
                await self._links.request(self._run_address(), beat, deadline=self._spec.deadline)
            except RequestFailed as error:
                log.warning("heartbeat: %s", error)

    # Weights

    async def _fetch(self, clock: int | None, iteration: int) -> bool:
        """Pull into the back buffer once the run's consistency allows it."""
        if self._spec.table.consistency == "ssp":
            await self._admission(iteration)
        while not await self._table.pull_into(
            self._back, clock=clock, deadline=self._spec.deadline
        ):
            pass
        return True

    async def _admission(self, iteration: int) -> None:
        ask = Admit(
            run=self._spec.name,
            worker=self._me.name,
            incarnation=self._me.incarnation,
            clock=iteration,
        )
        while True:
            reply = await self._links.request(
                self._run_address(), ask, deadline=self._spec.deadline
            )
            answer: Admitted = reply.message
            if answer.ready:
                return

    def _start_prefetch(self, clock: int | None, iteration: int) -> None:
        """Begin the next pull while this minibatch computes."""
        assert self._group is not None
        self._prefetched = iteration
        self._prefetch = self._group.create_task(self._fetch(clock, iteration))

    def _forget_prefetch(self) -> None:
        if self._prefetch is not None:
            self._prefetch.cancel()
            self._prefetch = None
        self._prefetched = -1

    async def _next_weights(self, clock: int | None, iteration: int) -> None:
        """Make the weights for ``iteration`` the front buffer's."""
        if self._prefetch is not None and self._prefetched == iteration:
            await self._prefetch
        else:
            if self._prefetch is not None:
                self._forget_prefetch()
            await self._fetch(clock, iteration)
        self._prefetch = None
        self._front, self._back = self._back, self._front
        self._front_clock = iteration
        self._on_device = False

    def _weights(self) -> Floats | None:
        """Return the front weights where the device does not hold them yet."""
        if self._on_device:
            return None
        self._on_device = True
        return self._front.weights

    async def _train(
        self, epoch: int, span: Span, pieces: Sequence[Span], update: int, out: Floats
    ) -> StepResult:
        """Compute what is to be pushed for a span: its gradient, or what local steps on it make.

        ``pieces`` are the local steps' minibatches, ``update`` the count of server updates in the
        weights.
        """
        weights, rule = self._weights(), self._spec.local
        if rule is None:
            gradient = self._compute.gradient
            return await self._off_loop(gradient, weights, epoch, span.start, span.stop, out)
        rate = rule.rate_at(update)
        return await self._off_loop(self._compute.local, weights, epoch, pieces, rate, out)

    # Training in bsp

    async def _do_parts(self, work: Parts) -> None:
        if self._front_clock != work.clock:
            await self._next_weights(work.clock, work.clock)
            await self._settle_pushes()
            if not self._front.is_of(work.clock):
                self._front_clock = -1
                await asyncio.sleep(PAUSE)  # others had our parts; the run table has yet to hear
                return
        if self._prefetched != work.clock + 1 or self._prefetch is None:
            self._start_prefetch(work.clock + 1, work.clock + 1)
        for part, start, stop in work.parts:
            gradient = self._gradients.get(part)
            if gradient is None:
                gradient = self._gradients[part] = aligned(self._spec.table.size)
            span = Span(start, stop)
            pieces = cut(span, self._spec.period)
            result = await self._train(work.epoch, span, pieces, work.clock, gradient)
            if not self._sound(result, f"part {part} of clock {work.clock}"):
                return
            await self._push_part(work.clock, part, result, gradient)
            if self._tidings.poisoned is not None:
                return
            self._tidings.parts.append(
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
                self._tidings.refused += 1
                self._tidings.poisoned = str(error)
                return
            self._tidings.duplicate += outcome.duplicate

        old = self._pushes.pop(part, None)
        if old is not None:
            await old
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
        if self._prefetched != iteration:
            self._forget_prefetch()
        for start in range(work.start, work.stop, size):
            stop = min(start + size, work.stop)
            await self._next_weights(None, iteration)
            if self._spec.local is None:
                # Where it trains locally, weights without its own last period would add it twice.
                self._start_prefetch(None, iteration + 1)
            pieces = [Span(at, min(at + batch, stop)) for at in range(start, stop, batch)]
            update = int(self._front.versions.min())
            result = await self._train(work.epoch, Span(start, stop), pieces, update, gradient)
            if not self._sound(result, f"positions {start} to {stop} of epoch {work.epoch}"):
                return
            try:
                outcome = await self._table.push(
                    gradient,
                    scale=1.0 / (stop - start) if self._spec.mode == "gradient" else 1.0,
                    computed_from=self._front,
                    finite=True,
                )
            except NonFinite as error:
                self._tidings.refused += 1
                self._tidings.poisoned = str(error)
                return
            except BaseException:
                self._tidings.repeated += stop - start  # it may have reached some primaries
                raise
            self._tidings.pushed(outcome)
            self._tidings.ranges.append(
                (work.lease, stop, result.examples, result.loss_sum, result.correct)
            )
            iteration += 1
            if stop < work.stop:
                answer: Noted = await self._report(wants=False)
                if answer.recalled or self._leaving:
                    return

    # Evaluation

    async def _do_evaluate(self, work: Evaluate) -> None:
        """Evaluate with the weights of the pass: in bsp of its clock, else as they stand now."""
        if work.clock is not None:
            if self._front_clock != work.clock:
                await self._next_weights(work.clock, work.clock)
                await self._settle_pushes()
        elif self._pass != work.number:
            self._forget_prefetch()
            while not await self._table.pull_into(
                self._back, clock=None, deadline=self._spec.deadline
            ):
                pass
            self._front, self._back = self._back, self._front
            self._front_clock = FRESH
            self._on_device = False
        self._pass = work.number
        result = await self._off_loop(
            self._compute.evaluate, self._weights(), work.start, work.stop, work.split
        )
        self._tidings.evaluated.append(
            (work.lease, result.examples, result.loss_sum, result.correct)
        )

    # Odds and ends of a step

    def _sound(self, result: StepResult, what: str) -> bool:
        """Say whether a result is finite; where it is not, the next report says so."""
        if result.finite:
            return True
        made = "gradient of" if self._spec.local is None else "local training on"
        self._tidings.poisoned = (
            f"its {made} {what} held NaN or infinity (on {self._device}); nothing was sent"
        )
        log.error("%s", self._tidings.poisoned)
        return False

    async def _off_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run blocking numerical work on the compute thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)
