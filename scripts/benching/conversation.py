"""A side's own end of the conversation with its parent."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Protocol

from benching.rows import Ready

LONGEST = 3600.0
"""Seconds that a side serves; its parent ends it long before."""


class Measured(Protocol):
    """What a side measures with."""

    @property
    def prepare(self) -> Callable[..., Awaitable[Ready]]:
        """Get ready for a case, whose ``given`` is given by name; see `Contender.prepare`."""

    async def measure(self) -> dict[str, float]:
        """Take a turn."""


class Conversation:
    """Lines of JSON on stdin and stdout; the end of stdin ends this process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        # Drivers print to stdout as they like; the parent is to read our lines only.
        self._channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._questions: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        # Unbuffered: a lock held at this process's end would make Python abort.
        with open(0, "rb", buffering=0, closefd=False) as stdin:
            for line in stdin:
                self._questions.put(json.loads(line))
        os._exit(0)

    def tell(self, **document: Any) -> None:
        """Tell the parent a document; it must be plain enough for JSON."""
        print(json.dumps(document), file=self._channel, flush=True)

    async def serve(self, address: str) -> None:
        """Tell where this side serves, and let it, until the parent ends this process."""
        self.tell(address=address)
        await asyncio.sleep(LONGEST)

    async def answer(self, about: str, measured: Measured) -> None:
        """Say what this side is, then do as asked, until the parent ends this process."""
        self.tell(about=about)
        while True:
            question = await asyncio.to_thread(self._questions.get)
            if "prepare" in question:
                self.tell(**asdict(await measured.prepare(**question["prepare"])))
            else:
                self.tell(**await measured.measure())
