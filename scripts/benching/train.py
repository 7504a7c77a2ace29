"""A whole training run by the command, against data-parallel PyTorch, or one process without it."""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benching.comparing import Contender, compare
from benching.conversation import Conversation
from benching.frameworks import is_installed, load
from benching.gemm import threads
from benching.networks import RATE, model_of
from benching.printing import Sheet
from benching.processes import Side, begun, side
from benching.rows import Case, Ready
from benching.running import BATCH, NETWORK, PEERS, Command, find_data
from benching.suites import Settings, Suite
from benching.torch_side import network_of
from kernels.engine import open_engine
from kernels.rules import RuleRunner, RuleSpec, Update
from nodes.data import load_dataset, permutation
from nodes.data.config import DataConfig
from nodes.training.learner import Learner
from paramserver.slices import aligned

TURNS = 5
QUICK_TURNS = 2
STEPS = 300
"""Steps of the other side that make a turn."""
WARM_UP = 20
QUICK_STEPS = 20


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure the run on both sides."""
    cores = tuple(dict.fromkeys(settings.pair))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
        data, words = find_data(folder, quick=settings.quick)
        sheet.note(f"data: {words}")

        async def started(name: str, *on: int, ours: bool, **more: Any) -> Side:
            return await stack.enter_async_context(
                side("train", name, settings, ours=ours, cores=on, data=data, **more)
            )

        other: Contender
        if is_installed("torch", sheet):
            meeting = f"file://{folder}/meeting"
            sides = [
                await started("rank", core, ours=False, rank=rank, meeting=meeting)
                for rank, core in enumerate(settings.pair)
            ]
            other, against = Ranks(sides), "torch DDP"
        else:
            sides = [await started("alone", *cores, ours=True)]
            other, against = sides[0], "one process"
        await begun(*sides)
        sheet.note(f"other: {sides[0].about}")
        ours = Command(folder, settings, cores, data)
        sheet.note(f"both sides on cores {', '.join(str(core) for core in cores)}")
        name = f"{NETWORK}/batch{BATCH}"
        case = Case(name, "examples/s", 1.0)
        turns = QUICK_TURNS if settings.quick else TURNS
        await compare(sheet, "train", [case], ours, {against: other}, turns)


SUITE = Suite(
    "train",
    "`node train mnist` with two peers, seconds of training only, against PyTorch DDP",
    ("bsp, a gradient each step, sgd, global minibatch 128; DDP over gloo; one thread a process",),
    run,
)


class Ranks:
    """The other side: processes that train together."""

    def __init__(self, sides: list[Side]) -> None:
        self._sides = sides

    @property
    def about(self) -> str:
        """What they are, once they have begun."""
        return self._sides[0].about

    async def prepare(self, case: Case) -> Ready:
        """Have all get ready at once."""
        first, *_ = await asyncio.gather(*(one.prepare(case) for one in self._sides))
        return first

    async def measure(self) -> dict[str, float]:
        """Have all train at once; the slowest counts."""
        turns = await asyncio.gather(*(one.measure() for one in self._sides))
        return {"seconds": max(turn["seconds"] for turn in turns)}

    async def rest(self) -> None:
        """Wait until none does anything."""
        await asyncio.gather(*(one.rest() for one in self._sides))


class Rank:
    """One process of PyTorch's DistributedDataParallel over gloo."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._torch = load("torch")
        self._torch.set_num_threads(settings["threads"])
        self._settings = settings
        self._next = 0
        capability = self._torch.backends.cpu.get_cpu_capability()
        self.about = f"torch {self._torch.__version__}, {capability}, {PEERS} processes of 1 thread"

    async def prepare(self) -> Ready:
        """Meet the other rank, load the data, and warm up."""
        torch, settings = self._torch, self._settings
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group(
            "gloo",
            init_method=settings["meeting"],
            rank=settings["rank"],
            world_size=PEERS,
            timeout=datetime.timedelta(seconds=60),
        )
        network = torch.nn.parallel.DistributedDataParallel(network_of(torch, model_of(NETWORK)))
        rule = torch.optim.SGD(network.parameters(), lr=RATE)
        dataset = load_dataset(DataConfig.model_validate(settings["data"]))
        x = torch.from_numpy(dataset.train_x.astype(np.float32) * np.float32(dataset.scale))
        y = torch.from_numpy(dataset.train_y).long()
        order = torch.from_numpy(permutation(1, 0, len(x)))
        batch, last = BATCH // PEERS, len(x) - BATCH + 1

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
        return Ready()

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

    async def prepare(self) -> Ready:
        """Load the data and warm up."""
        model, dataset = (
            model_of(NETWORK),
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
        return Ready()

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
