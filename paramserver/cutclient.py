"""Take a table's weights and rule state out of the cluster, and bring them back in another life."""

from __future__ import annotations

import asyncio

from kernels.rules import state_count
from paramserver.checkpoint import TableState
from paramserver.client import Group, TableClient
from paramserver.errors import DeadlineExceeded
from paramserver.placement import TableEntry
from paramserver.wire.data import Capture, Captured, Restore


class CutClient(TableClient):
    """A `TableClient` that captures and restores whole tables."""

    def _arrays(self, entry: TableEntry) -> int:
        return 1 + state_count(entry.spec.rule.name)

    async def capture(self, clock: int | None, *, patience: float) -> TableState:
        """Take weights and rule state: in bsp as they are when ``clock`` begins, else slice by slice.

        ``patience`` is how many seconds the clock may take to come.

        Raises:
            Refused: the clock had passed somewhere.
            DeadlineExceeded: it did not come in time.
        """
        entry, groups = self._route()
        state = TableState.empty(self.size, entry.spec.rule.name)
        waiting = {index for group in groups for index in group.indices}

        async def one(entry: TableEntry, group: Group, left: float) -> None:
            into = [array[group.start : group.stop].data.cast("B") for array in state.arrays]
            reply = await self._links.request(
                group.member.address,
                Capture(table=self.name, slices=_named(entry, group), clock=clock),
                deadline=min(left, self._deadline),
                into=into,
                attempt=entry.attempt,
            )
            answer: Captured = reply.message
            if answer.ready:
                state.versions[list(group.indices)] = answer.versions
                waiting.difference_update(group.indices)

        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while waiting:
            if loop.time() >= until:
                raise DeadlineExceeded(
                    f"clock {clock} of table {self.name!r} did not begin within {patience:g} s"
                )
            await self._everywhere(one, until, lambda group: not waiting.isdisjoint(group.indices))
        return state

    async def restore(self, state: TableState) -> None:
        """Set the table, which has no weights yet, to a state taken in another life."""

        async def one(entry: TableEntry, group: Group, left: float) -> None:
            parts = [array[group.start : group.stop].data.cast("B") for array in state.arrays]
            versions = [(int(n), int(clock)) for n, clock in state.versions[list(group.indices)]]
            await self._links.request(
                group.member.address,
                Restore(table=self.name, slices=_named(entry, group), versions=versions),
                parts,
                deadline=left,
                attempt=entry.attempt,
            )

        until = asyncio.get_running_loop().time() + self._deadline
        await self._everywhere(one, until)


def _named(entry: TableEntry, group: Group) -> list[tuple[int, int]]:
    return [(index, entry.epochs[index]) for index in group.indices]
