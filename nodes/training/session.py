"""One run from its recipe to its result: what the command and `nodes.train` have in common."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.device.choice import choose
from kernels.errors import KernelError
from nodes.data import load_dataset
from nodes.data.schema import Schema
from nodes.models import Model
from nodes.recipe import Recipe
from nodes.training.best import bring_best
from nodes.training.folder import RunFolder, folder_of, home_of
from nodes.training.peers import LocalPeers, peer_config, start_peers
from nodes.training.plan import Plan, name_run
from nodes.training.progress import Progress
from nodes.training.result import RESULT_FILE, Result
from nodes.training.resume import read
from paramserver.checkpoint import Checkpoint
from paramserver.console import Interrupted, read_secret, say
from paramserver.errors import ConfigurationError, NotReady, ParamserverError, TryAgain, UserError
from paramserver.launch.children import Children
from paramserver.phrases import counted

if TYPE_CHECKING:
    from nodes.training.driver import Driver


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
    except Interrupted:
        result.status, result.error = "stopped", "stopped before the run had begun"
        raise
    finally:
        result.total_seconds = time.monotonic() - began
        try:
            result.write()
        except NotReady as error:
            say(str(error))


class Session:
    """One run: `prepare` it, `run` it on an event loop, and `stop` or `cancel` it there.

    Use as a context manager: it holds the run's folder, and ends peers that are left.

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
        home = home_of(checkpoint) if checkpoint is not None else None
        again = home is not None and home.resolve() == self.folder.resolve()
        self._place = RunFolder(self.folder, again=again)
        self._open = contextlib.ExitStack()
        self._plan: Plan | None = None
        self._peers: LocalPeers | None = None
        self._driver: Driver | None = None
        self._task: asyncio.Task[Any] | None = None
        self._asked = False

    def __repr__(self) -> str:
        return f"<Session of {self.result.run} in {self.folder}>"

    def __enter__(self) -> Session:
        self._open.enter_context(self._place)
        return self

    def __exit__(self, *_: object) -> None:
        self._plan = None
        self._open.close()

    def prepare(self, recipe: Recipe, schema: Schema | None = None) -> None:
        """Start peers of its own, choose the device and load the data. Blocks.

        ``schema`` is what the model is to know of the data, where its file does not say all. Where it
        fails, the context leaves no new folder.

        Raises:
            UserError: data or model are wrong; the text says what to change.
            KernelError: there is no such device here.
        """
        if self._join is not None or recipe.cluster.zookeeper.address is not None:
            read_secret(peer_config(recipe))  # what is wrong with it is said before all else
        else:  # at first, since their imports take longer than all that follows
            children = Children(self.folder)
            self._open.callback(self._end, children)
            self._peers = LocalPeers(children, start_peers(children, recipe))
        self._plan = self._look(recipe, schema)
        self._place.keep()
        self.result.output = str(self.folder)

    def brought(self, path: Path) -> None:
        """Take a file in the run's folder for a part of the run; it goes if the run cannot begin."""
        self._place.brought(path)

    def _end(self, children: Children) -> None:
        children.kill()
        self._place.brought(*children.began)

    def _look(self, recipe: Recipe, schema: Schema | None) -> Plan:
        """Look at the device, the data and the checkpoint, and say what is found."""
        result, checkpoint = self.result, self._checkpoint
        info = (
            choose(recipe.device.select, recipe.device.target_cpu, say)
            if self._peers is not None
            else None
        )
        dataset = load_dataset(recipe.data)
        if schema is not None:
            dataset = replace(dataset, schema=schema)
        model = Model.for_dataset(recipe.model, dataset)
        if recipe.early_stopping.patience is not None and not len(dataset.validation_x):
            raise ConfigurationError(
                "early_stopping.patience: needs validation data: set data.validation, such as 0.1"
            )
        plan = Plan(recipe, dataset, model, result.run)
        if checkpoint is not None:
            resume = read(checkpoint, plan, self.folder)
            plan = Plan(recipe, replace(dataset, schema=resume.schema), model, result.run, resume)
        if info is not None:
            result.device = info.label
            say(f"device: {info}")
        say(repr(plan.dataset))
        say(
            f"run {result.run}: {counted(model.size, 'parameter')}, {recipe.consistency}, "
            f"{counted(recipe.train.epochs, 'epoch')}"
        )
        if checkpoint is not None:
            done = checkpoint.table["epochs_done"]
            over = ": all are done, give --epochs for more" if done >= recipe.train.epochs else ""
            say(f"going on from {checkpoint.folder}, after {counted(done, 'epoch')}{over}")
        return plan

    async def run(self, progress: Progress) -> None:
        """Tell its own peers where to join, or join a cluster, and follow the run to its end.

        A run that was asked to stop is no failure: its result says "stopped".

        Raises:
            ParamserverError: the run failed, or could not begin.
        """
        plan, result = self._plan, self.result
        if plan is None:
            raise ValueError("prepare the session first")
        # They import what makes a peer, which its own peers do meanwhile.
        from nodes.training.events import EVENTS_FILE, EventLog
        from nodes.training.joined import train_joined
        from nodes.training.local import train_locally

        self._task = asyncio.current_task()
        told = self._checkpoint.table["judge"]["last"] if self._checkpoint is not None else None
        log = EventLog(self.folder / EVENTS_FILE, validated=told["epoch"] if told else 0)
        with log as events, progress:
            (self.folder / RESULT_FILE).unlink(missing_ok=True)  # an earlier life's
            if self._checkpoint is not None:
                own = folder_of("", self._checkpoint)
                bring_best(self._checkpoint, own, self.folder)

            def note(state: dict[str, Any]) -> None:
                if plan.dataset.task == "regression":
                    state = _without_accuracy(state)
                events(state)
                progress(state)

            try:
                if self._peers is not None:
                    await train_locally(plan, result, self.folder, note, self._begin, self._peers)
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
