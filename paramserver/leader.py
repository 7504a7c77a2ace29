"""The leader's duties: keep the map in step with the members, start and end runs.

Every write is fenced: it is one multi with a version check of the leader's own election node, so a
deposed leader changes nothing. The deciding is pure (`paramserver.membership`); here is the doing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError

from paramserver.coordination.coordinator import Coordinator
from paramserver.errors import (
    BadVersion,
    Fenced,
    NotReady,
    Refused,
    RequestFailed,
    StoreError,
)
from paramserver.membership import Present, View, decide, is_here, shards_of
from paramserver.placement import ClusterMap, Member, parse_map
from paramserver.spec import RunSpec, TableSpec
from paramserver.transport.links import Links
from paramserver.waiting import Changes
from paramserver.wire.run import Follow

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
PROBE_DEADLINE = 2.0


class Leader:
    """Leads while this peer's term lasts; idle otherwise.

    ``serial`` returns that of the newest map known here.
    """

    def __init__(self, coordinator: Coordinator, links: Links, serial: Callable[[], int]) -> None:
        self._serial = serial
        self._coordinator = coordinator
        self._links = links
        self._changes = Changes()
        self._dirty = True
        self._driver_gone: tuple[str, float] | None = None
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Leader, term {self._coordinator.election.term}>"

    @property
    def leads(self) -> bool:
        """Whether this peer's term is valid now."""
        term = self._coordinator.election.term
        return term is not None and term.valid

    def look_again(self) -> None:
        """Note that something changed that a leader looks at."""
        self._dirty = True
        self._changes.notify()

    async def run(self) -> None:
        """Do a leader's duties whenever this peer leads, until cancelled."""
        while True:
            await self._changes.until(lambda: self._dirty, LOOK_AGAIN)
            self._dirty = False
            if not self.leads:
                self._driver_gone = None
                continue
            try:
                await self._govern()
            except (Fenced, BadVersion) as error:
                log.info("not written: %s", error)
            except StoreError as error:
                log.warning("the leader cannot write now: %s", error)

    async def _govern(self) -> None:
        async with self._lock:
            members = self._coordinator.members
            if members.mine is None or members.mine.name not in members.current:
                return  # the view of the members is not there yet
            view, version = await self._look()
            await self._end_orphan(view)
            decision = decide(view)
            for run in decision.forget:
                await self._coordinator.drop_outcome(run, leading=True)
            for run, outcome in decision.outcomes.items():
                log.warning("run %s ends: %s", run, outcome.get("error", outcome["status"]))
                await self._coordinator.put_outcome(run, outcome)
            if decision.map is not None:
                await self._write(decision.map, version)

    async def _end_orphan(self, view: View) -> None:
        """Withdraw the run under way once its driver has been gone for as long as a run may be."""
        run = view.map.run
        spec = view.runs.get(run.name) if run is not None else None
        if spec is None or spec.driver is None or is_here(view, spec.driver) or not view.settled:
            self._driver_gone = None
            return
        now = asyncio.get_running_loop().time()
        if self._driver_gone is None or self._driver_gone[0] != spec.name:
            self._driver_gone = (spec.name, now)
        elif now - self._driver_gone[1] > spec.lost_after:
            log.warning("run %s is withdrawn: its driver %s is gone", spec.name, spec.driver[0])
            await self._coordinator.drop_config(spec.name, leading=True)

    async def create_table(self, name: str, spec: TableSpec) -> int:
        """Add a table to the map; return the map's serial. The same table again is no error.

        Raises:
            NotReady: this peer does not lead, or there is no shard.
            Refused: there is another table of that name.
        """
        if not self.leads:
            raise NotReady("this peer does not lead the cluster now: ask again")
        async with self._lock:
            view, version = await self._look()
            entry = view.map.tables.get(name)
            if entry is not None:
                if entry.spec != spec:
                    raise Refused(
                        f"table {name!r} exists with another specification ({entry.spec.size} "
                        f"elements, rule {entry.spec.rule.name}): choose another name"
                    )
                return view.map.serial
            shards = shards_of(view)
            if not shards:
                raise NotReady(
                    "the cluster has no shard to hold a table: start one with `paramserver start`"
                )
            placed = view.map.with_table(name, spec, shards)
            await self._write(placed, version)
            return placed.serial

    async def _look(self) -> tuple[View, int]:
        """Read all that a leader decides by; return it with the map's version in the store."""
        document, version = await self._coordinator.get_map()
        runs: dict[str, RunSpec] = {}
        for name, config in (await self._coordinator.configs()).items():
            try:
                runs[name] = RunSpec.model_validate(config)
            except ValidationError as error:
                log.warning("the configuration of run %s is unusable: %s", name, error)
        present = {
            info.name: Present(
                Member(name=info.name, incarnation=info.incarnation, address=info.address),
                tuple(info.roles),
            )
            for info in self._coordinator.members.current.values()
        }
        # A coordinator that was wiped has no map: what comes must be newer than what peers know.
        known = self._serial()
        placed = parse_map(document) if document is not None else ClusterMap(serial=known)
        outcomes = frozenset(await self._coordinator.outcomes())
        view = View(
            present,
            placed,
            runs,
            outcomes,
            settled=self._coordinator.settled,
            dead=self._coordinator.buried,
            doubt=self._coordinator.doubt,
        )
        if placed.run is not None and view.waiting:
            view = replace(view, finished=await self._has_finished(placed))
        return view, version

    async def _has_finished(self, placed: ClusterMap) -> bool:
        """Ask the run table whether its run has ended."""
        primary = placed.run_primary()
        assert placed.run is not None
        assert primary is not None
        try:
            reply = await self._links.request(
                primary.address, Follow(run=placed.run.name, after=-1), deadline=PROBE_DEADLINE
            )
        except (RequestFailed, Refused, NotReady) as error:
            log.info("cannot tell whether run %s has finished: %s", placed.run.name, error)
            return False
        return bool(reply.message.state["phase"] == "finished")

    async def _write(self, placed: ClusterMap, version: int) -> None:
        await self._coordinator.put_map(placed.dump(), version)
        self.look_again()
