"""Our side of whole runs: `node train mnist` on this machine, in seconds of training only."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from benching.networks import RATE
from benching.rows import Case, Ready
from benching.suites import Settings
from benching.tied import command
from paramserver.errors import NotReady

NETWORK = "784-512-512-10"
FEATURES, CLASSES = 784, 10
BATCH = 128
PEERS = 2
EPOCHS = 2
ROWS = 60000
QUICK_ROWS = 2560
RUN_WITHIN = 300.0
FAREWELL = 5.0


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
        x = source.integers(0, 256, (count, FEATURES), np.uint8)
        arrays[f"x{ending}"] = x
        # A label that can be learnt: where in the picture it is brightest.
        sums = x[:, : FEATURES // 10 * 10].reshape(count, 10, -1).sum(axis=2)
        arrays[f"y{ending}"] = sums.argmax(axis=1)
    path = folder / "synthetic.npz"
    np.savez(path, allow_pickle=False, **arrays)
    why = "--quick" if quick else "PARAMSERVER_DATA names no folder with mnist/"
    return {
        "source": "npz",
        "path": str(path),
        "classes": CLASSES,
    }, f"{rows:,} made rows of MNIST's shape ({why})"


class Command:
    """Our side: the command that a person types, run anew for each turn; ``more`` is set too."""

    about = ""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        cores: tuple[int, ...],
        data: dict[str, Any],
        **more: Any,
    ) -> None:
        self._folder = folder
        self._cores = cores
        self._name = token_hex(4)
        self._runs = 0
        self.seconds = 0.0
        """Of training, in all turns."""
        self.checkpoints = 0
        """Written while training went on."""
        values = {
            **{f"data.{key}": value for key, value in data.items()},
            "consistency": "bsp",
            "cluster.peers": PEERS,
            "train.batch_size": BATCH,
            "train.epochs": 1 if settings.quick else EPOCHS,
            "train.rule": "sgd",
            "train.rate": RATE,
            "device.select": settings.device,
            "device.cores": 1,
            **more,
        }
        self._sets = [f"--set={key}={value}" for key, value in values.items()]

    async def prepare(self, case: Case) -> Ready:
        """Do nothing: each turn begins with a start that is not counted."""
        return Ready()

    async def measure(self) -> dict[str, float]:
        """Train; return the seconds of training for one example.

        Raises:
            NotReady: the command failed or did not end in time.
        """
        self._runs += 1
        output = self._folder / f"run-{self._name}-{self._runs}"
        log = output.with_suffix(".log")
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
            await end(process)
        if process.returncode != 0:
            raise NotReady(f"node train ended ({process.returncode}): {words_of(log)}")
        result = json.loads(out)
        self.seconds += result["seconds"]
        events = map(json.loads, (output / "events.jsonl").read_text().splitlines())
        self.checkpoints += sum(
            event["kind"] == "checkpoint" and event["error"] is None for event in events
        )
        return {"seconds": result["seconds"] / result["examples"]}

    async def rest(self) -> None:
        """Do nothing: the command has ended."""


def words_of(log: Path) -> str:
    """Return the last lines of a log as one."""
    return " | ".join(log.read_text(errors="replace").splitlines()[-4:])


async def end(process: asyncio.subprocess.Process) -> None:
    """End the command in good order, then by force; its children go when it does."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            process.send_signal(number)
            try:
                async with asyncio.timeout(FAREWELL):
                    await process.wait()
            except TimeoutError:
                continue
