"""The embedded back end: a tree in this process, and a store over it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from paramserver.coordination.port import Clock
from paramserver.coordination.service import StoreService
from paramserver.coordination.session_store import Link, SessionStore
from paramserver.coordination.tree import TICK, Tree
from paramserver.errors import DeadlineExceeded


class LocalLink:
    """A `Link` to a service in this process."""

    def __init__(self, service: StoreService) -> None:
        self._service = service

    async def request(self, message: object, *, deadline: float) -> Any:
        """Answer a message within ``deadline`` seconds."""
        try:
            async with asyncio.timeout(deadline):
                return await self._service.answer(message)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer from the embedded coordinator to {type(message).__name__} "
                f"within {deadline:g} s"
            ) from None

    async def close(self) -> None:
        """Let the link go."""


class TreeHost:
    """A tree, its clock's tick and its service."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.tree = Tree(clock())
        self.service = StoreService(self.tree, clock)

    def __repr__(self) -> str:
        return f"<TreeHost of {self.tree}>"

    async def run(self) -> None:
        """End silent sessions, until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self.tree.tick(self._clock())

    async def dial(self, seconds: float) -> Link:
        """Make a link to the service."""
        return LocalLink(self.service)


class EmbeddedStore(SessionStore):
    """The store of the process that hosts the tree.

    Needs a running event loop. Other processes reach ``tree`` through a `StoreService`; closing
    this store ends its own session and the tick, what the tree holds stays readable.
    """

    def __init__(self, *, session_timeout: float, clock: Clock = time.monotonic) -> None:
        self._tree_host = TreeHost(clock)
        super().__init__(
            self._tree_host.dial,
            "this process",
            session_timeout=session_timeout,
            clock=clock,
        )
        self._ticking = asyncio.create_task(self._tree_host.run(), name="embedded coordinator")
        self._start(None)

    @property
    def tree(self) -> Tree:
        """The tree."""
        return self._tree_host.tree

    async def close(self) -> None:
        """End this process's session and stop the tick."""
        await super().close()
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
