"""`nodes.train`: a run from a person's own program, a notebook or a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from kernels.errors import KernelError
from nodes.data.arrays import ARRAYS_FILE, InMemory, write_arrays
from nodes.data.dataset import Dataset
from nodes.data.schema import Schema
from nodes.errors import DataError
from nodes.recipe import Recipe, load_recipe
from nodes.trained import TrainedModel, load
from nodes.training.progress import Progress, Show, open_progress
from nodes.training.result import Result
from nodes.training.session import Session, fresh_run, recording
from paramserver.config import TrainConfig
from paramserver.configfile import COMMAND_LINE
from paramserver.console import hushed, run_loop
from paramserver.errors import ConfigurationError, NotReady, TryAgain
from paramserver.phrases import counted

SHORT = {
    "device": "device.select",
    "peers": "cluster.peers",
    "shards": "cluster.shards",
    "workers": "cluster.workers",
}
TOPOLOGY = ("peers", "shards", "workers")


class Trained(Result):
    """How a run ended: the fields of `Result`, and the model that it left."""

    def __repr__(self) -> str:
        accuracy = f", accuracy {self.accuracy:.4f}" if self.accuracy is not None else ""
        epochs = counted(self.epochs, "epoch")
        return f"<Trained {self.run}: {self.status} after {epochs}{accuracy}, {self.output}>"

    @cached_property
    def model(self) -> TrainedModel:
        """The trained model, as `nodes.load` returns it."""
        if self.output is None:
            raise NotReady(f"run {self.run} left no model")
        return load(self.output)


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: InMemory | None = None,
    output: str | Path | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Trained:
    """Train a recipe on local peers, and return when the run is over.

    It works in a script, a notebook and inside a running event loop, which it blocks
    (``await asyncio.to_thread(nodes.train, …)`` does not). Ctrl-C and SIGTERM end the run in good
    order, a second one at once; then the signal takes its usual course.

    Args:
        recipe: a shipped recipe's name, a file's path, a dict like such a file, or a `Recipe`.
        data: a `Dataset`, or arrays (x, y) or (x, y, x_test, y_test), instead of the recipe's.
        output: the run's folder, a new one under runs/ unless given.
        progress: whether to say on stderr how the run goes.
        overrides: values by key, with ``__`` for the dot: ``train__rate=0.1``, ``seed=1``. What is
            in ``train`` needs no prefix (``epochs=3``); ``device``, ``peers``, ``shards`` and
            ``workers`` are what they are on the command line.

    Raises:
        UserError: recipe, data or folder are wrong.
        NotReady: this machine is not ready.
        ParamserverError: the run failed; the text says why.
        KeyboardInterrupt: Ctrl-C stopped the run; the text names its folder.
    """
    name = _name(recipe)
    result = Trained(run=fresh_run(name), recipe=name)
    session = Session(result, output=Path(output) if output is not None else None)
    flags = {_key(given): value for given, value in overrides.items()}
    with hushed(not progress):
        try:
            with recording(result), session:
                _prepare(session, recipe, data, flags)
                shown = open_progress(Show.AUTO if progress else Show.NONE)
                got = _run_in_thread(session, shown)
        except KernelError as error:
            raise NotReady(str(error)) from error
    if got is not None:
        _take_course(got, session)
    if result.status == "stopped":
        raise TryAgain(
            f"the run was stopped: {result.stopped_because}; go on with "
            f"`node train --resume {result.output}`"
        )
    return result


def _name(recipe: str | Path | Mapping[str, Any] | Recipe) -> str:
    if isinstance(recipe, Recipe):
        return recipe.name
    if isinstance(recipe, Mapping):
        return str(recipe.get("name", "recipe"))
    return Path(recipe).stem if str(recipe).endswith((".toml", ".json")) else str(recipe)


def _key(given: str) -> str:
    """Return the dotted key that an override's name stands for."""
    if given in SHORT:
        return SHORT[given]
    if given in TrainConfig.model_fields and given not in Recipe.model_fields:
        return f"train.{given}"
    return given.replace("__", ".")


def _prepare(
    session: Session,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    data: InMemory | None,
    flags: Mapping[str, Any],
) -> None:
    """Prepare a session; data in memory is written into the run's folder for its peers.

    Raises:
        UserError: recipe or data are wrong.
    """
    if isinstance(recipe, Recipe):
        recipe = _as_document(recipe, flags)
    if data is None:
        session.prepare(_loaded(recipe, flags))
        return
    path = (session.folder / ARRAYS_FILE).absolute()
    try:
        keys = write_arrays(data, path)
        session.brought(path)
        loaded = _loaded(recipe, {**flags, **keys})
        schema: Schema | None = None
        brought: list[str] = []  # so that the recipe's files are not meant
        if isinstance(data, Dataset):
            schema, brought = data.schema, ["test_path", "validation_path"]
        elif len(data) > 2:
            brought = ["test_path"]
        own = loaded.data.model_copy(update=dict.fromkeys(brought))
        session.prepare(loaded.model_copy(update={"data": own}), schema)
    except DataError as error:
        raise DataError(str(error).replace(str(path), "data")) from None


def _as_document(recipe: Recipe, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as a file would hold it; a topology in ``flags`` replaces the recipe's."""
    document = recipe.model_dump(mode="json", exclude_defaults=True)
    if any(f"cluster.{key}" in flags for key in TOPOLOGY):
        for key in TOPOLOGY:
            document.get("cluster", {}).pop(key, None)
    return document


def _loaded(recipe: str | Path | Mapping[str, Any], flags: Mapping[str, Any]) -> Recipe:
    try:
        return load_recipe(recipe, flags=flags).config
    except ConfigurationError as error:
        lines = [
            line.replace(f"{COMMAND_LINE}: ", "nodes.train: ", 1)
            if line.startswith(COMMAND_LINE)
            else line
            for line in str(error).splitlines()
        ]
        raise ConfigurationError("\n".join(lines), lines=lines) from None


# The thread


class _Run:
    """A session on a thread and an event loop of its own."""

    def __init__(self, session: Session, progress: Progress) -> None:
        self._session = session
        self._progress = progress
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = 0
        self._lock = threading.RLock()  # a signal's handler may come while its thread holds it
        self.outcome: Future[None] = Future()

    def __repr__(self) -> str:
        return f"<_Run of {self._session!r}>"

    def __call__(self) -> None:
        """Run to the end; the outcome holds what it raised."""
        try:
            run_loop(self._main())
            self.outcome.set_result(None)
        except BaseException as error:
            self.outcome.set_exception(error)

    async def _main(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
            if self._asked:
                self._loop.call_soon(self._react, "an early interrupt")
        try:
            await self._session.run(self._progress)
        finally:
            with self._lock:
                self._loop = None

    def ask(self, reason: str) -> None:
        """Ask the run to end, from any thread: in good order at first, at once when asked again."""
        with self._lock:
            self._asked += 1
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._react, reason)

    def _react(self, reason: str) -> None:
        if self._asked > 1:
            self._session.cancel()
        else:
            self._session.stop(reason)


def _run_in_thread(session: Session, progress: Progress) -> signal.Signals | None:
    """Run a session to its end, whatever loop or signal handlers this thread has.

    Return the signal that asked for its end, if one did. What is raised in this thread meanwhile
    stops the run first, in good order, and is raised then.
    """
    run = _Run(session, progress)
    thread = threading.Thread(target=copy_context().run, args=(run,), name=session.result.run)
    raised: BaseException | None = None
    with _signals(run.ask) as got:
        thread.start()
        while thread.is_alive():
            try:
                run.outcome.exception()
                thread.join()
            except BaseException as error:
                raised = error
                run.ask(type(error).__name__)
    if raised is not None:
        raise raised
    if got:
        return got[0]
    run.outcome.result()
    return None


@contextlib.contextmanager
def _signals(ask: Callable[[str], None]) -> Iterator[list[signal.Signals]]:
    """Have signals ask for the run's end while the context is open; yield the list of those got.

    Only the main thread gets signals. What a program ignores, or handles itself, stays its own but
    for Ctrl-C: an event loop's handler could not run while this thread waits.
    """
    got: list[signal.Signals] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        got.append(signal.Signals(number))
        ask(got[-1].name)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            own = signal.getsignal(number)
            ours = number is signal.SIGINT and own not in (None, signal.SIG_IGN)
            if ours or own is signal.SIG_DFL:
                before[number] = signal.signal(number, handle)
    try:
        yield got
    finally:
        for number, own in before.items():
            signal.signal(number, own)


def _take_course(got: signal.Signals, session: Session) -> None:
    """Let a signal that ended a run do what it would have done without the run."""
    if got is signal.SIGINT:
        raise KeyboardInterrupt(f"run {session.result.run} was stopped: see {session.folder}")
    os.kill(os.getpid(), got)
