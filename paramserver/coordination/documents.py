"""Documents: JSON values with versions, changed by compare-and-set, followed as they change.

Every value carries the id of the request that wrote it. A write whose answer was lost is settled by
sync and read: the id there is its own, or the version is still the old one, or somebody else won.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paramserver.coordination.layout import Ground
from paramserver.coordination.port import (
    ANY,
    Create,
    Delete,
    Op,
    OpResult,
    SessionState,
    Set,
    Store,
)
from paramserver.coordination.watching import INTERRUPTIONS, PAUSE, Watching, try_again
from paramserver.errors import (
    BadVersion,
    NodeExists,
    NoNode,
    OutcomeUnknown,
    SessionExpired,
    StoreError,
    Unavailable,
    Unreadable,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

ABSENT = -1
"""The version of a document that does not exist."""

PATIENCE = 2.0
"""How long, in session timeouts, an operation lives through interruptions of the store."""

Through = Callable[[Sequence[Op]], Awaitable[list[OpResult]]]
"""Carries out operations, all or none: a store's ``multi`` or an election's ``fenced``."""


@dataclass(frozen=True, slots=True)
class Document:
    """A value, the version of its node, and the request that wrote it."""

    value: Any
    version: int
    request: str
    mzxid: int


class Documents:
    """Reads, writes and follows documents by path."""

    def __init__(self, store: Store, ground: Ground) -> None:
        self._store = store
        self._ground = ground

    def __repr__(self) -> str:
        return f"<Documents at {self._store.host}>"

    async def get(self, path: str) -> Document | None:
        """Return a document, None where it does not exist.

        Raises:
            Unavailable: the store could not be reached for two session timeouts.
        """
        return await self._patiently(path, lambda: self._read(path))

    async def names(self, folder: str) -> list[str]:
        """Return the names of the documents right below ``folder``, sorted; see `get`."""
        try:
            return await self._patiently(folder, lambda: self._store.children(folder))
        except NoNode:
            return []

    async def swap(
        self, path: str, value: Any, version: int, *, through: Through | None = None
    ) -> int:
        """Write a document if it still has ``version`` (`ABSENT`: if there is none).

        Returns its new version. ``through`` carries out the write; a leader gives its
        `paramserver.coordination.election.Election.fenced`.

        Raises:
            BadVersion: somebody else wrote; this value was not.
            OutcomeUnknown: whether this value was written, before others wrote, cannot be told.
            Unavailable: not written; the store could not be reached for two session timeouts.
            ValueTooLarge
            Fenced: not written; ``through`` refused.
        """
        request = uuid.uuid4().hex
        data = json.dumps({"request": request, "value": value}).encode()
        op: Op = Create(path, data) if version == ABSENT else Set(path, data, version)
        write = through if through is not None else self._store.multi
        end = self._store.session.clock() + PATIENCE * self._store.session.timeout
        while True:
            try:
                await self._ground.ready()
                return _version(await write([op]))
            except (NodeExists, NoNode, BadVersion) as error:
                raise BadVersion(f"{path} is not at version {version} any more: {error}") from error
            except (Unavailable, SessionExpired) as error:
                if not await try_again(self._store.session, end):
                    raise Unavailable(f"{path} was not written: {error}") from error
            except OutcomeUnknown as lost:
                written = await self._settle(path, request, version, end, lost)
                if written is not None:
                    return written

    async def put(self, path: str, value: Any) -> int:
        """Write a document whatever stands there; return its new version.

        Raises:
            OutcomeUnknown, Unavailable, ValueTooLarge: see `swap`.
        """
        end = self._store.session.clock() + PATIENCE * self._store.session.timeout
        while True:
            document = await self.get(path)
            try:
                return await self.swap(path, value, document.version if document else ABSENT)
            except BadVersion:
                if self._store.session.clock() >= end:
                    raise

    async def drop(self, path: str, *, through: Through | None = None) -> None:
        """Delete a document; none there is no error. ``through`` is as in `swap`.

        Raises:
            Unavailable: the store could not be reached for two session timeouts.
            Fenced: ``through`` refused.
        """
        write = through if through is not None else self._store.multi

        async def delete() -> None:
            await write([Delete(path, ANY)])

        try:
            await self._patiently(path, delete)
        except NoNode:
            return

    def follow(self, path: str) -> Following:
        """Follow a document: its value now, None where it is absent, and at each change.

        A burst of changes may show only the last one.
        """
        return Following(self._store, path, self._read)

    async def _read(self, path: str) -> Document | None:
        try:
            data, stat = await self._store.get(path)
        except NoNode:
            return None
        try:
            content = json.loads(data)
            return Document(content["value"], stat.version, content["request"], stat.mzxid)
        except (ValueError, KeyError, TypeError) as error:
            raise Unreadable(f"{path} holds no document of ours: {error!r}") from error

    async def _settle(
        self, path: str, request: str, version: int, end: float, lost: OutcomeUnknown
    ) -> int | None:
        """Find out whether a write without an answer was done: its version, or None if not."""
        while True:
            if not await try_again(self._store.session, end):
                raise lost
            try:
                await self._store.sync(path)
                found = await self._read(path)
            except INTERRUPTIONS:
                continue
            now = found.version if found is not None else ABSENT
            if found is not None and found.request == request:
                return found.version
            if now == version:
                return None
            if now == version + 1:
                raise BadVersion(f"{path} is not at version {version} any more") from lost
            raise OutcomeUnknown(
                f"{path} went on to version {now} from {version}: whether this write was among "
                "those before cannot be told"
            ) from lost

    async def _patiently(self, path: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice, through interruptions of the store."""
        end = self._store.session.clock() + PATIENCE * self._store.session.timeout
        while True:
            try:
                return await work()
            except INTERRUPTIONS as error:
                if not await try_again(self._store.session, end):
                    raise Unavailable(f"no answer about {path}: {error}") from error


class Following:
    """An endless iterator over a document's values; it ends when the store is closed."""

    def __init__(
        self, store: Store, path: str, read: Callable[[str], Awaitable[Document | None]]
    ) -> None:
        self._store = store
        self._path = path
        self._read = read
        self._watching = Watching(store)
        self._first = True
        self._shown: Document | None = None

    def __repr__(self) -> str:
        return f"<Following {self._path}>"

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> Any:
        session = self._store.session
        unlisten = session.listen(lambda state: self._watching.look_again())
        try:
            while session.state is not SessionState.CLOSED:
                await self._watching.stale()
                if session.state is not SessionState.CONNECTED:
                    continue
                try:
                    self._watching.arm(self._path, "data")
                    found = await self._read(self._path)
                except INTERRUPTIONS:
                    self._watching.look_again()
                    await asyncio.sleep(PAUSE)
                    continue
                except Unreadable as error:
                    log.warning("left out: %s", error)
                    continue
                if self._first or found != self._shown:
                    self._first = False
                    self._shown = found
                    return found.value if found is not None else None
            raise StopAsyncIteration
        except (asyncio.CancelledError, StopAsyncIteration, StoreError):
            self._watching.close()
            raise
        finally:
            unlisten()


def _version(results: list[OpResult]) -> int:
    made = results[0]
    assert made is not None
    return made[1].version
