"""The map as one peer or client knows it, and how it learns a newer one."""

from __future__ import annotations

from typing import Protocol

from paramserver.errors import DeadlineExceeded
from paramserver.placement import ClusterMap, parse_map
from paramserver.transport.links import Links
from paramserver.waiting import Changes
from paramserver.wire.control import GetMap, MapIs

ANSWER_WITHIN = 1.0
"""Seconds that an answer may take beyond the wait asked for."""


class MapView:
    """The newest map known here."""

    def __init__(self) -> None:
        self.map = ClusterMap()
        self.changes = Changes()

    def __repr__(self) -> str:
        return f"<MapView of {self.map.serial}: {sorted(self.map.tables)}, run {self.map.run}>"

    def offer(self, placed: ClusterMap) -> bool:
        """Take a map where it is newer than the one known; say whether it was."""
        if placed.serial <= self.map.serial:
            return False
        self.map = placed
        self.changes.notify()
        return True


class MapSource(Protocol):
    """Where a client learns maps."""

    @property
    def view(self) -> MapView:
        """The newest map known."""

    async def newer(self, serial: int, seconds: float) -> bool:
        """Wait until a map beyond ``serial`` is known, ``seconds`` at most; say whether it is."""


class LocalMap:
    """The map of a peer that follows the coordinator itself."""

    def __init__(self, view: MapView) -> None:
        self._view = view

    @property
    def view(self) -> MapView:
        """The newest map known."""
        return self._view

    async def newer(self, serial: int, seconds: float) -> bool:
        """Wait until a map beyond ``serial`` is known, ``seconds`` at most; say whether it is."""
        return await self._view.changes.until(lambda: self._view.map.serial > serial, seconds)


class RemoteMap:
    """The map as a peer at ``address`` tells it: what a client without ZooKeeper uses."""

    def __init__(self, links: Links, address: str) -> None:
        self._links = links
        self._address = address
        self._view = MapView()

    @property
    def view(self) -> MapView:
        """The newest map known."""
        return self._view

    async def newer(self, serial: int, seconds: float) -> bool:
        """Ask for a map beyond ``serial``, for ``seconds`` at most; say whether there is one.

        Raises:
            RequestFailed: the peer asked does not answer.
        """
        if self._view.map.serial > serial:
            return True
        try:
            reply = await self._links.request(
                self._address, GetMap(after=serial, wait=seconds), deadline=seconds + ANSWER_WITHIN
            )
        except DeadlineExceeded:
            return False
        answer: MapIs = reply.message
        self._view.offer(parse_map(answer.document))
        return self._view.map.serial > serial
