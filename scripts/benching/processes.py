"""The parent's end of a side that runs in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryFile
from typing import IO, Any

from benching import environments
from benching.busy import at_rest
from benching.rows import Case, Ready
from benching.suites import Settings
from benching.tied import command
from paramserver.doctor.child import Child
from paramserver.errors import NotReady, from_wire

LONGEST = 3600.0
READY_WITHIN = 120.0
"""Seconds that a side may take to begin: with a cold kernel cache, and imports from a cold disk."""
PREPARED_WITHIN = 60.0
OTHER_PREPARED_WITHIN = 600.0
"""Another side may have to compile a network for each number of threads, and to try them all."""
ANSWER_WITHIN = 60.0


class Side(Child):
    """A side as the parent sees it; see `benching.conversation` for its own end."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        errors: IO[bytes],
        prepared_within: float = PREPARED_WITHIN,
    ) -> None:
        super().__init__(process, errors, LONGEST)
        assert process.stdin is not None
        self._questions = process.stdin
        self._prepared_within = prepared_within
        self.name = name
        self.about = ""
        self.address = ""
        self._case = ""

    def __repr__(self) -> str:
        return f"<Side {self.name}, pid {self.pid}>"

    async def hear(self, what: str, within: float) -> dict[str, Any]:
        """Return what the side tells next; ``what`` it should be, in words.

        Raises:
            ParamserverError: what went wrong there.
            NotReady: it ended, or told nothing in time.
        """
        try:
            async with asyncio.timeout(within):
                told = await self.told()
        except TimeoutError:
            raise NotReady(f"{self.name}: {what} did not come within {within:g} s") from None
        except NotReady as error:
            raise NotReady(f"{self.name}: {error}") from None
        if "error" in told:
            raise from_wire(told["error"], f"{self.name}: {told['text']}", {})
        return told

    async def begin(self) -> None:
        """Wait until the side has begun: it says what it is, or where it serves."""
        told = await self.hear("its beginning", READY_WITHIN)
        self.about, self.address = told.get("about", ""), told.get("address", "")

    async def ask(self, what: str, within: float, **question: Any) -> dict[str, Any]:
        """Ask the side for ``what``, and return its answer; errors as in `hear`."""
        with contextlib.suppress(ConnectionError):  # it has ended: `hear` says how
            self._questions.write(json.dumps(question).encode() + b"\n")
            await self._questions.drain()
        return await self.hear(what, within)

    async def prepare(self, case: Case) -> Ready:
        """Have the side get ready for a case; see `Contender.prepare`."""
        self._case = case.name
        told = await self.ask(
            f"its being ready for {case.name}", self._prepared_within, prepare=case.given
        )
        return Ready(**told)

    async def measure(self) -> dict[str, float]:
        """Have the side take a turn; see `Contender.measure`."""
        return await self.ask(f"its turn at {self._case}", ANSWER_WITHIN)

    async def rest(self) -> None:
        """Wait until the side's threads have ended what they do; see `at_rest`."""
        await at_rest(self.pid)


@asynccontextmanager
async def side(
    suite: str,
    name: str,
    settings: Settings,
    *,
    ours: bool,
    cores: tuple[int, ...] | None = None,
    **more: Any,
) -> AsyncIterator[Side]:
    """Start a side of a suite on ``cores``, all of them unless given.

    Ours has a thread for each core, as a peer has; another side has nothing in its environment that
    would hold it back. The side is told ``more`` with its settings; `begun` waits for it. It ends
    with the context, and whenever this process does.
    """
    cores = settings.cores if cores is None else cores
    threads = len(set(cores))
    told = {"device": settings.device, "quick": settings.quick, "threads": threads, **more}
    with TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *command(cores, "benching.side", suite, name, json.dumps(told)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=environments.ours(threads) if ours else environments.others(),
        )
        within = PREPARED_WITHIN if ours else OTHER_PREPARED_WITHIN
        made = Side(f"{suite}, side {name}", process, errors, within)
        try:
            yield made
        except BaseException:
            made.kill()
            raise
        finally:
            await made.end()


async def begun(*sides: Side) -> None:
    """Wait until all these sides have begun; errors as in `Side.hear`."""
    await asyncio.gather(*(one.begin() for one in sides))
