"""Looking again: how every view converges to what the store holds.

A watch says only that something changed, may fire without cause and fires once. So a view arms its
watches first, reads after, and looks again when one fires, when the session's state changes, and
from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from paramserver.coordination.port import Session, SessionState, Store, WatchKind
from paramserver.errors import NoNode, OutcomeUnknown, SessionExpired, Unavailable
from paramserver.waiting import Changes

log = logging.getLogger(__name__)

LOOK_AGAIN = 5.0
"""After how many seconds a view looks again though nothing fired."""

PAUSE = 0.1
"""How many seconds a view waits after the store failed it while the session stands."""

INTERRUPTIONS = (Unavailable, OutcomeUnknown, SessionExpired)
"""What a recipe lives through: look again when the session is connected."""


async def try_again(session: Session, end: float) -> bool:
    """Wait for what an interruption needs, until ``end`` at most; say whether to try again."""
    left = max(end - session.clock(), 0)
    if session.state is SessionState.CONNECTED:
        await asyncio.sleep(min(PAUSE, left))
        return session.clock() < end
    return await session.connected(left)


class Signal(Changes):
    """Changes that can also call back, at once, whoever subscribed."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: list[Callable[[], None]] = []

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` at each change; return what ends that."""
        self._callbacks.append(callback)

        def leave() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return leave

    def notify(self) -> None:
        """Let every waiter look again, and call every subscriber."""
        super().notify()
        for callback in tuple(self._callbacks):
            callback()


class Watching:
    """The watches of one view, and whether it should look again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stale = asyncio.Event()
        self._stale.set()
        self._armed: dict[tuple[str, WatchKind], asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        return f"<Watching {sorted(path for path, _ in self._armed)}>"

    def arm(self, path: str, kind: WatchKind) -> bool:
        """Watch ``path`` unless it is watched already; say whether it was not."""
        key = (path, kind)
        if key in self._armed:
            return False
        future = self._armed[key] = self._store.watch(path, kind)

        def fired(done: asyncio.Future[None]) -> None:
            if self._armed.get(key) is done:
                del self._armed[key]
            if done.cancelled():
                return
            error = done.exception()
            if error is not None:
                log.warning("%s is not watched: %s", path, error)
                return
            self._stale.set()

        future.add_done_callback(fired)
        return True

    def disarm(self, path: str, kind: WatchKind) -> None:
        """Watch ``path`` no longer."""
        future = self._armed.pop((path, kind), None)
        if future is not None:
            future.cancel()

    def look_again(self) -> None:
        """Ask for another look."""
        self._stale.set()

    async def stale(self, seconds: float = LOOK_AGAIN) -> None:
        """Wait until it is worth looking again, at most ``seconds``; this begins a new look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stale.wait()
        self._stale.clear()

    async def keep_looking(
        self, look: Callable[[], Awaitable[None]], wiped: Callable[[], None]
    ) -> None:
        """Call ``look`` whenever it is worth it, until cancelled or the store is closed.

        Interruptions of the store are waited out; where a folder is missing, ``wiped`` is told and
        the next look begins anew. Other errors of ``look`` end this.
        """
        session = self._store.session
        unlisten = session.listen(lambda state: self._stale.set())
        try:
            while session.state is not SessionState.CLOSED:
                await self.stale()
                if not await session.connected(LOOK_AGAIN):
                    self._stale.set()
                    continue
                try:
                    await look()
                except INTERRUPTIONS as error:
                    log.info("looking again soon: %s", error)
                    self._stale.set()
                    await asyncio.sleep(PAUSE)
                except NoNode as error:
                    log.warning("somebody has deleted a part of the cluster's tree: %s", error)
                    wiped()
                    self._stale.set()
                    await asyncio.sleep(PAUSE)
        finally:
            unlisten()
            self.close()

    def close(self) -> None:
        """Let every watch go."""
        for path, kind in tuple(self._armed):
            self.disarm(path, kind)
