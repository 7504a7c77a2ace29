"""Drives one run: publishes the recipe, follows the run, and keeps what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.data import Dataset
from nodes.models import Model
from nodes.recipe import Recipe
from nodes.training.result import MODEL_FILE, Result, write_model
from paramserver.client import TableClient
from paramserver.errors import (
    ParamserverError,
    RequestFailed,
    SlicesLost,
    StoreError,
    TryAgain,
    UnknownTable,
    Unsupported,
)
from paramserver.peer import Peer
from paramserver.spec import RunSpec, TableSpec
from paramserver.wire.run import Follow, Snapshot, StopRun

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known of a run before it starts."""

    recipe: Recipe
    dataset: Dataset
    model: Model
    run: str

    def spec(self, *, workers: int, min_workers: int, min_shards: int) -> RunSpec:
        """Return what the cluster is told; ``workers`` is how many the run starts with."""
        recipe = self.recipe
        train = recipe.train
        bsp = recipe.consistency == "bsp"
        parts = (train.parts if train.parts is not None else workers) if bsp else 1
        return RunSpec(
            name=self.run,
            seed=recipe.seed,
            table=TableSpec(
                size=self.model.size,
                rule=train.update_rule(),
                consistency=recipe.consistency,
                parts=parts,
            ),
            staleness=recipe.staleness,
            batch_size=train.batch_size,
            epochs=train.epochs,
            examples=len(self.dataset.train_x),
            test_examples=len(self.dataset.test_x),
            data_fingerprint=self.dataset.fingerprint(),
            min_workers=min_workers,
            min_shards=min_shards,
            deadline=recipe.cluster.deadline,
            lost_after=recipe.cluster.lost_after,
            recipe=recipe.dump(),
        )


def name_run(recipe: str) -> str:
    """Return a fresh run's name: recipe, local time and four random letters."""
    return f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


class Driver:
    """Follows one run through ``peer``, which holds no slices and does not lead.

    ``lost`` raises where the driver knows that the run cannot go on (its child processes died).
    """

    def __init__(
        self,
        plan: Plan,
        spec: RunSpec,
        peer: Peer,
        output: Path,
        progress: Progress,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._spec = spec.model_copy(update={"driver": tuple(peer.me)})
        self._peer = peer
        self._output = output
        self._progress = progress
        self._lost = lost
        self._stop_asked: str | None = None
        self._waits_for: str | None = None
        self.begun = False
        """Whether the run table has answered once."""
        self._deadline = spec.deadline

    def __repr__(self) -> str:
        return f"<Driver of {self._spec.name}>"

    def stop(self, reason: str) -> None:
        """End the run in good order; the next word to the run table says so."""
        self._stop_asked = reason

    async def run(self, result: Result) -> Result:
        """Publish, follow to the end, keep model and result; ``result`` is filled as it goes.

        Raises:
            SlicesLost: a peer that held the only copy of some slices is gone.
            TryAgain: the run was out of reach for ``lost_after`` seconds.
            ParamserverError: the run failed.
        """
        await self._peer.coordinator.put_config(self._spec.name, self._spec.model_dump(mode="json"))
        try:
            state = await self._follow(result)
            result.take(state)
            if result.status in ("done", "stopped") and result.steps:
                await self._keep_model(state["final_clock"])
        finally:
            await self._withdraw()
        return result

    async def _follow(self, result: Result) -> dict[str, Any]:
        """Follow the run until it has finished; return its last state."""
        serial = -1
        stopping = False
        silent_since: float | None = None
        while True:
            self._lost()
            try:
                outcome = await self._peer.coordinator.get_outcome(self._spec.name)
                if outcome is not None:
                    raise _failure(outcome)
                address = self._peer.run_address(self._spec.name)
                if self._stop_asked is not None and not stopping:
                    await self._peer.links.request(
                        address,
                        StopRun(run=self._spec.name, reason=self._stop_asked),
                        deadline=self._deadline,
                    )
                    stopping = True
                reply = await self._peer.links.request(
                    address, Follow(run=self._spec.name, after=serial), deadline=self._deadline
                )
            except (UnknownTable, Unsupported, RequestFailed, StoreError) as error:
                silent_since = self._still(silent_since, error)
                seen = self._peer.view.map.serial
                await self._peer.maps.newer(seen, 0.2)
                continue
            silent_since = None
            self.begun = True
            answer: Snapshot = reply.message
            serial = answer.serial
            result.take(answer.state)
            self._progress(answer.state)
            if answer.state["phase"] == "finished":
                return answer.state
            await asyncio.sleep(0.1)

    def _still(self, since: float | None, error: ParamserverError) -> float:
        """Give up where the run was out of reach for longer than a lost one may be."""
        now = time.monotonic()
        began = since if since is not None else now
        run = self._peer.view.map.run
        if run is not None and run.name != self._spec.name:
            if self._waits_for != run.name:
                self._waits_for = run.name
                log.warning("waiting for run %s to end", run.name)
            return now
        if now - began > self._spec.lost_after:
            raise TryAgain(
                f"run {self._spec.name} was out of reach for {now - began:.0f} s: {error}"
            ) from error
        return began

    async def _keep_model(self, clock: int | None) -> None:
        table = TableClient(
            self._peer.links,
            self._peer.maps,
            self._spec.table_name,
            self._peer.me,
            deadline=self._deadline,
        )
        weights = await table.pull(clock=clock)
        layout = [(one.name, one.offset, one.shape) for one in self._plan.model.layout]
        recipe = json.dumps(self._plan.recipe.dump())
        await asyncio.get_running_loop().run_in_executor(
            None, write_model, self._output / MODEL_FILE, weights, layout, recipe
        )

    async def _withdraw(self) -> None:
        """Take the run out of the cluster, so that peers let its slices go."""
        try:
            await self._peer.coordinator.drop_config(self._spec.name)
        except (ParamserverError, TimeoutError) as error:
            log.warning("run %s could not be withdrawn: %s", self._spec.name, error)


def _failure(outcome: dict[str, Any]) -> ParamserverError:
    error = str(outcome.get("error", "the leader ended the run: its driver was taken for gone"))
    if outcome.get("exit_code") == SlicesLost.exit_code:
        return SlicesLost(error)
    return ParamserverError(error)
