"""What may happen on the way to ZooKeeper, and what a client has to make of it.

Each scenario is a function of a `Stage`; it raises `Broken` where the client did the wrong thing. The
first lines of their docstrings name the fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from faulting.clients import Client, Ours, T, leave
from faulting.proxy import FaultProxy

LONGEST = 20.0
"""Seconds that a scenario may take; what takes longer hangs."""
SOON = 1.0
LARGE = 1 << 21

Make = Callable[[str, Path | None], Client]


class Broken(Exception):
    """The client did the wrong thing: what it did."""


class Stage:
    """Clients of one kind at a real server, each on ways of its own that may suffer."""

    def __init__(self, server: str, make: Make, folder: Path) -> None:
        self._server = server
        self._make = make
        self._folder = folder
        self._chroot = f"/faults-{secrets.token_hex(4)}"
        self._clients: list[Client] = []
        self._ways: list[FaultProxy] = []

    def __repr__(self) -> str:
        return f"<Stage at {self._server}{self._chroot}>"

    async def client(self, ways: int = 1, *, auth: bool = False) -> tuple[Client, list[FaultProxy]]:
        """Return a client that is not open yet, and its ways to the server."""
        found = [FaultProxy(self._server) for _ in range(ways)]
        self._ways += found
        address = ",".join([await way.start() for way in found])
        auth_file = self._folder / "auth"
        if auth and not auth_file.exists():
            auth_file.write_text("user:password\n")
            auth_file.chmod(0o600)
        client = self._make(address + self._chroot, auth_file if auth else None)
        self._clients.append(client)
        return client, found

    async def open(self) -> tuple[Client, FaultProxy]:
        """Return an open client, and its only way."""
        client, (way,) = await self.client()
        await client.open()
        return client, way

    async def other(self) -> Client:
        """Return an open client that suffers nothing."""
        client = Ours(self._server + self._chroot)
        self._clients.append(client)
        await client.open()
        return client

    async def end(self) -> None:
        """Close all clients and ways."""
        for way in self._ways:
            way.refuses = way.frozen = False
        await asyncio.gather(*(leave(client) for client in self._clients))
        for way in self._ways:
            await way.close()


async def reaches(what: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``what()`` holds, ``seconds`` at most; say whether it does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not what():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    return what()


async def error_of(work: Awaitable[object], seconds: float, hanging: str) -> Exception | None:
    """Wait for work; return the error that it ends with, None where there is none.

    Raises:
        Broken: it takes longer.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await work
    except Exception as error:
        if limit.expired():
            raise Broken(hanging) from None
        return error
    return None


async def answered(client: Client, path: str) -> None:
    """Read until there is an answer.

    Raises:
        Broken: there is none, or only errors.
    """
    end = time.monotonic() + 2 * T
    while time.monotonic() < end:
        error = await error_of(client.read(path), 2 * T, f"no answer for {2 * T:g} s")
        if error is None:
            return
        await asyncio.sleep(0.05)
    raise Broken(f"{type(error).__name__} for {2 * T:g} s where an answer could be had")


class Holds:
    """Measures for how long something held the event loop, while the context is open."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Holds up to {self.longest:.3f} s>"

    async def __aenter__(self) -> Holds:
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await asyncio.sleep(0.05)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _measure(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.monotonic() - began)


async def closed_socket(stage: Stage) -> None:
    """The connection ends: the client knows at once."""
    client, way = await stage.open()
    way.cut(refuse=True)
    if not await reaches(lambda: not client.connected, SOON):
        raise Broken(f"believed itself connected {SOON:g} s after its connection had ended")


async def lost_answer(stage: Stage) -> None:
    """The answer to a write is lost: the write is not done again, and the client is told."""
    client, way = await stage.open()
    way.loses.append("/job-")
    told = await error_of(client.create("/job-", sequential=True), 2 * T, "hung")
    other = await stage.other()
    made = sum(name.startswith("job-") for name in await other.names("/"))
    if made != 1 or told is None:
        raise Broken(f"one create made {made} nodes, and {'an' if told else 'no'} error said so")


async def frozen_server(stage: Stage) -> None:
    """One of two servers is frozen: the client finds the other, each time."""
    client, (frozen, well) = await stage.client(ways=2)
    frozen.frozen = True
    lost = f"did not find the server that is well within {2 * T:g} s"
    await error_of(client.open(), 2 * T, lost)
    for _ in range(3):
        well.cut(refuse=False)
        await reaches(lambda: not client.connected, T)
        if not await reaches(lambda: client.connected, 2 * T):
            raise Broken(lost)


async def early_reset(stage: Stage) -> None:
    """A connection is reset as soon as it has its session: the next one is taken."""
    client, way = await stage.open()
    await client.create("/a")
    await client.until_gone("/a")
    way.resets = 1
    way.cut(refuse=False)
    if not await reaches(lambda: way.resets == 0, 2 * T):
        raise Broken("did not come back")
    await answered(client, "/a")


async def watch_over_reconnect(stage: Stage) -> None:
    """The connection is another: who waits for a node's end still hears of it."""
    client, way = await stage.open()
    await client.create("/a")
    gone = await client.until_gone("/a")
    way.cut(refuse=False)
    await reaches(lambda: not client.connected, 2 * T)
    await reaches(lambda: client.connected, 2 * T)
    other = await stage.other()
    await asyncio.sleep(0.2)
    await other.delete("/a")
    error = await error_of(gone, 2 * SOON, "never heard that the node was deleted")
    if error is not None:
        raise Broken(f"{type(error).__name__} instead of the node's end")


async def expiry(stage: Stage) -> None:
    """The session expires: the client is told before it goes on in another."""
    client, way = await stage.open()
    await client.create("/a")
    if not await way.expire():
        raise RuntimeError("the session could not be expired")
    way.refuses = False
    await reaches(lambda: not client.connected, 2 * T)
    await reaches(lambda: client.connected, 2 * T)
    await client.read("/a")
    if not client.expiries:
        raise Broken("went on in another session, and told nobody")


async def stopped_process(stage: Stage) -> None:
    """The process stands still for longer than its session: it knows when it wakes."""
    client, way = await stage.open()
    await way.expire()
    time.sleep(T + 1)  # noqa: ASYNC251
    await asyncio.sleep(0)
    if client.connected:
        raise Broken("believed itself connected when its session was long over")


async def close_while_suspended(stage: Stage) -> None:
    """The client is closed while no server answers: it ends, quickly."""
    client, way = await stage.open()
    way.cut(refuse=True)
    await reaches(lambda: not client.connected, 2 * T)
    error = await error_of(client.close(), 2.0, "was still closing after 2 s")
    if error is not None:
        raise Broken(f"raised {type(error).__name__}")


async def no_server(stage: Stage) -> None:
    """No server is there: opening ends with an error."""
    client, (way,) = await stage.client()
    way.refuses = True
    error = await error_of(client.open(), 2 * T, f"was still opening after {2 * T:g} s")
    if error is None:
        raise Broken("opened without a server")


async def large_value(stage: Stage) -> None:
    """A value is too large for ZooKeeper: an error, and the connection stays."""
    client, _ = await stage.open()
    work = client.create("/large", bytes(LARGE))
    error = await error_of(work, T, "neither an error nor an end")
    if error is None or not client.connected:
        raise Broken("lost its connection")


async def truncated_answer(stage: Stage) -> None:
    """An answer ends in its middle: the client asks again or says so, and holds up nobody."""
    client, way = await stage.open()
    await client.create("/a", b"value")
    way.truncates = True
    async with Holds() as holds:
        await error_of(client.read("/a"), 2 * T, f"no answer and no error within {2 * T:g} s")
    await answered(client, "/a")
    if holds.longest > T / 3:
        raise Broken(f"held the event loop for {holds.longest:.1f} s")


async def version_in_chroot(stage: Stage) -> None:
    """Somebody else changed a node since it was read: it is not deleted."""
    client, _ = await stage.open()
    await client.create("/a", b"one")
    await client.read("/a")
    await (await stage.other()).write("/a", b"two")
    if await error_of(client.delete("/a"), T, "hung") is None:
        raise Broken("deleted what it had never seen")


async def failed_transaction(stage: Stage) -> None:
    """A transaction fails: that is an error."""
    client, _ = await stage.open()
    await client.create("/a")
    if await error_of(client.create_if("/b", "/a", 7), T, "hung") is None:
        raise Broken("nothing was written, and no error said so")


async def two_leaders(stage: Stage) -> None:
    """The leader's session expires: it does not lead beside the next."""
    first, way = await stage.open()
    second, _ = await stage.open()
    await first.stand("a")
    await reaches(lambda: first.leads, T)
    await second.stand("b")
    await way.expire()
    way.refuses = False
    if not await reaches(lambda: second.leads, 2 * T):
        raise Broken("nobody took the lead")
    if first.leads:
        raise Broken("two lead at once")


async def credentials_over_reconnect(stage: Stage) -> None:
    """The connection is another: the client may still read what is its own."""
    client, (way,) = await stage.client(auth=True)
    await client.open()
    await client.create("/own")
    way.cut(refuse=False)
    await reaches(lambda: not client.connected, 2 * T)
    await reaches(lambda: client.connected, 2 * T)
    error = await error_of(client.read("/own"), 2 * T, "hung")
    if error is not None:
        raise Broken(f"may not read its own node any more: {type(error).__name__}")


SCENARIOS = (
    closed_socket,
    lost_answer,
    frozen_server,
    early_reset,
    watch_over_reconnect,
    expiry,
    stopped_process,
    close_while_suspended,
    no_server,
    large_value,
    truncated_answer,
    version_in_chroot,
    failed_transaction,
    two_leaders,
    credentials_over_reconnect,
)


@contextlib.asynccontextmanager
async def staged(server: str, make: Make, folder: Path) -> AsyncIterator[Stage]:
    """Set a stage up and take it down."""
    stage = Stage(server, make, folder)
    try:
        yield stage
    finally:
        await stage.end()


async def play(
    scenario: Callable[[Stage], Awaitable[None]], server: str, make: Make, folder: Path
) -> str | None:
    """Play a scenario; return what the client did wrong, None where it did well."""
    async with staged(server, make, folder) as stage:
        try:
            async with asyncio.timeout(LONGEST):
                await scenario(stage)
        except Broken as broken:
            return str(broken)
        except TimeoutError:
            return f"hung for {LONGEST:g} s"
    return None
