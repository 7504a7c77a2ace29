"""Child processes: started in sessions of their own, watched, ended in good order or by force."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paramserver.console import say
from paramserver.launch.lifeline import Handover

TAIL = 4000
TOLD = "first start: "
"""Begins what a child has to tell a person while it gets ready."""
DIES_WITHIN = 1.0
"""Seconds until killed processes are given up, as where a disk does not answer."""


@dataclass(slots=True)
class Child:
    """One child process: its name, the lifeline that keeps it alive, its log and where that begins."""

    name: str
    process: subprocess.Popen[bytes]
    lifeline: int
    log: Path
    begins: int
    told_up_to: int = 0

    def __repr__(self) -> str:
        return f"<Child {self.name}, pid {self.process.pid}, exit {self.process.poll()}>"

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def told(self) -> list[str]:
        """Return what the child told a person since the last call; see `tell_launcher`."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self.told_up_to, self.begins))
            text, newline, rest = file.read(TAIL).rpartition(b"\n")
            if newline or len(rest) >= TAIL:  # a line of that length is passed over
                self.told_up_to = file.tell() - (len(rest) if newline else 0)
            lines = text.decode(errors="replace").splitlines()
            return [line.removeprefix(TOLD) for line in lines if line.startswith(TOLD)]
        return []

    def tail(self) -> str:
        """Return the end of the child's log, as far as it is this child's."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self.log.stat().st_size - TAIL, self.begins))
            return file.read().decode(errors="replace").strip()
        return ""


def tell_launcher(text: str) -> None:
    """Tell a person what takes long in a child that gets ready; its launcher passes it on."""
    say(f"{TOLD}{text}")


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
    """The children of one launcher. Use as a context manager: leaving it ends them all.

    They wait for the handover, on lifelines that end with this process. To `start` and `kill` them
    needs no event loop: they get ready while their launcher looks at what it is given.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.all: list[Child] = []
        self.began: list[Path] = []
        """Logs that were not there."""

    def __repr__(self) -> str:
        return f"<Children {self.all}>"

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end(grace=3.0)

    def start(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Start ``python -m module arguments`` as a child with a lifeline and a log of its own."""
        read, write = os.pipe()
        path = self._logs / f"{name}.log"
        if not path.exists():
            self.began.append(path)
        try:
            with path.open("ab") as log:
                begins = log.tell()
                process = subprocess.Popen(
                    [
                        sys.executable,
                        *safe_path(),
                        *("-m", module, *arguments),
                        *("--lifeline", str(read)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(read,),
                    start_new_session=True,
                    env={**os.environ, **environment},
                )
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        self.all.append(Child(name, process, write, path, begins))

    def hand_over(self, handover: Handover) -> None:
        """Tell all children where to join, and the secret."""
        for child in self.all:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its exit code says why
                os.write(child.lifeline, handover.encode())

    async def end(self, grace: float) -> None:
        """End all children: close their lifelines, wait ``grace`` seconds, then kill."""
        self._let_go()
        end = time.monotonic() + grace
        try:
            for child in self.all:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(child.process.wait, max(end - time.monotonic(), 0.0))
        finally:
            self.kill()

    def _let_go(self) -> None:
        for child in self.all:
            if child.lifeline >= 0:
                os.close(child.lifeline)
                child.lifeline = -1

    def kill(self) -> None:
        """End at once all children that have not ended."""
        self._let_go()
        living = [child for child in self.all if not child.ended]
        for child in living:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
        end = time.monotonic() + DIES_WITHIN
        for child in living:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(end - time.monotonic(), 0.0))
