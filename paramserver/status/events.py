"""Server-sent events: the status document each second to whoever listens, and to few at once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable

from aiohttp import web

MOST_LISTENERS = 32
# Seconds that one document may take to leave; who reads slower is dropped.
SLOW = 3.0
# The kernel's buffer for one listener; it grows to megabytes by itself.
SEND_BUFFER = 256 * 1024


class Events:
    """The listeners of one peer's events. Nothing is made or sent while there are none.

    All listeners wake at the same whole seconds of the loop's clock and share one encoded document.
    """

    def __init__(self, document: Callable[[], bytes]) -> None:
        self._document = document
        self._listeners = 0
        self._closing = asyncio.Event()
        self._frame = b""
        self._second = -1

    def __repr__(self) -> str:
        return f"<Events, {self._listeners} of {MOST_LISTENERS} listeners>"

    def close(self) -> None:
        """End every listener's answer at once."""
        self._closing.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one listener for as long as it reads."""
        if self._listeners >= MOST_LISTENERS:
            raise web.HTTPServiceUnavailable(
                text=f"{MOST_LISTENERS} listeners already: poll /status instead\n",
                headers={"Retry-After": "10"},
            )
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        self._listeners += 1
        # A connection that ended shows as an error of the write; there is nobody left to tell.
        try:
            with contextlib.suppress(ConnectionError):
                await self._follow(request, response)
        finally:
            self._listeners -= 1
        return response

    async def _follow(self, request: web.Request, response: web.StreamResponse) -> None:
        transport = request.transport
        if transport is None:
            return
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER
        )
        loop = asyncio.get_running_loop()
        second = math.floor(loop.time())
        frame = _event(self._document())
        try:
            async with asyncio.timeout(SLOW):
                await response.prepare(request)
            while True:
                async with asyncio.timeout(SLOW):
                    await response.write(frame)
                second = max(second, math.floor(loop.time())) + 1
                if await self._closed_before(second):
                    return
                frame = self._shared(second)
        except TimeoutError:
            # Closing in good order would wait for the reader to take what is buffered.
            transport.abort()

    async def _closed_before(self, second: int) -> bool:
        try:
            async with asyncio.timeout_at(second):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    def _shared(self, second: int) -> bytes:
        if second != self._second:
            self._frame = _event(self._document())
            self._second = second
        return self._frame


def _event(document: bytes) -> bytes:
    return b"data: " + document + b"\n\n"
