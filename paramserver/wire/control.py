"""Messages that any peer answers: the map, tables, status. Kinds 128 to 159."""

from __future__ import annotations

from typing import Any

from paramserver.wire.messages import message


@message(128)
class GetMap:
    """Ask for the map once its serial is beyond ``after``, or after ``wait`` seconds at most."""

    after: int
    wait: float


@message(129)
class MapIs:
    """Answer to `GetMap`: see `paramserver.placement.ClusterMap`."""

    document: dict[str, Any]


@message(130)
class CreateTable:
    """Ask the leader for a table; any peer passes it on to the leader."""

    name: str
    spec: dict[str, Any]


@message(131)
class TableCreated:
    """Answer to `CreateTable`: the table is in the map of this serial."""

    serial: int


@message(132)
class Probe:
    """Ask a peer whether it lives."""


@message(133)
class Alive:
    """Answer to `Probe`."""

    name: str
    incarnation: int
