"""Takes a run's checkpoints while it trains: one consistent cut, written off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramserver.checkpoint import Checkpoint, TableState, write
from paramserver.cutclient import CutClient
from paramserver.errors import ParamserverError, Refused, TryAgain
from paramserver.slices import Floats
from paramserver.spec import RunSpec
from paramserver.transport.links import Links
from paramserver.waiting import all_of
from paramserver.wire.run import CutAt, CutState, GoOn, TakeCut

log = logging.getLogger(__name__)

AHEAD = 4
FURTHEST = 4096
ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class Cut:
    """All of a run as of one moment: the run table's state and the table of weights."""

    run: dict[str, Any]
    table: TableState


class Checkpointer:
    """Takes cuts of one run and writes them; one at a time.

    Args:
        spec: the run.
        links, client: how to reach the run table's primary and the shards.
        run_address: the address of the run table's primary as the map has it now.
        parent: the folder of the run's checkpoints.
        write_model: writes weights [size] to a path, as a model file.
        keep: how many checkpoints stay.
    """

    def __init__(
        self,
        spec: RunSpec,
        links: Links,
        client: CutClient,
        run_address: Callable[[], str],
        parent: Path,
        write_model: Callable[[Path, Floats], None],
        *,
        keep: int,
    ) -> None:
        self._spec = spec
        self._links = links
        self._client = client
        self._run_address = run_address
        self._parent = parent
        self._write_model = write_model
        self._keep = keep
        self._ahead = AHEAD

    def __repr__(self) -> str:
        return f"<Checkpointer of {self._spec.name} in {self._parent}>"

    async def take(self) -> Cut:
        """Take a consistent cut without stopping the training.

        In bsp the run table and the shards each copy their state at the beginning of one clock a
        little ahead. Where that has passed already when the word comes, it is tried further ahead.

        Raises:
            TryAgain: the clocks ran away every time.
            RequestFailed: somebody did not answer.
        """
        for _ in range(ATTEMPTS):
            reply = await self._ask(TakeCut(run=self._spec.name, ahead=self._ahead))
            patience = self._spec.lost_after
            try:
                if reply.state is not None:
                    table = await self._client.capture(reply.clock, patience=patience)
                    return Cut(reply.state, table)
                assert reply.clock is not None
                state, captured = await all_of(
                    [
                        self._state(reply.clock, patience),
                        self._client.capture(reply.clock, patience=patience),
                    ]
                )
            except _Over:
                continue  # training has ended: the next answer brings its last state
            except Refused as error:
                log.debug("the cut at clock %s was missed: %s", reply.clock, error)
                self._ahead = min(self._ahead * 2, FURTHEST)
                continue
            assert isinstance(state, dict)
            assert isinstance(captured, TableState)
            return Cut(state, captured)
        raise TryAgain(f"run {self._spec.name} was too fast for a checkpoint {ATTEMPTS} times")

    async def write(self, cut: Cut) -> Path:
        """Write a cut as a checkpoint; return its folder.

        Raises:
            NotReady: it cannot be written; the checkpoints before it stay.
        """
        return await asyncio.get_running_loop().run_in_executor(None, self._write, cut)

    async def restore(self, checkpoint: Checkpoint, table: TableState) -> None:
        """Bring a checkpoint into the cluster and let the run begin from it."""
        await self._client.restore(table)
        go_on = GoOn(run=self._spec.name, state=dict(checkpoint.table), updates=table.updates)
        await self._links.request(self._run_address(), go_on, deadline=self._spec.deadline)

    def _write(self, cut: Cut) -> Path:
        return write(
            self._parent,
            self._spec,
            cut.run,
            cut.table,
            lambda path: self._write_model(path, cut.table.weights),
            keep=self._keep,
        )

    async def _state(self, clock: int, patience: float) -> dict[str, Any]:
        """Wait for the run table's state as of ``clock``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while loop.time() < until:
            answer = await self._ask(CutState(run=self._spec.name, clock=clock))
            if answer.state is not None:
                return answer.state
            if answer.over:
                raise _Over(f"training ended before clock {clock}")
        raise TryAgain(f"clock {clock} of run {self._spec.name} did not come in {patience:g} s")

    async def _ask(self, message: TakeCut | CutState) -> CutAt:
        reply = await self._links.request(
            self._run_address(), message, deadline=self._spec.deadline
        )
        answer: CutAt = reply.message
        return answer


class _Over(ParamserverError):
    """Training ended before the clock that was waited for."""
