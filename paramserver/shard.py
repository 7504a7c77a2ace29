"""The shard's role: serves its slices to whoever asks, under the map it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from kernels.rules import state_count
from paramserver.applier import Applier
from paramserver.errors import BadMessage, NonFinite, Refused, WrongAttempt
from paramserver.placement import ClusterMap
from paramserver.slices import Floats, Job, Shared, Slice, Table, is_finite
from paramserver.store import Store
from paramserver.transport.server import Request, Response
from paramserver.types import PeerId
from paramserver.wire.data import (
    Capture,
    Captured,
    Evict,
    Held,
    Initialise,
    Initialised,
    Pull,
    Pulled,
    Push,
    Pushed,
    PushPart,
    Restore,
    WasEvicted,
)

INLINE_CHECK = 1 << 18


class Shard:
    """Serves the slices of one peer. ``wait`` is how many seconds a request may be kept waiting."""

    def __init__(self, me: PeerId, applier: Applier, store: Store, *, wait: float) -> None:
        self._me = me
        self._applier = applier
        self._store = store
        self._wait = wait

    def __repr__(self) -> str:
        return f"<Shard {self._me}: {self._store!r}>"

    @property
    def handlers(self) -> dict[type, Callable[[Request], Response | Awaitable[Response]]]:
        """What this role answers, by message."""
        return {
            Pull: self._pull,
            Push: self._push,
            PushPart: self._push_part,
            Initialise: self._initialise,
            Capture: self._capture,
            Restore: self._restore,
            Evict: self._evict,
        }

    def adopt(self, placed: ClusterMap) -> None:
        """Hold what the map gives this peer, and nothing else."""
        mine = placed.held_by(*self._me)
        for name, entry in placed.tables.items():
            indices = mine.get(name, [])
            if indices:
                self._store.adopt(
                    name, entry.spec, entry.attempt, [(i, entry.epochs[i]) for i in indices]
                )
        for name in set(self._store.tables) - set(mine):
            self._store.drop(name)
        self._applier.published.notify()

    def _find(
        self, request: Request, name: str, wanted: Sequence[tuple[int, ...]]
    ) -> tuple[Table, list[Slice]]:
        table = self._store.table(name)
        if request.attempt != table.attempt:
            raise WrongAttempt(
                f"table {name!r} is at attempt {table.attempt}, not {request.attempt}",
                attempt=table.attempt,
            )
        return table, [self._store.find(table, entry[0], entry[1]) for entry in wanted]

    # Pulls

    def _pull(self, request: Request) -> Response | Awaitable[Response]:
        ask: Pull = request.message
        table, slices = self._find(request, ask.table, ask.slices)

        def ready() -> bool:
            return all(
                held.current is not None and (ask.clock is None or held.current.clock >= ask.clock)
                for held in slices
            )

        if ready():
            return self._send(table, slices, ask.clock)
        return self._pull_later(table, slices, ask.clock, ready)

    async def _pull_later(
        self, table: Table, slices: Sequence[Slice], clock: int | None, ready: Callable[[], bool]
    ) -> Response:
        if await self._applier.published.until(ready, self._wait):
            return self._send(table, slices, clock)
        return Response(Pulled(ready=False, versions=[]))

    def _send(self, table: Table, slices: Sequence[Slice], clock: int | None) -> Response:
        pinned = self._store.pin(slices, clock)
        assert pinned is not None
        return Response(
            Pulled(
                ready=True,
                versions=[
                    (held.epoch, version.n, version.clock)
                    for held, version in zip(slices, pinned, strict=True)
                ],
            ),
            body=[version.array.data.cast("B") for version in pinned],
            on_sent=lambda: self._store.unpin(table, pinned),
        )

    # Pushes

    def _body(self, request: Request, slices: Sequence[Slice]) -> Floats:
        wanted = sum(held.size for held in slices) * 4
        if len(request.body) != wanted:
            raise BadMessage(f"a body of {len(request.body)} bytes where {wanted} belong")
        return np.frombuffer(request.body, dtype=np.float32)

    async def _finite(self, table: Table, values: Floats, worker: str) -> None:
        """Refuse NaN and infinities, before anything of this peer's share is applied."""
        if values.size <= INLINE_CHECK:
            good = is_finite(values)
        else:
            good = await asyncio.get_running_loop().run_in_executor(None, is_finite, values)
        if not good:
            table.refused += 1
            raise NonFinite(
                f"the push of {worker} to table {table.name!r} holds NaN or infinity: "
                f"{self._me.name} refused its share"
            )

    async def _push(self, request: Request) -> Response:
        push: Push = request.message
        table, slices = self._find(request, push.table, push.slices)
        gradient = self._body(request, slices)
        await self._finite(table, gradient, push.worker)
        table, slices = self._find(request, push.table, push.slices)  # as they are by now
        worker = PeerId(push.worker, push.incarnation)
        memory = Shared(request.keep().release)
        try:
            accepted = self._store.accept(
                table,
                [(held, entry[2]) for held, entry in zip(slices, push.slices, strict=True)],
                gradient,
                memory,
                worker=worker,
                sequence=push.sequence,
                settled=push.settled,
                scale=push.scale,
            )
        finally:
            if not memory.users:
                memory.free()
        await self._applier.submit(accepted.jobs)
        if accepted.joined:
            await self._applier.published.until(
                lambda: all(held.ledger.applied(worker, push.sequence) for held in slices),
                self._wait,
            )
        return Response(
            Pushed(
                committed=all(held.ledger.applied(worker, push.sequence) for held in slices),
                repeats=accepted.repeats + accepted.joined,
                staleness=sum(accepted.staleness),
                slices=len(accepted.staleness),
            )
        )

    async def _push_part(self, request: Request) -> Response:
        push: PushPart = request.message
        table, slices = self._find(request, push.table, push.slices)
        gradient = self._body(request, slices)
        await self._finite(table, gradient, push.worker)
        table, slices = self._find(request, push.table, push.slices)  # as they are by now
        memory = Shared(request.keep().release)
        try:
            accepted = self._store.stage(
                table,
                [(held, entry[2]) for held, entry in zip(slices, push.slices, strict=True)],
                gradient,
                memory,
                worker=PeerId(push.worker, push.incarnation),
                clock=push.clock,
                part=push.part,
                examples=push.examples,
            )
        finally:
            if not memory.users:
                memory.free()
        request.interim(Held(clock=push.clock, part=push.part))
        await self._applier.submit(accepted.jobs)
        committed = await self._applier.published.until(
            lambda: all(held.clock > push.clock for held in slices), self._wait
        )
        return Response(
            Pushed(
                committed=committed,
                repeats=accepted.repeats,
                staleness=sum(accepted.staleness),
                slices=len(accepted.staleness),
            )
        )

    def _initialise(self, request: Request) -> Response:
        message: Initialise = request.message
        _, slices = self._find(request, message.table, message.slices)
        values = self._body(request, slices)
        taken = 0
        start = 0
        for held in slices:
            taken += self._store.initialise(held, values[start : start + held.size])
            start += held.size
        self._applier.published.notify()
        return Response(Initialised(taken=taken))

    # Checkpoints

    async def _capture(self, request: Request) -> Response:
        ask: Capture = request.message
        table, slices = self._find(request, ask.table, ask.slices)
        jobs: list[Job] = []
        copies = []
        try:
            for held in slices:
                copy, more = self._store.capture(table, held, ask.clock)
                copies.append(copy)
                jobs.extend(more)
        except Refused:  # the clock has passed: nobody waits for the others' copies
            for held, copy in zip(slices, copies, strict=False):
                if held.captured is copy:
                    held.captured = None
            raise
        await self._applier.submit(jobs)
        if not await self._applier.published.until(
            lambda: all(copy.done for copy in copies), self._wait
        ):
            return Response(Captured(ready=False, versions=[]))
        body = [
            copy.arrays[which].data.cast("B")
            for which in range(1 + state_count(table.rule.name))
            for copy in copies
        ]

        def sent() -> None:
            for held, copy in zip(slices, copies, strict=True):
                if held.captured is copy:
                    held.captured = None

        versions = [(copy.n, copy.clock) for copy in copies]
        return Response(Captured(ready=True, versions=versions), body=body, on_sent=sent)

    def _restore(self, request: Request) -> Response:
        message: Restore = request.message
        table, slices = self._find(request, message.table, message.slices)
        arrays = 1 + state_count(table.rule.name)
        size = sum(held.size for held in slices)
        if len(request.body) != size * arrays * 4 or len(message.versions) != len(slices):
            raise BadMessage(
                f"a body of {len(request.body)} bytes and {len(message.versions)} versions for "
                f"{len(slices)} slices of {size} elements with {arrays - 1} states"
            )
        values = np.frombuffer(request.body, dtype=np.float32).reshape(arrays, size)
        taken = 0
        start = 0
        for held, (n, clock) in zip(slices, message.versions, strict=True):
            piece = values[:, start : start + held.size]
            taken += self._store.restore(held, piece[0], list(piece[1:]), n, clock)
            start += held.size
        self._applier.published.notify()
        return Response(Initialised(taken=taken))

    def _evict(self, request: Request) -> Response:
        message: Evict = request.message
        worker = PeerId(message.worker, message.incarnation)
        table = self._store.table(message.table)
        return Response(WasEvicted(highest=self._store.evict(table, worker)))
