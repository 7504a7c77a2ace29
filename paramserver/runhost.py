"""The cluster's run as one peer knows it; its table is served here where the map says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from paramserver.errors import StoreError, UnknownTable
from paramserver.mapview import MapView
from paramserver.placement import ClusterMap, RunEntry
from paramserver.runservice import RunService
from paramserver.spec import RunSpec
from paramserver.transport.links import Links
from paramserver.types import PeerId

log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds until the coordinator is asked again for what it could not tell."""

Config = Callable[[str], Awaitable[dict[str, Any] | None]]
"""Returns what was asked for with a run, by its name; None where the coordinator knows nothing."""


class RunHost:
    """Finds the run that the map names, waits for it, and serves its table as its primary.

    ``handlers`` are the peer's, by message: those of the run's table come and go with it. Waits look
    again every ``deadline`` seconds.
    """

    def __init__(
        self,
        me: PeerId,
        links: Links,
        view: MapView,
        handlers: dict[type, Any],
        config: Config,
        *,
        deadline: float,
    ) -> None:
        self._me = me
        self._links = links
        self._view = view
        self._handlers = handlers
        self._config = config
        self._deadline = deadline
        self._service: RunService | None = None
        self._serving: tuple[str, int] | None = None
        self.task: asyncio.Task[None] | None = None
        """Serves the run's table."""

    def __repr__(self) -> str:
        return f"<RunHost of {self._me}: {self._service!r}>"

    def tend(self, placed: ClusterMap, group: asyncio.TaskGroup) -> None:
        """Serve the run table where the map gives it to this peer; let go of it elsewhere."""
        run = placed.run if self.is_primary(placed) else None
        wanted = (run.name, run.attempt) if run is not None else None
        if wanted == self._serving:
            return
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self._serving = wanted
        if run is not None:
            self.task = group.create_task(self._serve(run), name=f"run table of {run.name}")

    async def _serve(self, run: RunEntry) -> None:
        """Serve a run's table until cancelled."""
        spec = await self.spec(run)
        if spec is None:
            return
        service = self._service = RunService(spec, self._links, self._view)
        self._handlers.update(service.handlers)
        log.info("serving the run table of %s", spec.name)
        try:
            await service.run()
        finally:
            if self._service is service:
                self._service = None
                for message in service.handlers:
                    self._handlers.pop(message, None)

    def is_primary(self, placed: ClusterMap) -> bool:
        """Say whether a map gives the run's table to this peer."""
        primary = placed.run_primary()
        return primary is not None and (primary.name, primary.incarnation) == self._me

    async def spec(self, run: RunEntry) -> RunSpec | None:
        """Return what was asked for with the run that the map names.

        Asks until the coordinator answers. None where it knows nothing of the run, or already its
        next attempt, or the map names another meanwhile: this one's tables are about to go.
        """
        while self._names(run):
            try:
                config = await self._config(run.name)
                spec = RunSpec.model_validate(config) if config is not None else None
            except (StoreError, ValidationError) as error:
                log.warning("what run %s is cannot be read, trying again: %s", run.name, error)
                await asyncio.sleep(PAUSE)
                continue
            return spec if spec is not None and spec.attempt == run.attempt else None
        return None

    def _names(self, wanted: RunEntry) -> bool:
        run = self._view.map.run
        return run is not None and (run.name, run.attempt) == (wanted.name, wanted.attempt)

    async def next(self, other_than: tuple[str, int] | None) -> RunEntry:
        """Wait until the map names a run other than this (name, attempt), and return it."""

        def there() -> bool:
            run = self._view.map.run
            return run is not None and (run.name, run.attempt) != other_than

        while not await self._view.changes.until(there, self._deadline):
            pass
        run = self._view.map.run
        assert run is not None
        return run

    async def end_of(self, name: str, attempt: int) -> None:
        """Wait until the map no longer names this attempt of this run."""

        def gone() -> bool:
            run = self._view.map.run
            return run is None or (run.name, run.attempt) != (name, attempt)

        while not await self._view.changes.until(gone, self._deadline):
            pass

    def address(self, name: str) -> str:
        """Return the address of the run table's primary.

        Raises:
            UnknownTable: the map names no such run.
        """
        placed = self._view.map
        primary = placed.run_primary()
        if placed.run is None or placed.run.name != name or primary is None:
            raise UnknownTable(f"the cluster has no run {name!r} now")
        return primary.address

    def document(self) -> dict[str, Any] | None:
        """Return the run's state where it is served here, else where it is; None without a run."""
        if self._service is not None:
            return self._service.snapshot()
        placed = self._view.map
        primary = placed.run_primary()
        if placed.run is None or primary is None:
            return None
        return {"run": placed.run.name, "at": primary.name}
