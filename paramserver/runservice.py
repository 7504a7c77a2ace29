"""The run table's primary: lends work over the wire and drops who is silent."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from paramserver.errors import NotReady, Refused, RequestFailed, UnknownTable
from paramserver.mapview import MapView
from paramserver.runreport import snapshot
from paramserver.runsave import load, save
from paramserver.runstate import Phase
from paramserver.runtable import RunTable, Work
from paramserver.spec import RunSpec
from paramserver.transport.connection import Connection
from paramserver.transport.links import Links
from paramserver.transport.server import Request, Response
from paramserver.types import PeerId
from paramserver.waiting import Changes
from paramserver.wire.data import Evict
from paramserver.wire.run import (
    Admit,
    Admitted,
    AskCheckpoint,
    Asked,
    CheckpointMade,
    CutAt,
    CutState,
    Follow,
    GoOn,
    Heartbeat,
    Kept,
    Leave,
    Noted,
    Report,
    SetBatchSize,
    Snapshot,
    StopRun,
    TakeCut,
)

log = logging.getLogger(__name__)

TICKS_PER_DEADLINE = 40
WAIT_SHARE = 0.25


class RunService:
    """Serves one run's table; `run` is its heart and ends with the task that owns it."""

    def __init__(
        self,
        spec: RunSpec,
        links: Links,
        view: MapView,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = RunTable(spec, now())
        self.changes = Changes()
        self.spec = spec
        self._links = links
        self._view = view
        self._now = now
        self._wait = WAIT_SHARE * spec.deadline
        self._watched: dict[Connection, PeerId] = {}
        self._waiting: set[PeerId] = set()

    def __repr__(self) -> str:
        return f"<RunService {self.table!r}>"

    @property
    def handlers(self) -> dict[type, Callable[[Request], Response | Awaitable[Response]]]:
        """What this role answers, by message."""
        return {
            Report: self._report,
            Heartbeat: self._heartbeat,
            Leave: self._leave,
            Admit: self._admit,
            Follow: self._follow,
            StopRun: self._stop,
            TakeCut: self._take_cut,
            CutState: self._cut_state,
            GoOn: self._go_on,
            Kept: self._kept,
            AskCheckpoint: self._ask_checkpoint,
            CheckpointMade: self._checkpoint_made,
            SetBatchSize: self._set_batch_size,
        }

    async def run(self) -> None:
        """Drop silent workers, and lend their work again, until cancelled."""
        while True:
            for who in self.table.tick(self._now()):
                log.warning("worker %s was dropped: %s", who, self.table.roster.dropped[who])
                self.changes.notify()
            for who in self.table.unconfirmed:
                await self._evict(who)
            known = len(self.table.roster.dropped)
            await self.changes.until(
                lambda known=known: len(self.table.roster.dropped) != known,  # type: ignore[misc]
                self.spec.deadline / TICKS_PER_DEADLINE,
            )

    def snapshot(self) -> dict[str, Any]:
        """Return the run's state for people."""
        return snapshot(self.table, self._now())

    async def _evict(self, who: PeerId) -> None:
        """Have every primary refuse an incarnation, then lend its work again."""
        placed = self._view.map
        entry = placed.tables.get(self.spec.table_name)
        if entry is None:
            return
        primaries = {placed.members[chain[0]].address for chain in entry.chains}
        message = Evict(table=self.spec.table_name, worker=who.name, incarnation=who.incarnation)
        highest = -1
        try:
            for address in sorted(primaries):
                reply = await self._links.request(address, message, deadline=self.spec.deadline / 2)
                highest = max(highest, reply.message.highest)
        except (RequestFailed, Refused, NotReady) as error:
            if who not in self._waiting:
                log.warning("eviction of %s is not confirmed yet: %s", who, error)
                self._waiting.add(who)
            return
        self._waiting.discard(who)
        self.table.confirm_dropped(who, highest)
        self.changes.notify()

    def _mine(self, run: str) -> None:
        if run != self.spec.name:
            raise UnknownTable(f"the run table of {run!r} is not here; this is {self.spec.name!r}")

    def _watch(self, connection: Connection, who: PeerId) -> None:
        """Take a broken connection of a worker for a sign that it died."""
        if self._watched.get(connection) == who:
            return
        self._watched[connection] = who

        mine = weakref.ref(self)  # a connection outlives the runs it serves

        def lost() -> None:
            service = mine()
            if service is not None:
                service._watched.pop(connection, None)
                service.table.roster.link_lost(who, service._now())

        connection.add_close_callback(lost)

    async def _report(self, request: Request) -> Response:
        report: Report = request.message
        self._mine(report.run)
        who = PeerId(report.worker, report.incarnation)
        self.table.report(report, self._now())
        self._watch(request.connection, who)
        self.changes.notify()
        if not report.wants:
            recalled = bool(report.ranges) and not self.table.lends_to(who)
            return Response(Noted(recalled=recalled))
        found: list[Work] = []

        def lent() -> bool:
            work = self.table.work_for(who, self._now())
            found[:] = [] if work is None else [work]
            return work is not None

        await self.changes.until(lent, self._wait)
        return Response(found[0] if found else Noted())

    def _heartbeat(self, request: Request) -> Response:
        beat: Heartbeat = request.message
        self._mine(beat.run)
        self.table.roster.hear(PeerId(beat.worker, beat.incarnation), self._now())
        return Response(Noted())

    def _leave(self, request: Request) -> Response:
        leaving: Leave = request.message
        self._mine(leaving.run)
        self.table.leave(PeerId(leaving.worker, leaving.incarnation), self._now())
        self.changes.notify()
        return Response(Noted())

    async def _admit(self, request: Request) -> Response:
        ask: Admit = request.message
        self._mine(ask.run)
        who = PeerId(ask.worker, ask.incarnation)
        self.table.roster.hear(who, self._now())
        least: list[int] = []

        def may() -> bool:
            found = self.table.admit(who, ask.clock)
            least[:] = [] if found is None else [found]
            return found is not None

        if self.table.finished or await self.changes.until(may, self._wait):
            return Response(Admitted(ready=True, least=least[0] if least else ask.clock))
        return Response(Admitted(ready=False, least=0))

    async def _follow(self, request: Request) -> Response:
        ask: Follow = request.message
        self._mine(ask.run)
        await self.changes.until(lambda: self.table.serial > ask.after, self._wait)
        return Response(Snapshot(serial=self.table.serial, state=self.snapshot()))

    def _stop(self, request: Request) -> Response:
        ask: StopRun = request.message
        self._mine(ask.run)
        self.table.stop(ask.reason, self._now())
        self.changes.notify()
        return Response(Noted())

    # Checkpoints

    def _take_cut(self, request: Request) -> Response:
        ask: TakeCut = request.message
        self._mine(ask.run)
        table = self.table
        if table.phase is Phase.INITIALISE:
            raise NotReady(f"run {self.spec.name} has not begun to train")
        if table.phase is Phase.TRAIN and table.final_clock is not None:
            return Response(CutAt(clock=table.want_cut(ask.ahead), state=None))
        return Response(CutAt(clock=table.final_clock, state=save(table, self._now())))

    async def _cut_state(self, request: Request) -> Response:
        ask: CutState = request.message
        self._mine(ask.run)
        table = self.table

        def there() -> bool:
            return table.cut is not None and table.cut["clock"] == ask.clock

        await self.changes.until(lambda: there() or table.phase is not Phase.TRAIN, self._wait)
        state = table.cut if there() else None
        over = state is None and table.phase is not Phase.TRAIN
        return Response(CutAt(clock=ask.clock, state=state, over=over))

    def _go_on(self, request: Request) -> Response:
        ask: GoOn = request.message
        self._mine(ask.run)
        if self.table.phase is Phase.INITIALISE:
            load(self.table, ask.state, ask.updates, self._now())
            self.changes.notify()
        return Response(Noted())

    def _kept(self, request: Request) -> Response:
        kept: Kept = request.message
        self._mine(kept.run)
        self.table.kept(kept.number, self._now())
        self.changes.notify()
        return Response(Noted())

    def _ask_checkpoint(self, request: Request) -> Response:
        ask: AskCheckpoint = request.message
        self._mine(ask.run)
        number = self.table.ask_checkpoint()
        self.changes.notify()
        return Response(Asked(number=number))

    def _checkpoint_made(self, request: Request) -> Response:
        made: CheckpointMade = request.message
        self._mine(made.run)
        self.table.note_checkpoint(made.number, made.folder, made.error)
        self.changes.notify()
        return Response(Noted())

    def _set_batch_size(self, request: Request) -> Response:
        ask: SetBatchSize = request.message
        self._mine(ask.run)
        self.table.set_batch_size(ask.batch_size)
        self.changes.notify()
        return Response(Noted())
