"""A whole training run by the command, against data-parallel PyTorch, or one process without it."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benching.comparing import Contender, compare
from benching.conversation import Conversation
from benching.gemm import threads
from benching.printing import Sheet
from benching.processes import Side, begun, side
from benching.rows import Case
from benching.step import RATE, has_torch, load_torch, model_of, torch_network
from benching.suites import Settings, Suite
from benching.tied import command
from kernels.engine import open_engine
from kernels.rules import RuleRunner, RuleSpec, Update
from nodes.data import load_dataset, permutation
from nodes.data.config import DataConfig
from nodes.training.learner import Learner
from paramserver.errors import NotReady
from paramserver.store import aligned

WIDTHS = (784, 512, 512, 10)
BATCH = 128
RANKS = 2
TURNS = 5
QUICK_TURNS = 2
EPOCHS = 2
STEPS = 300
"""Steps of the other side that make a turn."""
WARM_UP = 20
QUICK_STEPS = 20
ROWS = 60000
QUICK_ROWS = 2560
RUN_WITHIN = 300.0
FAREWELL = 5.0


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure the run on both sides."""
    cores = tuple(dict.fromkeys(settings.pair))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
        data, words = find_data(folder, quick=settings.quick)
        sheet.note(f"data: {words}")

        async def started(name: str, *on: int, **more: Any) -> Side:
            return await stack.enter_async_context(
                side("train", name, settings, cores=on, data=data, **more)
            )

        other: Contender
        if has_torch():
            meeting = f"file://{folder}/meeting"
            sides = [
                await started("rank", core, rank=rank, meeting=meeting)
                for rank, core in enumerate(settings.pair)
            ]
            other, against = Ranks(sides), "torch DDP"
        else:
            sides = [await started("alone", *cores)]
            other, against = sides[0], "one process"
        await begun(*sides)
        sheet.note(f"other: {sides[0].about}")
        ours = Command(folder, settings, cores, data)
        sheet.note(f"both sides on cores {', '.join(str(core) for core in cores)}")
        name = f"{'-'.join(str(width) for width in WIDTHS)}/batch{BATCH}"
        case = Case(name, "examples/s", 1.0)
        turns = QUICK_TURNS if settings.quick else TURNS
        await compare(sheet, "train", [case], ours, other, against, turns)


SUITE = Suite(
    "train",
    "`node train mnist` with two peers, seconds of training only, against PyTorch DDP",
    ("bsp, a gradient each step, sgd, global minibatch 128; DDP over gloo; one thread a process",),
    run,
)


def find_data(folder: Path, *, quick: bool) -> tuple[dict[str, Any], str]:
    """Return the data section of a recipe, and words for it.

    MNIST where the variable PARAMSERVER_DATA names a folder that has it, else rows of MNIST's shape
    made at random, written to ``folder``.
    """
    place = os.environ.get("PARAMSERVER_DATA")
    if place and not quick and (mnist := Path(place).absolute() / "mnist").is_dir():
        return {"source": "mnist", "path": str(mnist)}, f"MNIST from {mnist}"
    rows = QUICK_ROWS if quick else ROWS
    source = np.random.default_rng(1)
    arrays = {}
    for ending, count in (("", rows), ("_test", 256)):
        x = source.integers(0, 256, (count, WIDTHS[0]), np.uint8)
        arrays[f"x{ending}"] = x
        # A label that can be learnt: where in the picture it is brightest.
        sums = x[:, : WIDTHS[0] // 10 * 10].reshape(count, 10, -1).sum(axis=2)
        arrays[f"y{ending}"] = sums.argmax(axis=1)
    path = folder / "synthetic.npz"
    np.savez(path, allow_pickle=False, **arrays)
    why = "--quick" if quick else "PARAMSERVER_DATA names no folder with mnist/"
    return {
        "source": "npz",
        "path": str(path),
        "classes": WIDTHS[-1],
    }, f"{rows:,} made rows of MNIST's shape ({why})"


class Command:
    """Our side: the command that a person types, run anew for each turn."""

    def __init__(
        self, folder: Path, settings: Settings, cores: tuple[int, ...], data: dict[str, Any]
    ) -> None:
        self._folder = folder
        self._cores = cores
        self._runs = 0
        values = {
            **{f"data.{key}": value for key, value in data.items()},
            "consistency": "bsp",
            "cluster.peers": RANKS,
            "train.batch_size": BATCH,
            "train.epochs": 1 if settings.quick else EPOCHS,
            "train.rule": "sgd",
            "train.rate": RATE,
            "device.select": settings.device,
            "device.cores": 1,
        }
        self._sets = [f"--set={key}={value}" for key, value in values.items()]

    async def prepare(self, case: Case) -> None:
        """Do nothing: each turn begins with a start that is not counted."""

    async def measure(self) -> dict[str, float]:
        """Train; return the seconds of training for one example.

        Raises:
            NotReady: the command failed or did not end in time.
        """
        self._runs += 1
        output, log = self._folder / f"run-{self._runs}", self._folder / f"run-{self._runs}.log"
        arguments = ["train", "mnist", "--json", f"--output={output}", *self._sets]
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command(self._cores, "nodes", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(RUN_WITHIN):
                out, _ = await process.communicate()
        except TimeoutError:
            raise NotReady(f"node train: no end after {RUN_WITHIN:g} s") from None
        finally:
            await _end(process)
        if process.returncode != 0:
            words = log.read_text(errors="replace").splitlines()[-4:]
            raise NotReady(f"node train ended ({process.returncode}): {' | '.join(words)}")
        result = json.loads(out)
        return {"seconds": result["seconds"] / result["examples"]}


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the command in good order, then by force; its children go when it does."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            process.send_signal(number)
            try:
                async with asyncio.timeout(FAREWELL):
                    await process.wait()
            except TimeoutError:
                continue


class Ranks:
    """The other side: processes that train together."""

    def __init__(self, sides: list[Side]) -> None:
        self._sides = sides

    async def prepare(self, case: Case) -> None:
        """Have all get ready at once."""
        await asyncio.gather(*(one.prepare(case) for one in self._sides))

    async def measure(self) -> dict[str, float]:
        """Have all train at once; the slowest counts."""
        turns = await asyncio.gather(*(one.measure() for one in self._sides))
        return {"seconds": max(turn["seconds"] for turn in turns)}


class Rank:
    """One process of PyTorch's DistributedDataParallel over gloo."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._torch = load_torch(settings["threads"])
        self._settings = settings
        self._next = 0
        self.about = f"torch {self._torch.__version__}, {RANKS} processes of 1 thread"

    async def prepare(self) -> None:
        """Meet the other rank, load the data, and warm up."""
        torch, settings = self._torch, self._settings
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group(
            "gloo",
            init_method=settings["meeting"],
            rank=settings["rank"],
            world_size=RANKS,
            timeout=datetime.timedelta(seconds=60),
        )
        network = torch.nn.parallel.DistributedDataParallel(torch_network(torch, model_of(WIDTHS)))
        rule = torch.optim.SGD(network.parameters(), lr=RATE)
        dataset = load_dataset(DataConfig.model_validate(settings["data"]))
        x = torch.from_numpy(dataset.train_x.astype(np.float32) * np.float32(dataset.scale))
        y = torch.from_numpy(dataset.train_y).long()
        order = torch.from_numpy(permutation(1, 0, len(x)))
        batch, last = BATCH // RANKS, len(x) - BATCH + 1

        def step() -> None:
            start = self._next + settings["rank"] * batch
            self._next = (self._next + BATCH) % last
            mine = order[start : start + batch]
            rule.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(x[mine]), y[mine])
            loss.backward()
            rule.step()

        self._step = step
        for _ in range(WARM_UP):
            step()

    async def measure(self) -> dict[str, float]:
        """Train; return the seconds of one example of the global minibatch."""
        steps = QUICK_STEPS if self._settings["quick"] else STEPS
        self._torch.distributed.barrier()
        start = time.perf_counter()
        for _ in range(steps):
            self._step()
        return {"seconds": (time.perf_counter() - start) / (steps * BATCH)}


class Alone:
    """The same training in one process: the learner and the rule, no server."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._engine = open_engine(settings["device"])
        self._settings = settings
        self.about = f"no server, {threads(settings['threads'])} on {self._engine.info}"
        self._next = 0

    async def prepare(self) -> None:
        """Load the data and warm up."""
        model, dataset = (
            model_of(WIDTHS),
            load_dataset(DataConfig.model_validate(self._settings["data"])),
        )
        learner, runner = (
            Learner(self._engine, model, BATCH),
            RuleRunner(self._engine, RuleSpec("sgd")),
        )
        weights, gradient = aligned(model.size), aligned(model.size)
        weights[:] = model.initial_weights(1)
        order, (x, y) = permutation(1, 0, len(dataset.train_x)), dataset.buffers(BATCH)
        last = len(order) - BATCH + 1

        def step() -> None:
            dataset.batch(order[self._next : self._next + BATCH], x, y)
            self._next = (self._next + BATCH) % last
            learner.gradient(weights, x, y, gradient)
            runner.apply([Update(weights, weights, (), gradient, 1 / BATCH, RATE, 1)])

        self._step = step
        for _ in range(WARM_UP):
            step()

    async def measure(self) -> dict[str, float]:
        """Train; return the seconds of one example."""
        steps = QUICK_STEPS if self._settings["quick"] else STEPS
        start = time.perf_counter()
        for _ in range(steps):
            self._step()
        return {"seconds": (time.perf_counter() - start) / (steps * BATCH)}


async def rank_side(conversation: Conversation) -> None:
    """Train as one rank."""
    rank = Rank(conversation.settings)
    await conversation.answer(rank.about, rank)


async def alone_side(conversation: Conversation) -> None:
    """Train alone."""
    alone = Alone(conversation.settings)
    await conversation.answer(alone.about, alone)


SIDES = {"rank": rank_side, "alone": alone_side}
