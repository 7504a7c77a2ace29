"""Child processes: started in sessions of their own, watched, ended in good order or by force."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paramserver.launch.lifeline import Handover

TAIL = 4000


@dataclass(slots=True)
class Child:
    """One child process: its name, log file, and the lifeline that keeps it alive."""

    name: str
    process: asyncio.subprocess.Process
    lifeline: int
    log: Path

    def __repr__(self) -> str:
        return f"<Child {self.name}, pid {self.process.pid}, exit {self.process.returncode}>"

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.returncode is not None

    def tail(self) -> str:
        """Return the end of the child's log."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self.log.stat().st_size - TAIL, 0))
            return file.read().decode(errors="replace").strip()
        return ""


def core_shares(count: int, cores: int | None) -> list[int]:
    """Divide this machine's cores among ``count`` processes, at least one each."""
    total = cores if cores is not None else len(os.sched_getaffinity(0))
    return [max((total * (i + 1)) // count - (total * i) // count, 1) for i in range(count)]


def safe_path() -> list[str]:
    """Return the option that has a child look for modules where this process does.

    ``python -m`` looks into the current folder first: a file of the user's called ``nodes.py`` or
    ``random.py`` there would end it.
    """
    with contextlib.suppress(FileNotFoundError):
        if not {"", os.getcwd()} & set(sys.path):
            return ["-P"]
    return []


class Children:
    """The children of one launcher. Use as a context manager: leaving it ends them all."""

    def __init__(self, handover: Handover, logs: Path) -> None:
        self._handover = handover
        self._logs = logs
        self.all: list[Child] = []

    def __repr__(self) -> str:
        return f"<Children {self.all}>"

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end(grace=3.0)

    async def start(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> Child:
        """Start ``python -m module arguments`` as a child with a lifeline and a log of its own."""
        read, write = os.pipe()
        log = self._logs / f"{name}.log"
        try:
            with log.open("ab") as file:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *safe_path(),
                    "-m",
                    module,
                    *arguments,
                    "--lifeline",
                    str(read),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    pass_fds=(read,),
                    start_new_session=True,
                    env={**os.environ, **environment},
                )
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        os.write(write, self._handover.encode())
        child = Child(name, process, write, log)
        self.all.append(child)
        return child

    async def end(self, grace: float) -> None:
        """End all children: close their lifelines, wait ``grace`` seconds, then kill."""
        for child in self.all:
            if child.lifeline >= 0:
                os.close(child.lifeline)
                child.lifeline = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                for child in self.all:
                    await child.process.wait()
        for child in self.all:
            if not child.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                await child.process.wait()
