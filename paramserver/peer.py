"""A peer: composes the roles of one process, owns their tasks and their life."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from kernels.engine import RuleHost
from paramserver.applier import Applier
from paramserver.config import PeerConfig
from paramserver.coordination.coordinator import Coordinator, MemberInfo
from paramserver.coordination.embedded import EmbeddedStore
from paramserver.coordination.port import Store as CoordinationStore
from paramserver.coordination.service import StoreService
from paramserver.deathwatch import DeathWatch
from paramserver.errors import (
    NodeExists,
    NotReady,
    Refused,
    RequestFailed,
    Unsupported,
)
from paramserver.leader import Leader
from paramserver.mapview import LocalMap, MapView
from paramserver.meeting import open_store
from paramserver.placement import ClusterMap, RunEntry, parse_map
from paramserver.runhost import RunHost
from paramserver.shard import Shard
from paramserver.spec import TableSpec
from paramserver.status.server import StatusServer
from paramserver.store import Store
from paramserver.transport.connection import Identity
from paramserver.transport.links import Links
from paramserver.transport.server import Request, Response, Server
from paramserver.types import PeerId
from paramserver.waiting import first_error
from paramserver.wire.control import (
    Alive,
    CreateTable,
    GetMap,
    MapIs,
    Probe,
    TableCreated,
)
from paramserver.wire.run import StopRun

log = logging.getLogger(__name__)

Answer = Response | None
Handler = Callable[[Request], Answer | Awaitable[Answer]]

WILDCARDS = ("0.0.0.0", "::", "[::]")

MOST_ASKED = 3
GREETING = 2.0
"""How many members a new one asks at most whether they take it, and for how many seconds each."""

WAIT_SHARE = 0.25
"""The share of the deadline that a request may be kept waiting before "ask again"."""


class Role(Protocol):
    """What a peer does besides holding slices; `nodes` brings the worker's role."""

    name: str

    @property
    def device(self) -> str:
        """The device's name."""

    async def prepare(self) -> None:
        """Get ready, before the peer registers."""

    async def run(self, peer: Peer) -> None:
        """Do the role's work until cancelled."""

    async def leave(self, seconds: float) -> None:
        """Finish what is under way and take nothing more, within so many seconds."""


class Peer:
    """One process of a cluster.

    It joins the coordinator at ``join`` (host:port); where that is None, it meets the others at the
    configuration's ZooKeeper, and where there is none either, it hosts the embedded coordinator. A
    peer that is no ``candidate`` never leads (a launcher, a driver).
    """

    def __init__(
        self,
        config: PeerConfig,
        me: PeerId,
        secret: bytes,
        *,
        shard: bool = False,
        role: Role | None = None,
        join: str | None = None,
        candidate: bool = True,
        open_rules: Callable[[], RuleHost] | None = None,
    ) -> None:
        self.config = config
        self.me = me
        self.view = MapView()
        self.maps = LocalMap(self.view)
        self._secret = secret
        self._join = join
        self._candidate = candidate
        self._role = role
        self._deadline = config.cluster.deadline
        self._identity = Identity(config.cluster.name, me.name, me.incarnation)
        self.links = Links(self._identity, secret)
        self._server = Server(self._identity, secret, self._dispatch)
        self._handlers: dict[type, Handler] = {
            Probe: self._probe,
            GetMap: self._get_map,
            CreateTable: self._create_table,
        }
        self.store = Store()
        self._applier: Applier | None = None
        self._shard: Shard | None = None
        if shard:
            if open_rules is None:
                raise ValueError("a shard needs open_rules")
            self._applier = Applier(self.store, open_rules)
            self._shard = Shard(me, self._applier, self.store, wait=WAIT_SHARE * self._deadline)
            self._handlers.update(self._shard.handlers)
        self._coordinator: Coordinator | None = None
        self._leader: Leader | None = None
        self.runs = RunHost(
            me, self.links, self.view, self._handlers, self._config_of, deadline=self._deadline
        )
        self._began = time.monotonic()
        self._forgotten = False
        self.address = ""
        self.status_address = ""

    def __repr__(self) -> str:
        return f"<Peer {self.me} at {self.address or 'no address yet'}, roles {self.roles}>"

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of this peer; a spare has none."""
        roles = ("shard",) if self._shard is not None else ()
        return (*roles, self._role.name) if self._role is not None else roles

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator, once the peer is running."""
        if self._coordinator is None:
            raise NotReady(f"peer {self.me.name} has not joined its coordinator yet")
        return self._coordinator

    # Life

    async def drain(self) -> None:
        """Make ready to leave: nothing that others need may go with this peer.

        A worker finishes its step and reports it. Slices that this peer alone holds cannot be handed
        over, so their run is stopped, and its driver saves it before this peer goes.
        """
        run = self.view.map.run
        patience = self.config.cluster.lost_after
        runs = f"{run.name}/model" if run is not None else None
        for table in sorted(set(self.view.map.held_by(*self.me)) - {runs}):
            log.warning("slices of table %s go with this peer: nobody else holds them", table)
        if run is not None and self._alone_holds(run):
            log.info("run %s is asked to stop: this peer holds a part of it", run.name)
            reason = f"{self.me.name}, which holds slices, is leaving"
            try:
                await self.links.request(
                    self.runs.address(run.name),
                    StopRun(run=run.name, reason=reason),
                    deadline=self._deadline,
                )
            except (RequestFailed, Refused, NotReady) as error:
                log.warning("run %s was not stopped: %s", run.name, error)
                return
            if not await self.view.changes.until(
                lambda: self.view.map.run is None or not self._alone_holds(run), patience
            ):
                log.warning("run %s was not saved within %g s", run.name, patience)
        elif self._role is not None:
            await self._role.leave(patience)

    def _alone_holds(self, run: RunEntry) -> bool:
        """Say whether this peer holds slices, or the table, of a run."""
        placed = self.view.map
        return self.runs.is_primary(placed) or f"{run.name}/model" in placed.held_by(*self.me)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Peer]:
        """Run while the context is open; a failure of any part ends it with that part's error."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._prepare(stack)
                async with asyncio.TaskGroup() as group:
                    tasks = self._begin(group)
                    await self._register()
                    try:
                        yield self
                    finally:
                        if self.runs.task is not None:
                            tasks.append(self.runs.task)
                        for task in tasks:
                            task.cancel()
            except BaseExceptionGroup as several:
                raise first_error(several) from several

    async def _prepare(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the device, listen, join: in this order, so that who is seen can serve."""
        stack.push_async_callback(self.links.close)
        if self._applier is not None:
            await self._applier.prepare()
        if self._role is not None:
            await self._role.prepare()
        cluster = self.config.cluster
        embedded: EmbeddedStore | None = None
        if self._coordinator_kind == "embedded" and self._join is None:
            embedded = EmbeddedStore(session_timeout=cluster.session_timeout)
            self._handlers.update(StoreService(embedded.tree).handlers)
            stack.push_async_callback(embedded.close)
        self.address = await self._server.listen(cluster.host, cluster.port)
        stack.push_async_callback(self._server.close, 1.0)
        advertised = cluster.advertise
        if advertised is None and cluster.host in WILDCARDS:
            advertised = socket.gethostname()  # nobody can connect to "any address"
        if advertised is not None:
            port = self.address.rpartition(":")[2]
            self.address = f"{advertised}:{port}"
        status = StatusServer(self.status, self.ready)
        self.status_address = await status.start(self.config.status.host, self.config.status.port)
        stack.push_async_callback(status.close)
        store: CoordinationStore | None = embedded
        if store is None:
            store = await open_store(cluster, self._join, self._identity, self._secret)
        self._coordinator = Coordinator(store, cluster=cluster.name, generation=cluster.generation)
        stack.push_async_callback(self._coordinator.close)

    @property
    def _coordinator_kind(self) -> str:
        """What the peers of the cluster meet at, as far as this one knows."""
        meets = self._join is None and self.config.cluster.zookeeper.address is not None
        return "zookeeper" if meets else "embedded"

    def _begin(self, group: asyncio.TaskGroup) -> list[asyncio.Task[Any]]:
        """Start all tasks of this peer; they belong to ``group``."""
        coordinator = self.coordinator
        tasks = [
            group.create_task(coordinator.run(candidate=self._candidate)),
            group.create_task(self._follow_map(group)),
        ]
        if self._candidate:
            self._leader = Leader(coordinator, self.links, lambda: self.view.map.serial)
            coordinator.subscribe(self._leader.look_again)
            tasks.append(group.create_task(self._leader.run()))
            watch = DeathWatch(coordinator, self.links, self.me, self._deadline)
            coordinator.subscribe(watch.look_again)
            tasks.append(group.create_task(watch.run()))
        if self._applier is not None:
            tasks.append(group.create_task(self._applier.run()))
        if self._role is not None:
            tasks.append(group.create_task(self._role.run(self)))
        return tasks

    async def _register(self) -> None:
        await self._shake_hands()
        info = MemberInfo(
            name=self.me.name,
            incarnation=self.me.incarnation,
            roles=list(self.roles),
            address=self.address,
            status=self.status_address,
            device=self._role.device if self._role is not None else "",
        )
        try:
            await self.coordinator.members.register(info)
        except NodeExists as error:
            raise NotReady(str(error)) from error

    async def _shake_hands(self) -> None:
        """See that a member takes this peer for one of its cluster.

        Whoever may write to a ZooKeeper can register there; the secret is what makes it one of us.

        Raises:
            NotReady: none does, of those that answer: they hold another secret, say.
        """
        others = [one for one in await self.coordinator.members.read() if one.name != self.me.name]
        others.sort(key=lambda one: one.incarnation)
        refusal: NotReady | None = None
        for other in others[-MOST_ASKED:]:
            try:
                await self.links.connection(other.address, min(GREETING, self._deadline))
            except RequestFailed as error:
                log.info("%s does not answer: %s", other.name, error)
            except NotReady as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise refusal

    # The map

    async def _follow_map(self, group: asyncio.TaskGroup) -> None:
        async for document in self.coordinator.follow_map():
            placed = parse_map(document) if document is not None else ClusterMap()
            self._forgotten = placed.serial < self.view.map.serial
            if self._forgotten or document is None:
                continue
            if self._shard is not None:
                self._shard.adopt(placed)
            self.view.offer(placed)
            self.runs.tend(placed, group)

    async def _config_of(self, run: str) -> dict[str, Any] | None:
        return await self.coordinator.get_config(run)

    # Requests

    def _dispatch(self, request: Request) -> Answer | Awaitable[Answer]:
        handler = self._handlers.get(type(request.message))
        if handler is None:
            raise Unsupported(
                f"peer {self.me.name} (roles: {', '.join(self.roles) or 'none'}) does not serve "
                f"{type(request.message).__name__}"
            )
        return handler(request)

    def _probe(self, request: Request) -> Response:
        return Response(Alive(name=self.me.name, incarnation=self.me.incarnation))

    async def _get_map(self, request: Request) -> Response:
        ask: GetMap = request.message
        await self.view.changes.until(
            lambda: self.view.map.serial > ask.after, min(ask.wait, WAIT_SHARE * self._deadline)
        )
        return Response(MapIs(document=self.view.map.dump()))

    async def _create_table(self, request: Request) -> Response:
        ask: CreateTable = request.message
        if self._leader is not None and self._leader.leads:
            spec = TableSpec.model_validate(ask.spec)
            return Response(TableCreated(serial=await self._leader.create_table(ask.name, spec)))
        leader = self.coordinator.leader()
        if leader is None or leader.name == self.me.name:
            raise NotReady("the cluster has no leader now: ask again in a moment")
        reply = await self.links.request(leader.address, ask, deadline=self._deadline)
        return Response(reply.message)

    # What people see

    def ready(self) -> tuple[str, str]:
        """Say whether this peer can serve: ok, degraded or not ready, and why."""
        if self._coordinator is None:
            return "not ready", "starting"
        state = self._coordinator.state
        if state != "connected":
            return "degraded", f"the coordinator is {state}: going on under the last map"
        if self._forgotten:
            return "degraded", (
                "the coordinator has forgotten the map that training goes on under: was it wiped?"
            )
        return "ok", "ok"

    def status(self) -> dict[str, Any]:
        """Return the status document of this peer; see `paramserver.status`."""
        coordinator = self._coordinator
        placed = self.view.map
        return {
            "version": 1,
            "cluster": self.config.cluster.name,
            "peer": {
                "name": self.me.name,
                "incarnation": self.me.incarnation,
                "roles": list(self.roles),
                "address": self.address,
                "device": self._role.device if self._role is not None else None,
                "uptime": time.monotonic() - self._began,
                "pid": os.getpid(),
            },
            "coordinator": self._coordinator_document(),
            "members": coordinator.members_document() if coordinator is not None else {},
            "map": {"serial": placed.serial, "tables": self._tables(placed)},
            "run": self.runs.document(),
        }

    def _coordinator_document(self) -> dict[str, Any] | None:
        if self._coordinator is None:
            return None
        seen = self._coordinator.describe()
        leader = self._coordinator.leader()
        return {
            "kind": self._coordinator_kind,
            "host": seen["host"],
            "state": seen["state"],
            "session": seen["session"],
            "lag": seen["lag"],
            "leader": seen["leader"],
            "term": [leader.term.generation, leader.term.czxid] if leader is not None else None,
            "is_leader": seen["leads"],
        }

    def _tables(self, placed: ClusterMap) -> dict[str, Any]:
        tables: dict[str, Any] = {}
        for name, entry in placed.tables.items():
            held = self.store.tables.get(name)
            tables[name] = {"size": entry.spec.size, "slices": len(entry.chains), "held": 0}
            if held is not None:
                tables[name] |= {
                    "held": len(held.slices),
                    "clock": held.clock,
                    "applied": held.applied,
                    "repeated": held.repeated,
                    "refused": held.refused,
                    "staleness": {"mean": held.staleness.mean, "max": held.staleness.max},
                }
        return tables
