"""The weights that a worker computes with, and those it pulls meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from paramserver.client import Copy, TableClient
from paramserver.slices import Floats

NONE = -1
"""Stands for the iteration of no weights at all."""
FRESH = -2
"""Stands for the iteration of weights that are for evaluation only."""


class Pulling:
    """Two buffers of a table's weights: the front one to compute with, the back one to pull into.

    Args:
        table: the table, of ``size`` elements (the map may no longer name it).
        deadline: seconds that any one request may take.
        admission: where given (ssp), what waits until weights for an iteration may be pulled.
    """

    def __init__(
        self,
        table: TableClient,
        size: int,
        deadline: float,
        admission: Callable[[int], Awaitable[None]] | None,
    ) -> None:
        self._table = table
        self._deadline = deadline
        self._admission = admission
        self.front = Copy(size)
        self._back = Copy(size)
        self._on_device = False
        self.iteration = NONE
        """What the front weights are for: in bsp a clock, in ssp and asp the worker's own count."""
        self._task: asyncio.Task[None] | None = None
        self._ahead = NONE

    def __repr__(self) -> str:
        return f"<Pulling {self._table.name!r}: weights for {self.iteration}, next {self._ahead}>"

    def forget(self) -> None:
        """Take the front weights for none: they may be another life's."""
        self.iteration = NONE
        self._on_device = False

    def weights(self) -> Floats | None:
        """Return the front weights where the device does not hold them yet."""
        if self._on_device:
            return None
        self._on_device = True
        return self.front.weights

    # Ahead of time

    def pulls_ahead(self, iteration: int) -> bool:
        """Say whether the weights for an iteration are being pulled."""
        return self._task is not None and self._ahead == iteration

    def pull_ahead(self, group: asyncio.TaskGroup, clock: int | None, iteration: int) -> None:
        """Begin the next pull while a minibatch computes; the task is the group's."""
        self.stop()
        self._ahead = iteration
        self._task = group.create_task(self._fetch(clock, iteration))

    def stop(self) -> None:
        """Give up the pull that was begun ahead of time."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._ahead = NONE

    # Now

    async def next(self, clock: int | None, iteration: int) -> None:
        """Make the weights for ``iteration`` the front ones."""
        if self._task is not None and self._ahead == iteration:
            await self._task
        else:
            self.stop()
            await self._fetch(clock, iteration)
        self._task = None
        self._swap(iteration)

    async def fresh(self) -> None:
        """Make the weights as they stand now the front ones, without asking for admission."""
        self.stop()
        await self._pull(None)
        self._swap(FRESH)

    def _swap(self, iteration: int) -> None:
        self.front, self._back = self._back, self.front
        self.iteration = iteration
        self._on_device = False

    async def _fetch(self, clock: int | None, iteration: int) -> None:
        """Pull into the back buffer once the run's consistency allows it."""
        if self._admission is not None:
            await self._admission(iteration)
        await self._pull(clock)

    async def _pull(self, clock: int | None) -> None:
        while not await self._table.pull_into(self._back, clock=clock, deadline=self._deadline):
            pass
