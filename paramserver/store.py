"""What happens to the slices that one shard holds. Synchronous, no I/O.

Weights are never changed in place. An update writes the next version into a spare array and then
publishes it, so a pull under way keeps sending the version that it began with, and no reader ever
sees half an update. Numerical work is not done here: `Store.accept` returns jobs in the order in
which they must run, on one applier thread, and `Store.finish` publishes what a job made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernels.rules import state_count
from paramserver.errors import BadMessage, Evicted, Moved, NonFinite, Refused, UnknownTable
from paramserver.ledger import Verdict
from paramserver.slices import (
    Accepted,
    Captured,
    Floats,
    Job,
    Shared,
    Slice,
    Table,
    Weights,
    aligned,
    is_finite,
)
from paramserver.spec import TableSpec
from paramserver.types import PeerId

MOST_EXAMPLES = 1 << 53


class Store:
    """All tables of one shard."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}

    def __repr__(self) -> str:
        return f"<Store of {list(self.tables.values())}>"

    def adopt(
        self, name: str, spec: TableSpec, attempt: int, slices: Sequence[tuple[int, int]]
    ) -> Table:
        """Hold these (index, chain epoch) of a table; slices no longer named are let go."""
        table = self.tables.get(name)
        if table is None or table.spec != spec or table.attempt != attempt:
            table = self.tables[name] = Table(name, spec, attempt)
        wanted = dict(slices)
        for index in set(table.slices) - set(wanted):
            del table.slices[index]
        for index, epoch in wanted.items():
            held = table.slices.get(index)
            if held is None:
                held = table.slices[index] = Slice(
                    name, index, table.size_of(index), epoch, state_count(spec.rule.name)
                )
                for worker in table.evicted:
                    held.ledger.evict(worker)
            held.epoch = epoch
        return table

    def drop(self, name: str) -> None:
        """Let a table go."""
        self.tables.pop(name, None)

    def table(self, name: str) -> Table:
        """Return a table held here.

        Raises:
            UnknownTable: nothing of it is held here.
        """
        table = self.tables.get(name)
        if table is None:
            raise UnknownTable(f"no slice of table {name!r} is held here")
        return table

    def find(self, table: Table, index: int, epoch: int) -> Slice:
        """Return a slice, checked against the chain epoch that the sender knows.

        Raises:
            Moved: it is not here, or here under another epoch.
        """
        held = table.slices.get(index)
        if held is None or held.epoch != epoch:
            here = "not here" if held is None else f"here under chain epoch {held.epoch}"
            raise Moved(
                f"slice {table.name}/{index} is {here}, asked for under {epoch}",
                table=table.name,
                index=index,
                epoch=held.epoch if held is not None else -1,
            )
        return held

    def initialise(self, held: Slice, values: Floats) -> bool:
        """Set a slice's first weights; False where it has some already (they stay)."""
        if held.current is not None:
            return False
        if not is_finite(values):
            raise NonFinite(f"initial weights of slice {held.table}/{held.index} are not finite")
        array = aligned(held.size)
        array[:] = values
        held.state = tuple(aligned(held.size) for _ in held.state)
        for state in held.state:
            state[:] = 0
        held.head = array
        held.current = Weights(array, 0, held.clock)
        return True

    def capture(
        self, table: Table, held: Slice, clock: int | None
    ) -> tuple[Captured, Sequence[Job]]:
        """Copy a slice with its rule state: in bsp as it will be when ``clock`` begins, else now.

        Returns the copy, and the jobs to run now. A slice keeps one copy that waits for its clock.

        Raises:
            Refused: the clock has passed, or there are no weights.
        """
        self._refuse_empty([(held, 0)])
        waiting = held.captured
        if clock is not None:
            if waiting is not None and waiting.clock == clock:
                return waiting, ()
            if held.closed > clock:
                raise Refused(
                    f"slice {held.table}/{held.index} is at clock {held.closed}, beyond {clock}"
                )
        captured = Captured(held.closed if clock is None else clock)
        if clock is not None:
            held.captured = captured
        if captured.clock == held.closed:
            return captured, (self._take(table, held, captured),)
        return captured, ()

    @staticmethod
    def _take(table: Table, held: Slice, captured: Captured) -> Job:
        """Make the job that copies a slice after all jobs made so far."""
        captured.n = held.accepted
        captured.arrays = tuple(aligned(held.size) for _ in range(1 + len(held.state)))
        nothing = np.zeros(0, np.float32)
        return Job(held, table.rule, nothing, Shared(lambda: None), captured=captured)

    def restore(
        self, held: Slice, weights: Floats, states: Sequence[Floats], n: int, clock: int
    ) -> bool:
        """Give a slice the weights and rule state of another life; False where it has some."""
        if held.current is not None:
            return False
        if not all(is_finite(values) for values in (weights, *states)):
            raise NonFinite(f"slice {held.table}/{held.index} to restore is not finite")
        copies = [aligned(held.size) for _ in range(1 + len(held.state))]
        for copy, values in zip(copies, (weights, *states), strict=True):
            copy[:] = values
        held.head, held.state = copies[0], tuple(copies[1:])
        held.accepted = n
        held.clock = held.closed = clock
        held.current = Weights(held.head, n, clock)
        return True

    def accept(
        self,
        table: Table,
        slices: Sequence[tuple[Slice, int]],
        gradient: Floats,
        memory: Shared,
        *,
        worker: PeerId,
        sequence: int,
        settled: int,
        scale: float,
    ) -> Accepted:
        """Accept a push of ssp or asp: number it on every slice it is new to.

        ``slices`` pairs each slice with the version ``n`` its gradient was computed from;
        ``gradient`` holds their ranges one after another and was found finite by the caller.
        """
        self._refuse_evicted(table, worker)
        self._refuse_empty(slices)
        verdicts = [held.ledger.judge(worker, sequence, settled) for held, _ in slices]
        accepted = Accepted()
        start = 0
        for (held, pulled), verdict in zip(slices, verdicts, strict=True):
            stop = start + held.size
            if verdict is Verdict.NEW:
                held.ledger.begin(worker, sequence, settled)
                staleness = max(held.accepted - pulled, 0)
                table.staleness.add(staleness)
                accepted.staleness.append(staleness)
                memory.users += 1
                accepted.jobs.append(
                    Job(
                        slice=held,
                        rule=table.rule,
                        gradient=gradient[start:stop],
                        memory=memory,
                        out=table.spares.take(held.size),
                        scale=scale,
                        rate=table.spec.rule.rate_at(held.accepted),
                        step=held.accepted + 1,
                        push=(worker, sequence),
                    )
                )
                held.accepted += 1
            elif verdict is Verdict.IN_WORK:
                accepted.joined += 1
            else:
                accepted.repeats += 1
            start = stop
        self._count(table, accepted)
        return accepted

    def stage(
        self,
        table: Table,
        slices: Sequence[tuple[Slice, int]],
        gradient: Floats,
        memory: Shared,
        *,
        worker: PeerId,
        clock: int,
        part: int,
        examples: int,
    ) -> Accepted:
        """Stage a part of a bsp clock; parts are summed in part order, the last closes the clock.

        The first copy of a part counts. A clock closed already makes the push a repeat.
        """
        self._refuse_evicted(table, worker)
        parts = table.spec.parts
        if not 0 <= part < parts:
            raise BadMessage(f"part {part} of a clock that has {parts}")
        if not 0 <= examples <= MOST_EXAMPLES:
            raise BadMessage(f"part {part} of clock {clock} claims {examples} examples")
        self._refuse_empty(slices)
        for held, _ in slices:
            if clock > held.clock:
                raise Refused(
                    f"a push for clock {clock} to slice {held.table}/{held.index} "
                    f"which is at {held.clock}"
                )
        accepted = Accepted()
        start = 0
        for held, _ in slices:
            stop = start + held.size
            piece = gradient[start:stop]
            start = stop
            if clock < held.clock or part in held.seen:
                accepted.repeats += 1
                continue
            held.seen.add(part)
            held.examples += examples
            accepted.staleness.append(0)
            if part == held.folded:
                memory.users += 1
                accepted.jobs.extend(self._fold(table, held, piece, examples, memory))
            else:
                # Copied, so that parts that wait never hold the memory that an earlier one needs.
                waiting = aligned(held.size)
                waiting[:] = piece
                held.staged[part] = (waiting, examples)
        self._count(table, accepted)
        return accepted

    def _fold(
        self, table: Table, held: Slice, piece: Floats, examples: int, memory: Shared
    ) -> list[Job]:
        """Make the jobs that sum a part whose turn has come, and those that waited for it."""
        mean = table.spec.combine == "mean"
        if mean and held.weighted_sum is None:
            held.weighted_sum = aligned(2 * held.size).view(np.float64)
        elif not mean and held.sum is None:
            held.sum = aligned(held.size)
        jobs: list[Job] = []
        next_part: tuple[Floats, int] | None = (piece, examples)
        while next_part is not None:
            piece, examples = next_part
            job = Job(held, table.rule, piece, memory, fold=True, first=held.folded == 0)
            job.weight = examples if mean else None
            held.folded += 1
            if held.folded == table.spec.parts:
                self._let_previous_go(table, held)
                job.out = table.spares.take(held.size)
                job.total = max(held.examples, 1)
                job.scale = 1.0 / job.total
                job.rate = table.spec.rule.rate_at(held.accepted)
                job.step = held.accepted + 1
                held.accepted += 1
                held.closed += 1
            jobs.append(job)
            if job.out is not None and held.captured is not None:
                captured = held.captured
                if captured.clock == held.closed and not captured.arrays:
                    jobs.append(self._take(table, held, captured))
            next_part = held.staged.pop(held.folded, None)
            memory = Shared(lambda: None)
        return jobs

    def finish(self, job: Job) -> bool:
        """Note that a job has run; True where somebody may wait for what it made."""
        held = job.slice
        job.memory.release()
        if job.captured is not None:
            job.captured.done = True
            return True
        if job.push is not None:
            held.ledger.finish(*job.push)
        if job.out is None:
            return False
        if job.fold:
            held.clock += 1
            held.folded = 0
            held.examples = 0
            held.seen.clear()
        table = self.tables.get(held.table)
        old = held.current
        held.current = Weights(job.out, job.step, held.clock)
        if job.fold:
            held.previous = old
        elif old is not None:
            self._retire(table, old)
        return True

    def _let_previous_go(self, table: Table, held: Slice) -> None:
        """Free the weights of the clock before: this one's parts exist, so every slice has passed it.

        Until then they are kept. A worker that died may have brought its part to this slice and not
        to another: who computes it again needs the weights that it was computed from.
        """
        old, held.previous = held.previous, None
        if old is not None:
            self._retire(table, old)

    @staticmethod
    def _retire(table: Table | None, old: Weights) -> None:
        old.retired = True
        if table is not None and not old.pins:
            table.spares.give(old.array)

    def pin(self, slices: Sequence[Slice], clock: int | None = None) -> list[Weights] | None:
        """Pin the present versions of ``slices``; None where one has no weights yet.

        With a bsp ``clock``, slices that have just passed it give their version before.
        """
        versions: list[Weights] = []
        for held in slices:
            if held.current is None:
                return None
            before = held.previous
            wanted = before is not None and clock is not None and before.clock == clock
            versions.append(before if before is not None and wanted else held.current)
        for version in versions:
            version.pins += 1
        return versions

    def unpin(self, table: Table, versions: Sequence[Weights]) -> None:
        """Let pinned versions go; one that was replaced meanwhile becomes a spare."""
        for version in versions:
            version.pins -= 1
            if version.retired and not version.pins:
                table.spares.give(version.array)

    def evict(self, table: Table, worker: PeerId) -> int:
        """Refuse an incarnation for good; return the highest sequence that any slice took of it."""
        table.evicted.add(worker)
        return max((held.ledger.evict(worker) for held in table.slices.values()), default=-1)

    @staticmethod
    def _refuse_evicted(table: Table, worker: PeerId) -> None:
        if worker in table.evicted:
            raise Evicted(f"{worker} was dropped from the run: its pushes are refused")

    @staticmethod
    def _refuse_empty(slices: Sequence[tuple[Slice, int]]) -> None:
        for held, _ in slices:
            if held.head is None:
                raise Refused(f"slice {held.table}/{held.index} has no weights yet")

    @staticmethod
    def _count(table: Table, accepted: Accepted) -> None:
        if accepted.staleness:
            table.applied += 1
        elif accepted.repeats or accepted.joined:
            table.repeated += 1
