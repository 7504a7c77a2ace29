"""Drives one run: publishes the recipe, follows the run, and keeps what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nodes.training.best import link
from nodes.training.plan import Plan
from nodes.training.result import BEST_FILE, MODEL_FILE, Result, write_model
from paramserver.checkpoint import FOLDER
from paramserver.checkpointer import Checkpointer, Cut
from paramserver.client import Copy
from paramserver.console import say
from paramserver.cutclient import CutClient
from paramserver.errors import (
    NotReady,
    ParamserverError,
    Refused,
    RequestFailed,
    SlicesLost,
    StoreError,
    TryAgain,
    UnknownTable,
    Unsupported,
    UserError,
)
from paramserver.peer import Peer
from paramserver.slices import Floats
from paramserver.spec import RunSpec
from paramserver.waiting import first_error
from paramserver.wire.run import CheckpointMade, Follow, Kept, Snapshot, StopRun

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]


class Driver:
    """Follows one run through ``peer``, which holds no slices and does not lead.

    It is the one writer of the run's checkpoints. ``lost`` raises where the driver knows that the run
    cannot go on (its child processes died).
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
        self._resume = plan.resume
        before = plan.resume.checkpoint.table.get("kinds", ()) if plan.resume is not None else ()
        self._kinds = frozenset(before) if spec.table.consistency == "bsp" else frozenset()
        self._spec = spec.model_copy(update={"driver": tuple(peer.me)})
        self._peer = peer
        self._output = output
        self._progress = progress
        self._lost = lost
        self._stop_asked: str | None = None
        self._waits_for: str | None = None
        self._out_of_reach = False
        self.begun = False
        """Whether the run table has answered once."""
        self._deadline = spec.deadline
        self._client = CutClient(
            peer.links, peer.maps, spec.table_name, peer.me, deadline=spec.deadline
        )
        self._checkpointer = self._new_checkpointer()
        self._best_kept: int | None = None
        self._saving: asyncio.Task[None] | None = None
        self._saved = time.monotonic()

    def __repr__(self) -> str:
        return f"<Driver of {self._spec.name}>"

    def _new_checkpointer(self) -> Checkpointer:
        return Checkpointer(
            self._spec,
            self._peer.links,
            self._client,
            lambda: self._peer.runs.address(self._spec.name),
            self._output / FOLDER,
            self._write_into_checkpoint,
            keep=self._plan.recipe.checkpoint.keep,
        )

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
        await self._publish()
        try:
            async with asyncio.TaskGroup() as group:
                state = await self._follow(result, group)
            result.take(state)
            if result.status in ("done", "stopped") and result.steps:
                await self._keep(result)
        except BaseExceptionGroup as several:
            raise first_error(several) from several
        finally:
            await self._withdraw()
        return result

    async def _publish(self) -> None:
        """Ask the cluster for this run; what became of its life before is forgotten.

        Raises:
            UserError: another driver is at work on the run.
        """
        coordinator = self._peer.coordinator
        before = await coordinator.get_config(self._spec.name)
        if before is not None:
            driver = before.get("driver")
            here = coordinator.members.current.get(driver[0]) if driver else None
            if driver and here is not None and here.incarnation == driver[1]:
                raise UserError(f"run {self._spec.name} goes on under {driver[0]}: stop it there")
        # A life that died before its first checkpoint may stand in the cluster, half restored.
        placed = self._peer.view.map.run
        stands = [before["attempt"]] if before is not None else []
        if placed is not None and placed.name == self._spec.name:
            stands.append(placed.attempt)
        if stands:
            attempt = max(self._spec.attempt, *(one + 1 for one in stands))
            self._spec = self._spec.model_copy(update={"attempt": attempt})
            self._checkpointer = self._new_checkpointer()
        await coordinator.drop_outcome(self._spec.name)
        await coordinator.put_config(self._spec.name, self._spec.model_dump(mode="json"))

    async def _follow(self, result: Result, group: asyncio.TaskGroup) -> dict[str, Any]:
        """Follow the run until it has finished; return its last state.

        Checkpoints are taken by tasks of ``group``.
        """
        serial = -1
        stopping = False
        silent_since: float | None = None
        while True:
            self._lost()
            try:
                address = self._peer.runs.address(self._spec.name)
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
                if reply.message.state["attempt"] != self._spec.attempt:
                    raise UnknownTable(f"run {self._spec.name} is still at an attempt before this")
                await self._restore(reply.message.state)
                await self._keep_best(reply.message.state)
            except (UnknownTable, Unsupported, RequestFailed) as error:
                await self._look_for_outcome()
                silent_since = self._still(silent_since, error)
                seen = self._peer.view.map.serial
                await self._peer.maps.newer(seen, 0.2)
                continue
            silent_since = None
            self._reached()
            self.begun = True
            answer: Snapshot = reply.message
            serial = answer.serial
            result.take(answer.state)
            self._progress(answer.state)
            self._compare_kinds(answer.state)
            self._tend_checkpoints(answer.state, group)
            if answer.state["phase"] == "finished":
                return answer.state
            await asyncio.sleep(0.1)

    def _compare_kinds(self, state: Mapping[str, Any]) -> None:
        """Say once if a run goes on where the bits differ from those of its life before."""
        here = {worker["kind"] for worker in state["workers"].values() if worker["kind"]}
        if self._kinds and here - self._kinds:
            say(
                f"another kind of device: {', '.join(sorted(here - self._kinds))}; the run began on "
                f"{', '.join(sorted(self._kinds))}: its weights' last bits will differ from those of "
                "a run that stayed there"
            )
            self._kinds = frozenset()

    async def _look_for_outcome(self) -> None:
        """Raise what the leader ended the run with, if it did."""
        try:
            outcome = await self._peer.coordinator.get_outcome(self._spec.name)
        except StoreError as error:
            log.info("the coordinator does not answer: %s", error)
            return
        if outcome is not None:
            raise self._failure(outcome)

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
        if self.begun and not self._out_of_reach:
            self._out_of_reach = True
            left = self._spec.lost_after
            log.warning("run %s is out of reach, trying for %g s: %s", self._spec.name, left, error)
        if now - began > self._spec.lost_after:
            raise TryAgain(
                f"run {self._spec.name} was out of reach for {now - began:.0f} s: {error}"
            ) from error
        return began

    def _reached(self) -> None:
        if self._out_of_reach:
            self._out_of_reach = False
            log.warning("run %s is in reach again", self._spec.name)

    # Checkpoints

    async def _restore(self, state: dict[str, Any]) -> None:
        """Bring the checkpoint that this life of the run begins from."""
        if self._resume is not None and state["phase"] == "initialise":
            await self._checkpointer.restore(self._resume.checkpoint, self._resume.table)
            self._resume = None  # it holds all weights
            self._saved = time.monotonic()

    def _tend_checkpoints(self, state: dict[str, Any], group: asyncio.TaskGroup) -> None:
        """Begin a checkpoint where one is due or was asked for, and none is under way."""
        if state["phase"] != "train" or (self._saving is not None and not self._saving.done()):
            return
        known = state["checkpoint"]
        due = time.monotonic() - self._saved >= self._plan.recipe.checkpoint.every
        if due or known["asked"] > known["number"]:
            number = max(known["asked"], known["number"] + 1)
            self._saving = group.create_task(self._save(number))

    async def _save(self, number: int) -> None:
        """Take and write a checkpoint while the run goes on; a failure is told, and tried again."""
        folder, fault = None, None
        try:
            folder = await self._checkpointer.write(await self._checkpointer.take())
        except (NotReady, TryAgain, RequestFailed, Refused) as error:
            fault = str(error)
            log.warning("no checkpoint now: %s", fault)
        self._saved = time.monotonic()
        made = CheckpointMade(
            run=self._spec.name,
            number=number,
            folder=str(folder.absolute()) if folder is not None else None,
            error=fault,
        )
        try:
            address = self._peer.runs.address(self._spec.name)
            await self._peer.links.request(address, made, deadline=self._deadline)
        except (RequestFailed, Refused) as error:
            log.info("the run table was not told of the checkpoint: %s", error)

    async def _keep_best(self, state: dict[str, Any]) -> None:
        """Keep the weights that a validation found best; the run waits for it."""
        number = state["validation"]["keep"]
        if number is None or number == self._best_kept:
            return
        copy = Copy(self._spec.table.size)
        clock = state["final_clock"]
        if not await self._client.pull_into(copy, clock=clock, deadline=self._deadline):
            return
        if clock is not None and not copy.is_of(clock):
            log.warning("the best model is not kept: the run went on before it was here")
            return
        try:
            await asyncio.get_running_loop().run_in_executor(
                None,
                self._write_model,
                self._output / BEST_FILE,
                copy.weights,
                state["validation"]["last"],
            )
        except NotReady as error:
            log.warning("the best model is not kept: %s", error)
        await self._peer.links.request(
            self._peer.runs.address(self._spec.name),
            Kept(run=self._spec.name, number=number),
            deadline=self._deadline,
        )
        self._best_kept = number

    async def _keep(self, result: Result) -> None:
        """Keep the weights that the run ended with, as a checkpoint and as the model."""
        cut = await self._checkpointer.take()
        try:
            await self._keep_model(cut)
        finally:  # where the disk is full, one of the two may still find room
            result.checkpoint = str(await self._checkpointer.write(cut))

    async def _keep_model(self, cut: Cut) -> None:
        await asyncio.get_running_loop().run_in_executor(
            None, self._write_model, self._output / MODEL_FILE, cut.table.weights
        )

    def _write_into_checkpoint(self, path: Path, weights: Floats) -> None:
        """Write the model's file of a checkpoint, and beside it the best model so far."""
        self._write_model(path, weights)
        link(self._output / BEST_FILE, path.with_name(BEST_FILE))

    def _write_model(
        self, path: Path, weights: Floats, validation: dict[str, Any] | None = None
    ) -> None:
        plan = self._plan
        recipe = json.dumps(plan.recipe.dump())
        write_model(path, weights, plan.model, plan.dataset.schema, recipe, validation)

    async def _withdraw(self) -> None:
        """Take the run out of the cluster, so that peers let its slices go."""
        try:
            await self._peer.coordinator.drop_config(self._spec.name)
        except (ParamserverError, TimeoutError) as error:
            log.warning("run %s could not be withdrawn: %s", self._spec.name, error)

    def _failure(self, outcome: dict[str, Any]) -> ParamserverError:
        error = str(outcome.get("error", "the leader ended the run: its driver was taken for gone"))
        if outcome.get("exit_code") != SlicesLost.exit_code:
            return ParamserverError(error)
        saved = any((self._output / FOLDER).glob("*"))
        how = f"go on from its last checkpoint with `node train --resume {self._output}`"
        return SlicesLost(f"{error}; {how if saved else 'it has no checkpoint: start it again'}")
