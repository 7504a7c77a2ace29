"""One run from its recipe to its result: what the command and `nodes.train` have in common."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernels.device import choose
from kernels.errors import KernelError
from nodes.data import load_dataset
from nodes.data.schema import Schema
from nodes.models import Model
from nodes.recipe import Recipe
from nodes.training.best import bring_best
from nodes.training.driver import Driver
from nodes.training.events import EVENTS_FILE, EventLog
from nodes.training.joined import peer_config, train_joined
from nodes.training.local import train_locally
from nodes.training.plan import Plan, name_run
from nodes.training.progress import Progress
from nodes.training.result import RESULT_FILE, Result
from nodes.training.resume import read
from paramserver.checkpoint import FOLDER, Checkpoint
from paramserver.console import read_secret, say
from paramserver.errors import ConfigurationError, NotReady, ParamserverError, TryAgain, UserError
from paramserver.phrases import counted

RUNS = Path("runs")
LOCK_FILE = ".lock"


def fresh_run(recipe: str) -> str:
    """Return the name of a new run of the recipe that goes by this name."""
    safe = "".join(one if one.isalnum() or one in "._-" else "-" for one in recipe)[:64]
    return name_run(safe or "run")


@contextlib.contextmanager
def recording(result: Result) -> Iterator[None]:
    """Keep in ``result`` how long a run took and why it failed, and write it where it has a folder."""
    began = time.monotonic()
    try:
        yield
    except (ParamserverError, KernelError) as error:
        result.status, result.error = "failed", str(error)
        raise
    finally:
        result.total_seconds = time.monotonic() - began
        try:
            result.write()
        except NotReady as error:
            say(str(error))


class Session:
    """One run: `prepare` it, `run` it on an event loop, and `stop` or `cancel` it there.

    ``join`` is the address of a cluster to run it on; else the recipe's ZooKeeper is where it meets
    one, and without either it gets local peers of its own. A run that goes on from a ``checkpoint``
    stays in its folder unless ``output`` names another.
    """

    def __init__(
        self,
        result: Result,
        *,
        output: Path | None = None,
        join: str | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.result = result
        self.folder = output if output is not None else folder_of(result.run, checkpoint)
        self._join = join
        self._checkpoint = checkpoint
        self._local = True
        self._plan: Plan | None = None
        self._driver: Driver | None = None
        self._task: asyncio.Task[Any] | None = None
        self._asked = False

    def __repr__(self) -> str:
        return f"<Session of {self.result.run} in {self.folder}>"

    def prepare(self, recipe: Recipe, schema: Schema | None = None) -> None:
        """Choose the device, load the data, and make the run's folder. Blocks.

        ``schema`` is what the model is to know of the data, where its file does not say all.

        Raises:
            UserError: data, model or folder are wrong; the text says what to change.
            KernelError: there is no such device here.
        """
        result = self.result
        self._local = self._join is None and recipe.cluster.zookeeper.address is None
        info = choose(recipe.device.select) if self._local else None
        if not self._local:
            read_secret(peer_config(recipe))  # what is wrong with it is said before all else
        dataset = load_dataset(recipe.data)
        if schema is not None:
            dataset = replace(dataset, schema=schema)
        model = Model.for_dataset(recipe.model, dataset)
        if recipe.early_stopping.patience is not None and not len(dataset.validation_x):
            raise ConfigurationError(
                "early_stopping.patience: needs validation data: set data.validation, such as 0.1"
            )
        self._plan = Plan(recipe, dataset, model, result.run)
        if self._checkpoint is not None:
            resume = read(self._checkpoint, self._plan, self.folder)
            dataset = replace(dataset, schema=resume.schema)
            self._plan = Plan(recipe, dataset, model, result.run, resume)
        own = folder_of("", self._checkpoint) if self._checkpoint is not None else None
        make_folder(self.folder, again=own is not None and own.resolve() == self.folder.resolve())
        result.output = str(self.folder)
        if self._checkpoint is not None and own is not None:
            bring_best(self._checkpoint, own, self.folder)
        if info is not None:
            result.device = info.name
            say(f"device: {info}")
        say(repr(dataset))
        say(
            f"run {result.run}: {counted(model.size, 'parameter')}, {recipe.consistency}, "
            f"{counted(recipe.train.epochs, 'epoch')}"
        )
        if self._checkpoint is not None:
            done = self._checkpoint.table["epochs_done"]
            over = ": all are done, give --epochs for more" if done >= recipe.train.epochs else ""
            say(f"going on from {self._checkpoint.folder}, after {counted(done, 'epoch')}{over}")

    async def run(self, progress: Progress) -> None:
        """Start peers, or join the cluster that is there, and follow the run to its end.

        A run that was asked to stop is no failure: its result says "stopped".

        Raises:
            ParamserverError: the run failed, or could not begin.
        """
        plan, result = self._plan, self.result
        if plan is None:
            raise ValueError("prepare the session first")
        self._task = asyncio.current_task()
        told = self._checkpoint.table["judge"]["last"] if self._checkpoint is not None else None
        log = EventLog(self.folder / EVENTS_FILE, validated=told["epoch"] if told else 0)
        with held(self.folder), log as events, progress:
            (self.folder / RESULT_FILE).unlink(missing_ok=True)  # an earlier life's

            def note(state: dict[str, Any]) -> None:
                if plan.dataset.task == "regression":
                    state = _without_accuracy(state)
                events(state)
                progress(state)

            try:
                if self._local:
                    await train_locally(plan, result, self.folder, note, self._begin)
                else:
                    await train_joined(plan, result, self.folder, note, self._begin, self._join)
                if result.status == "failed":
                    raise _failure(result)
            except asyncio.CancelledError:
                if not self._asked:
                    raise
                begun = self._driver is not None and self._driver.begun
                how = "at once, so the last steps are lost" if begun else "before the run had begun"
                result.status, result.error = "stopped", f"stopped {how}"
            except (ParamserverError, KernelError) as error:
                result.status, result.error = "failed", str(error)
                raise
            finally:
                if plan.dataset.task == "regression":
                    result.accuracy = None
                    for found in (result.validation or {}).values():
                        found["accuracy"] = None
                events.end(result)
                progress.end(result)

    def stop(self, reason: str) -> None:
        """End the run in good order: what is under way is finished and kept."""
        say("stopping in good order; once more to stop at once")
        self._asked = True
        if self._driver is not None and self._driver.begun:
            self._driver.stop(reason)
        elif self._task is not None:
            self._task.cancel()

    def cancel(self) -> None:
        """End the run at once; peers of its own end with it."""
        self._asked = True
        if self._task is not None:
            self._task.cancel()

    def _begin(self, driver: Driver) -> None:
        self._driver = driver


def folder_of(run: str, checkpoint: Checkpoint | None) -> Path:
    """Return the folder of a run unless another is given: the one that its checkpoint lies in."""
    if checkpoint is not None and checkpoint.folder.parent.name == FOLDER:
        return checkpoint.folder.parent.parent
    return RUNS / (checkpoint.spec.name if checkpoint is not None else run)


def make_folder(folder: Path, *, again: bool = False) -> None:
    """Make the folder of a new run, or take that of one which goes on ``again``.

    Raises:
        UserError: it cannot be made, or holds another run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}: give another with --output"
        ) from error
    if not again and ((folder / RESULT_FILE).exists() or any(folder.glob(f"{FOLDER}/*"))):
        raise UserError(
            f"{folder} holds another run: give a new folder with --output, or go on with "
            f"--resume {folder}"
        )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone while the context is open.

    Raises:
        UserError: another process is at work there.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another `node train` is at work there; stop it first"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _without_accuracy(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state that claims no accuracy: nothing is right or wrong in a regression."""
    none = {"accuracy": None}
    ends = [{**end, **none} for end in state["epoch_ends"]]
    validation = {
        **state["validation"],
        **{
            key: {**found, **none}
            for key in ("last", "best")
            if (found := state["validation"][key])
        },
    }
    return {
        **state,
        "recent_accuracy": None,
        "test_accuracy": None,
        "epoch_ends": ends,
        "validation": validation,
    }


def _failure(result: Result) -> ParamserverError:
    """Return the error that a run ended with, as its exit code tells it."""
    kinds: dict[int, type[ParamserverError]] = {
        kind.exit_code: kind for kind in (UserError, NotReady, TryAgain)
    }
    return kinds.get(result.exit_code, ParamserverError)(result.error or "the run failed")
