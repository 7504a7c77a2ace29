"""What a worker tells the run table: that it lives, what it did, and that it goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from paramserver.client import PushResult
from paramserver.errors import RequestFailed
from paramserver.spec import RunSpec
from paramserver.transport.links import Links
from paramserver.types import PeerId
from paramserver.wire.run import Admit, Admitted, Heartbeat, Leave, Report

log = logging.getLogger(__name__)


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


class Reporter:
    """Speaks for one worker with the run table of one run.

    ``run_address`` returns the address of the run table's primary as the map has it now.
    ``tidings`` is what the next report says, ``answered`` the loop's time of the last answer to one.
    """

    def __init__(
        self,
        spec: RunSpec,
        me: PeerId,
        device: str,
        kind: str,
        fingerprint: str,
        links: Links,
        run_address: Callable[[], str],
    ) -> None:
        self._spec = spec
        self._me = me
        self._device = device
        self._kind = kind
        self._fingerprint = fingerprint
        self._links = links
        self._run_address = run_address
        self.tidings = Tidings()
        self.answered = asyncio.get_running_loop().time()
        self._unsent: list[Report] = []
        self._reports = 0

    def __repr__(self) -> str:
        return f"<Reporter of {self._me}, {self._reports} reports, {len(self._unsent)} unsent>"

    async def report(self, *, wants: bool) -> Any:
        """Tell what was done and return the answer: work, where the worker ``wants`` some.

        What got no answer before is told again, first.

        Raises:
            RequestFailed: the run table's primary did not answer.
            Evicted: this incarnation was dropped.
        """
        told, self.tidings = self.tidings, Tidings()
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
                kind=self._kind,
            )
        )
        while True:
            report = self._unsent[0]
            last = len(self._unsent) == 1
            answer = await self._ask(report if last else replace(report, wants=False))
            self._unsent.pop(0)
            self.answered = asyncio.get_running_loop().time()
            if last:
                return answer

    async def beat(self) -> None:
        """Say that this worker lives, also while it computes, until cancelled."""
        beat = Heartbeat(
            run=self._spec.name, worker=self._me.name, incarnation=self._me.incarnation
        )
        while True:
            await asyncio.sleep(self._spec.beat)
            try:
                await self._ask(beat)
            except RequestFailed as error:
                log.warning("heartbeat: %s", error)

    async def leave(self) -> None:
        """Tell what is still untold, and that nothing more will come."""
        await self.report(wants=False)
        await self._ask(
            Leave(run=self._spec.name, worker=self._me.name, incarnation=self._me.incarnation)
        )

    async def admission(self, iteration: int) -> None:
        """Wait until the worker may pull for an iteration of ssp."""
        ask = Admit(
            run=self._spec.name,
            worker=self._me.name,
            incarnation=self._me.incarnation,
            clock=iteration,
        )
        while True:
            answer: Admitted = await self._ask(ask)
            if answer.ready:
                return

    async def _ask(self, message: Any) -> Any:
        reply = await self._links.request(
            self._run_address(), message, deadline=self._spec.deadline
        )
        return reply.message
