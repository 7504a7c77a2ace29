"""Processes that the doctor starts for itself, each with a deadline and a lifeline.

Drivers crash, hang and abort, and PoCL ends the whole process where it cannot link: so whatever
touches a device runs in a child, which tells what it finds as lines of JSON. A child ends when its
parent does, when it has lived for `LONGEST`, and when the parent is done with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryFile
from typing import IO, Any

from paramserver.errors import NotReady
from paramserver.launch.children import safe_path

LONGEST = 120
"""Seconds after which a child ends whatever it is doing."""

FAREWELL = 1.0
LINES = 4
"""How much of what a child wrote to stderr is shown when it fails."""


class Child:
    """A child process and what it tells."""

    def __init__(
        self, process: asyncio.subprocess.Process, errors: IO[bytes], deadline: float
    ) -> None:
        self._process = process
        self._errors = errors
        self._seconds = deadline
        self._until = asyncio.get_running_loop().time() + deadline

    def __repr__(self) -> str:
        return f"<Child pid {self._process.pid}, exit {self._process.returncode}>"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def told(self) -> dict[str, Any]:
        """Return what the child tells next.

        Raises:
            NotReady: it ended or crashed first, or its deadline passed; the text says how.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout_at(self._until):
                line = await self._process.stdout.readline()
                if line.endswith(b"\n"):
                    document: dict[str, Any] = json.loads(line)
                    return document
                status = await self._process.wait()
        except TimeoutError:
            raise NotReady(f"no end after {self._seconds:g} s{self._last_words()}") from None
        raise NotReady(f"{_how_it_ended(status)}{self._last_words()}")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        words = [line.strip() for line in lines if line.strip()][-LINES:]
        return f": {' | '.join(words)}" if words else ""

    async def end(self) -> None:
        """End the child: close its lifeline, and kill it where that does not do."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._process.wait()
        self.kill()
        with contextlib.suppress(TimeoutError):  # a driver in the kernel may hold it for a while
            async with asyncio.timeout(FAREWELL):
                await self._process.wait()

    def kill(self) -> None:
        """Kill the child, and the compilers and linkers that it started."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


@asynccontextmanager
async def started(module: str, *arguments: str, deadline: float) -> AsyncIterator[Child]:
    """Run ``python -m module arguments``; it has ``deadline`` seconds to tell what it has to."""
    with TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *safe_path(),
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        child = Child(process, errors, deadline)
        try:
            yield child
        except BaseException:
            child.kill()
            raise
        finally:
            await child.end()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"its process was ended by {name}"


class Voice:
    """The child's side: tells documents to the parent, and sees that this process ends."""

    def __init__(self) -> None:
        # Drivers print to stdout as they like; the parent is to read our lines only.
        self._channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        # The alarm's default action ends the process even where a driver never gives control back.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST)
        threading.Thread(target=_leave_with_parent, daemon=True).start()

    def tell(self, **document: Any) -> None:
        """Tell the parent a document; it must be plain enough for JSON."""
        print(json.dumps(document), file=self._channel, flush=True)


def _leave_with_parent() -> None:
    """Wait for the end of stdin, which the parent keeps open, and end this process."""
    while os.read(0, 4096):
        continue
    os._exit(0)
