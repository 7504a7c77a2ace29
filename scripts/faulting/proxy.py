"""A way to ZooKeeper that suffers: connections reset, refused, swallowed, answers lost or cut."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from typing import Any

HEAD = struct.Struct("!ii")  # xid, operation
CONNECT = struct.Struct("!iqiqi16s")  # protocol, zxid, timeout, session, password with its size
CONNECTED = struct.Struct("!iiqi16s")  # protocol, timeout, session, password with its size
CLOSE_SESSION = -11
LINGER = 0.2
"""Seconds that a connection stays open for what was sent to arrive."""
WRITES = (1, 2, 5, 14, 15)
"""ZooKeeper's numbers of create, delete, setData, multi and create2."""


class Proxy:
    """Forwards bytes to ``target`` (host:port) from a ``port`` of ``host``, 0 for any that is free.

    ``refuses``: who connects is reset. ``frozen``: nothing is forwarded, and nothing closed.
    """

    def __init__(self, target: str, port: int = 0, *, host: str = "127.0.0.1") -> None:
        name, _, there = target.rpartition(":")
        self._target = name, int(there)
        self._host = host
        self._port = port
        self.refuses = False
        self._moving = asyncio.Event()
        self._moving.set()
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        """Listen; return the address."""
        self._server = await asyncio.start_server(self._accept, self._host, self._port)
        return f"{self._host}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening and reset everybody."""
        if self._server is not None:
            self._server.close()
        self.cut(refuse=True)
        for task in tuple(self._passing):
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def frozen(self) -> bool:
        """Whether nothing is forwarded."""
        return not self._moving.is_set()

    @frozen.setter
    def frozen(self, value: bool) -> None:
        if value:
            self._moving.clear()
        else:
            self._moving.set()

    def cut(self, *, refuse: bool, reset: bool = False) -> None:
        """End every connection at once, as one that is reset or not, and refuse others or not."""
        self.refuses = refuse
        for writer in tuple(self._writers):
            if reset:
                _reset(writer)
            writer.transport.abort()

    def half_close(self) -> None:
        """Tell every client that no more will come, and take what it still sends."""
        for writer in tuple(self._clients):
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        self._writers.add(writer)
        self._clients.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            if self.refuses:
                return
            back, there = await asyncio.open_connection(*self._target)
            self._writers.add(there)
            passing = [
                asyncio.ensure_future(one) for one in self._ways(reader, there, back, writer)
            ]
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in passing:
                    one.cancel()
                await asyncio.gather(*passing, return_exceptions=True)
        except OSError:
            return
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
                    self._writers.discard(end)
            self._clients.discard(writer)
            self._passing.discard(task)

    def _ways(
        self,
        reader: asyncio.StreamReader,
        there: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        """Return what passes on what comes from the client, and what comes back."""
        return self._pass(reader, there), self._pass(back, writer)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            await self._moving.wait()
            sink.write(chunk)
            await sink.drain()


class FaultProxy(Proxy):
    """A way of one client to one server.

    ``loses``: the answer to the next write with one of these in a path is lost, and its connection
    with it. ``resets``: so many connections are reset as soon as they have a session. ``truncates``:
    the next answer ends in its middle, and its connection with it.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.loses: list[str] = []
        self.resets = 0
        self.truncates = False
        self._session: tuple[int, bytes] | None = None

    async def expire(self) -> bool:
        """End the client's session at the ensemble, and refuse the client; False: it has none yet."""
        if self._session is None:
            return False
        self.cut(refuse=True)
        session, password = self._session
        hello = CONNECT.pack(0, 0, 10_000, session, len(password), password)
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection(*self._target)
                try:
                    for frame in (hello, HEAD.pack(1, CLOSE_SESSION)):
                        writer.write(struct.pack("!i", len(frame)) + frame)
                        size = struct.unpack("!i", await reader.readexactly(4))[0]
                        await reader.readexactly(size)
                finally:
                    writer.transport.abort()
        except (OSError, EOFError, TimeoutError):
            return False
        return True

    def _ways(
        self,
        reader: asyncio.StreamReader,
        there: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        word: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        lost: set[int] = set()
        return self._requests(reader, there, word, lost), self._answers(back, writer, word, lost)

    async def _requests(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        word: asyncio.Future[bool],
        lost: set[int],
    ) -> None:
        head = await source.readexactly(4)
        word.set_result(head.isalpha())
        if word.result():  # one of ZooKeeper's four-letter words, whose answer is plain text
            sink.write(head)
            return await self._pass(source, sink)
        sink.write(await self._rest(source, head))
        while True:
            frame = await self._rest(source, await source.readexactly(4))
            if self.resets:
                self.resets -= 1
                return None
            xid, operation = HEAD.unpack_from(frame, 4)
            for part in self.loses if operation in WRITES else ():
                if part.encode() in frame:
                    self.loses.remove(part)
                    lost.add(xid)
                    break
            sink.write(frame)
            await sink.drain()

    async def _answers(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        word: asyncio.Future[bool],
        lost: set[int],
    ) -> None:
        if await word:
            return await self._pass(source, sink)
        frame = await self._rest(source, await source.readexactly(4))
        _, _, session, _, password = CONNECTED.unpack_from(frame, 4)
        self._session = (session, password) if session else None
        while True:
            sink.write(frame)
            await sink.drain()
            frame = await self._rest(source, await source.readexactly(4))
            if struct.unpack_from("!i", frame, 4)[0] in lost:
                _reset(sink)
                return None
            if self.truncates:
                self.truncates = False
                sink.write(frame[: -(len(frame) // 3)])
                await sink.drain()
                sink.write_eof()
                await asyncio.sleep(LINGER)
                return None

    async def _rest(self, source: asyncio.StreamReader, head: bytes) -> bytes:
        """Return the frame that begins with ``head``, its size, once it may pass."""
        frame = head + await source.readexactly(*struct.unpack("!i", head))
        await self._moving.wait()
        return frame


def _reset(writer: asyncio.StreamWriter) -> None:
    """Have a connection end by a reset instead of an end of file."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
