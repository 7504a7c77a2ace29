"""How long a person waits for the first step, with kernels to build and without."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benching.comparing import compare
from benching.printing import Sheet
from benching.rows import Case, Ready
from benching.running import RUN_WITHIN, end, words_of
from benching.suites import Settings, Suite
from benching.tied import command
from paramserver.errors import NotReady

BUDGETS = {"cold": 15.0, "warm": 2.0}
"""Seconds until the first step is done, with empty kernel caches and with full ones."""
TURNS = 5


class Budget:
    """The other side: what we allow ourselves."""

    about = ""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def prepare(self, case: Case) -> Ready:
        """Do nothing."""
        return Ready()

    async def measure(self) -> dict[str, float]:
        """Return the budget."""
        return {"seconds": self._seconds}

    async def rest(self) -> None:
        """Do nothing."""


class Start:
    """Our side: `node train digits`, with kernel caches of its own."""

    about = ""

    def __init__(self, folder: Path, settings: Settings, *, cold: bool) -> None:
        self._folder = folder
        self._settings = settings
        self._cold = cold
        self._caches = {name: folder / name for name in ("XDG_CACHE_HOME", "POCL_CACHE_DIR")}

    async def prepare(self, case: Case) -> Ready:
        """Fill the caches, unless they are to be empty."""
        if not self._cold:
            await self._run()
        return Ready()

    async def measure(self) -> dict[str, float]:
        """Return the seconds from the command to the first step's end.

        The run is looked at ten times a second, so they are up to a tenth too many.

        Raises:
            NotReady: the command failed or did not end in time.
        """
        if self._cold:
            for cache in self._caches.values():
                shutil.rmtree(cache, ignore_errors=True)
        return {"seconds": await self._run()}

    async def rest(self) -> None:
        """Do nothing: the command has ended."""

    async def _run(self) -> float:
        for cache in self._caches.values():
            cache.mkdir(exist_ok=True)
        output = self._folder / f"run-{time.monotonic_ns()}"
        log = output.with_suffix(".log")
        device = f"--set=device.select={self._settings.device}"
        begun = time.time()
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command(self._settings.cores, "nodes", "train", "digits"),
                *("--epochs=1", f"--output={output}", device),
                env=os.environ | {name: str(path) for name, path in self._caches.items()},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(RUN_WITHIN):
                await process.wait()
        except TimeoutError:
            raise NotReady(f"node train: no end after {RUN_WITHIN:g} s") from None
        finally:
            await end(process)
        if process.returncode != 0:
            raise NotReady(f"node train ended ({process.returncode}): {words_of(log)}")
        events = map(json.loads, (output / "events.jsonl").read_text().splitlines())
        first: float = next(event["time"] for event in events if event["step"] >= 1)
        return first - begun


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure both starts against their budgets."""
    async with AsyncExitStack() as stack:
        for name, budget in BUDGETS.items():
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
            ours = Start(folder, settings, cold=name == "cold")
            turns = 1 if settings.quick else TURNS
            case = Case(name, "ms")
            await compare(sheet, SUITE.name, [case], ours, {"budget": Budget(budget)}, turns)


SUITE = Suite(
    "start",
    "`node train digits` with two peers until its first step is done, kernels built or cached",
    ("cold: with empty kernel caches; warm: with those of a run before",),
    run,
)
