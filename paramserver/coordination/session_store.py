"""The user side of a served store: one session over whatever link a dial function makes.

The session outlives links. A link that ends suspends it at once; the store dials again with
full-jitter backoff and takes the same session up. A host that keeps the session's watches and
unread events meanwhile loses none; where it does not, or has forgotten the session so that the store
opens another, every watch fires.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, cast

from paramserver.coordination.messages import (
    ArmWatch,
    AwaitEvents,
    ChildrenAre,
    CloseSession,
    EventsAre,
    GetNode,
    ListChildren,
    NodeIs,
    OpenSession,
    SessionOpened,
    StayAlive,
    SyncTree,
    Transact,
    Transacted,
    op_to_wire,
    result_from_wire,
    stat_from_wire,
)
from paramserver.coordination.port import (
    Clock,
    Create,
    Delete,
    Op,
    OpResult,
    Session,
    SessionState,
    Set,
    Stat,
    WatchKind,
    check_sizes,
)
from paramserver.errors import (
    OutcomeUnknown,
    ParamserverError,
    RequestFailed,
    SessionExpired,
    StoreError,
    Unavailable,
    Unreachable,
)
from paramserver.waiting import first_error

log = logging.getLogger(__name__)

SHORTEST_BACKOFF, LONGEST_BACKOFF = 0.05, 2.0
SHORTEST_ATTACH = 1.0
"""The least seconds that a host is given to take the session up, where there is no hurry."""
TOLD_EVERY = 10.0
"""Seconds between two lines about a host that is away."""
CLOSING = 1.0
"""The most seconds that saying farewell may take."""


class Link(Protocol):
    """A way to the host, until it breaks."""

    async def request(self, message: object, *, deadline: float) -> Any:
        """Send a message once and return the answer, within ``deadline`` seconds.

        Raises:
            Unreachable: it was not sent.
            RequestFailed: it was sent, or may have been, and there is no answer.
            ParamserverError: what the host answers.
        """

    async def close(self) -> None:
        """Let the link go."""


Dial = Callable[[float], Awaitable[Link]]
"""Makes a link within the seconds given.

Raises:
    Unreachable: the host does not answer.
    NotReady: it refuses us for good: another secret, cluster or version of the protocol.
"""


@dataclass(eq=False, slots=True)
class _Watch:
    futures: set[asyncio.Future[None]] = field(default_factory=set)
    armed: bool = False


class SessionStore:
    """A `paramserver.coordination.port.Store` over links that ``dial`` makes.

    ``host`` names the host in messages; T is ``session_timeout`` in seconds. Call `open` first.

    ``single`` is as in `paramserver.coordination.port.Session`; such a host also keeps watches while
    there is no link.
    """

    def __init__(
        self,
        dial: Dial,
        host: str,
        *,
        session_timeout: float,
        clock: Clock = time.monotonic,
        single: bool = True,
    ) -> None:
        self.host = host
        self.session = Session(session_timeout, clock, single=single)
        self._dial = dial
        self._link: Link | None = None
        self._broken: asyncio.Future[None] | None = None
        self._caller = (0, 0)
        self._seen = 0
        self._watches: dict[tuple[str, WatchKind], _Watch] = {}
        self._arming: set[asyncio.Task[None]] = set()
        self._living: asyncio.Task[None] | None = None
        self._told = float("-inf")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.host}: {self.session}>"

    # Life

    async def open(self, deadline: float) -> None:
        """Reach the host and open a session, within ``deadline`` seconds.

        Raises:
            Unavailable: it could not be reached; the text names it.
            NotReady: it refuses us.
        """
        end = self.session.clock() + deadline
        attempt = 0
        while True:
            left = end - self.session.clock()
            try:
                # Not all the time for one host: it may be frozen, and another well.
                share = max(self.session.timeout / 3, SHORTEST_ATTACH)
                link = await self._attach(max(min(left, share), 0.001))
                break
            except (RequestFailed, StoreError) as error:
                pause = _backoff(attempt)
                attempt += 1
                if self.session.clock() + pause >= end:
                    raise Unavailable(
                        f"cannot reach the coordinator at {self.host} after {deadline:g} s: {error}"
                    ) from error
                await asyncio.sleep(pause)
        self._start(link)

    def _start(self, link: Link | None) -> None:
        """Begin to live, on ``link`` where there is one already."""
        self._living = asyncio.create_task(self._live(link), name=f"session at {self.host}")
        self._living.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for a session that nothing keeps any more."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: the session ended by a fault", self.host, exc_info=error)
        self.session.move(SessionState.CLOSED)

    async def close(self) -> None:
        """End the session, so that its ephemeral nodes go at once; takes a second at most."""
        session = self.session
        if session.state is SessionState.CLOSED:
            return
        link = self._link
        session.move(SessionState.CLOSED)
        if link is not None:
            with contextlib.suppress(ParamserverError):
                await link.request(CloseSession(caller=self._caller), deadline=CLOSING)
        self._link = None
        tasks = [*self._arming, *([self._living] if self._living is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watch in self._watches.values():
            for future in tuple(watch.futures):
                future.cancel()
        self._watches.clear()

    def _closed(self) -> bool:
        return self.session.state is SessionState.CLOSED

    async def _live(self, link: Link | None) -> None:
        """Keep the session: serve the link until it breaks, then make another."""
        attempt = 0
        while self.session.state is not SessionState.CLOSED:
            lag, timeout = self.session.lag, self.session.timeout
            alive = lag is not None and lag < timeout  # so it is not to be missed for long
            pause = _backoff(attempt, timeout / 6 if alive else LONGEST_BACKOFF)
            try:
                if link is None:
                    link = await self._attach(max(self.session.timeout / 3, SHORTEST_BACKOFF))
                attempt, pause = 0, _backoff(0)
                await self._serve(link)
            except SessionExpired as error:
                if self._closed():
                    return
                log.warning("%s: %s: opening another", self.host, error)
                self._drop(link)
                self._forget()
                pause = 0.0
            except ParamserverError as error:
                self._tell(error)
            finally:
                broken, link = link, None
                self._drop(broken)
                if broken is not None:
                    await broken.close()
            await asyncio.sleep(pause)
            attempt += 1

    def _tell(self, error: ParamserverError) -> None:
        """Log why there is no link, once in a while."""
        now = self.session.clock()
        if now - self._told > TOLD_EVERY:
            self._told = now
            log.info("%s: %s: %s", self.host, type(error).__name__, error)

    async def _attach(self, seconds: float) -> Link:
        """Dial and open the session, or take it up again; it is connected when this returns."""
        session = self.session
        end = session.clock() + seconds
        link = await self._dial(seconds)
        opened: SessionOpened | None = None
        sent = session.clock()
        try:
            opened = await link.request(
                OpenSession(
                    session=0 if session.state is SessionState.EXPIRED else session.id,
                    timeout=session.timeout,
                ),
                deadline=max(end - sent, 0.001),
            )
        except SessionExpired:
            self._forget()
            raise
        finally:
            if opened is None:
                await link.close()
        if session.state is SessionState.CLOSED:
            await link.close()
            raise Unavailable(f"the store at {self.host} is closed")
        self._caller = (opened.session, opened.attachment)
        renewed = opened.session != session.id
        session.timeout = opened.timeout
        self._link = link
        self._broken = asyncio.get_running_loop().create_future()
        if renewed:
            self._seen = 0
        session.move(session.state, session=opened.session)
        session.acknowledge(opened.session, sent)
        session.move(SessionState.CONNECTED)
        for key, watch in tuple(self._watches.items()):
            if renewed or not watch.armed or not self.session.single:
                self._fire(key)
        return link

    async def _serve(self, link: Link) -> None:
        """StayAlive and take events until the link breaks."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ping(link))
                group.create_task(self._take_events(link))
                group.create_task(self._until_broken())
        except BaseExceptionGroup as several:
            raise first_error(several) from several

    async def _ping(self, link: Link) -> None:
        session = self.session
        while True:
            sent = session.clock()
            await link.request(StayAlive(caller=self._caller), deadline=session.timeout / 3)
            session.acknowledge(self._caller[0], sent)
            pause = session.timeout / (3 if self.session.single else 6)
            await asyncio.sleep(max(sent + pause - session.clock(), 0))

    async def _take_events(self, link: Link) -> None:
        while True:
            wait = self.session.timeout
            answer: EventsAre = await link.request(
                AwaitEvents(caller=self._caller, after=self._seen, wait=wait),
                deadline=wait + self.session.timeout,
            )
            for number, path, kind in answer.events:
                self._seen = max(self._seen, number)
                self._fire((path, cast(WatchKind, kind)))

    async def _until_broken(self) -> None:
        if self._broken is not None:
            await self._broken

    def _drop(self, link: Link | None) -> None:
        """Stop using ``link``: the session is suspended from now on."""
        if link is None or link is not self._link:
            return
        self._link = None
        if self.session.state is SessionState.CONNECTED:
            self.session.move(SessionState.SUSPENDED)

    def _break(self, link: Link, error: RequestFailed | StoreError) -> None:
        """Give a link up after a request on it failed with ``error``."""
        if link is not self._link:
            return
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)
            self._broken.exception()
        self._drop(link)
        if isinstance(error, SessionExpired):
            self._forget()

    def _forget(self) -> None:
        """The host has forgotten the session: what belonged to it is gone."""
        if self.session.state is not SessionState.CLOSED:
            self.session.move(SessionState.EXPIRED)

    # Requests

    async def _ask(
        self,
        make: Callable[[tuple[int, int]], object],
        *,
        writes: bool,
        proves: bool | None = None,
    ) -> Any:
        """Send one request once; ``make`` gets the caller.

        ``proves`` says whether an answer proves the session, as that to a write does.
        """
        proves = self.session.single or (writes if proves is None else proves)
        while not writes and self._arming:
            await asyncio.wait(tuple(self._arming))
        link, caller = self._link, self._caller
        session = self.session
        if link is None:
            raise Unavailable(f"the coordinator at {self.host} cannot be reached now")
        sent = session.clock()
        try:
            answer = await link.request(make(caller), deadline=2 * session.timeout / 3)
        except Unreachable as error:
            self._break(link, error)
            raise Unavailable(
                f"the coordinator at {self.host} cannot be reached: {error}"
            ) from error
        except RequestFailed as error:
            self._break(link, error)
            self._lost(error, writes)
        except SessionExpired as error:
            self._break(link, error)
            raise
        except StoreError:
            if proves:
                session.acknowledge(caller[0], sent)
            raise
        if proves:
            session.acknowledge(caller[0], sent)
        return answer

    def _lost(self, error: RequestFailed, writes: bool) -> NoReturn:
        text = f"no answer from the coordinator at {self.host}: {error}"
        raise (OutcomeUnknown(text) if writes else Unavailable(text)) from error

    async def create(
        self, path: str, data: bytes, *, ephemeral: bool = False, sequential: bool = False
    ) -> tuple[str, Stat]:
        """Make a node; see `paramserver.coordination.port.Store.create`."""
        made = (await self.multi([Create(path, data, ephemeral, sequential)]))[0]
        assert made is not None
        return made

    async def get(self, path: str) -> tuple[bytes, Stat]:
        """Return a node's data and stat."""
        node: NodeIs = await self._ask(
            lambda caller: GetNode(caller=caller, path=path), writes=False
        )
        return node.data, stat_from_wire(node.stat)

    async def set(self, path: str, data: bytes, version: int) -> Stat:
        """Change a node's data."""
        made = (await self.multi([Set(path, data, version)]))[0]
        assert made is not None
        return made[1]

    async def delete(self, path: str, version: int) -> None:
        """Delete a node."""
        await self.multi([Delete(path, version)])

    async def children(self, path: str) -> list[str]:
        """Return the names right below a node, sorted."""
        answer: ChildrenAre = await self._ask(
            lambda caller: ListChildren(caller=caller, path=path), writes=False
        )
        return list(answer.names)

    async def multi(self, ops: Sequence[Op]) -> list[OpResult]:
        """Carry out all of ``ops`` or none."""
        check_sizes(ops)
        wire = [op_to_wire(op) for op in ops]
        answer: Transacted = await self._ask(
            lambda caller: Transact(caller=caller, ops=wire), writes=True
        )
        return [result_from_wire(result) for result in answer.results]

    async def sync(self, path: str) -> None:
        """Make reads that follow see every write finished before, whoever made it."""
        await self._ask(lambda caller: SyncTree(caller=caller, path=path), writes=False)

    # Watches

    def watch(self, path: str, kind: WatchKind) -> asyncio.Future[None]:
        """Return a future that is done once after something changed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.session.state is SessionState.CLOSED:
            future.cancel()
            return future
        key = (path, kind)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch()
            if self._link is not None:
                task = asyncio.create_task(self._arm(key, watch), name=f"watch {path}")
                self._arming.add(task)
                task.add_done_callback(self._arming.discard)
        watch.futures.add(future)
        future.add_done_callback(watch.futures.discard)
        return future

    async def _arm(self, key: tuple[str, WatchKind], watch: _Watch) -> None:
        try:
            await self._ask(
                lambda caller: ArmWatch(caller=caller, path=key[0], kind=key[1]),
                writes=True,
                proves=False,
            )
            watch.armed = True
        except (Unavailable, OutcomeUnknown, SessionExpired):
            if self._link is not None and self._watches.get(key) is watch:
                self._fire(key)
        except ParamserverError as error:
            if self._watches.get(key) is watch:
                del self._watches[key]
            for future in tuple(watch.futures):
                if not future.done():
                    future.set_exception(error)

    def _fire(self, key: tuple[str, WatchKind]) -> None:
        watch = self._watches.pop(key, None)
        if watch is not None:
            for future in tuple(watch.futures):
                if not future.done():
                    future.set_result(None)


def _backoff(attempt: int, longest: float = LONGEST_BACKOFF) -> float:
    """Return a pause in seconds: full jitter under a ceiling that doubles up to 2 s or less."""
    ceiling = min(SHORTEST_BACKOFF * 2 ** min(attempt, 10), LONGEST_BACKOFF, longest)
    return random.uniform(0, max(ceiling, SHORTEST_BACKOFF))
