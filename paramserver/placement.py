"""Where slices are cut and who holds them.

The bounds of a table's slices depend on the table alone, never on how many peers there are, so a
checkpoint, a ledger or a checksum of one cluster means the same in another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from paramserver.spec import Frozen, RunSpec, TableSpec

ALIGNMENT = 128
SMALLEST = 4 * 1024
LARGEST = 4 * 1024 * 1024
WANTED = 16
MOST = 4096


def slice_bounds(size: int, itemsize: int = 4) -> tuple[int, ...]:
    """Cut a table of ``size`` elements into slices; return their bounds in elements.

    Slice ``i`` is ``[bounds[i], bounds[i + 1])``. At least 16 slices where the table allows, each of
    4 KiB to 4 MiB (larger only where the table would need more than 4096), and each but the last a
    multiple of 128 bytes.
    """
    if size <= 0:
        raise ValueError(f"a table needs at least one element, not {size}")
    total = size * itemsize
    step = min(max(total // WANTED // ALIGNMENT * ALIGNMENT, SMALLEST), LARGEST)
    if total > MOST * step:
        step = -(-total // (MOST * ALIGNMENT)) * ALIGNMENT
    elements = step // itemsize
    return (*range(0, size, elements), size)


def assign(count: int, members: int) -> tuple[int, ...]:
    """Give each of ``count`` slices a member's index, in contiguous and even blocks.

    Contiguous blocks make what a worker exchanges with one peer one range of its flat buffer.
    """
    return tuple(i * members // count if count >= members else i for i in range(count))


class Member(Frozen):
    """A peer as the map knows it: one incarnation at one address."""

    name: str
    incarnation: int
    address: str


class TableEntry(Frozen):
    """A table's place: per slice its chain (indices into the map's members, primary first)."""

    spec: TableSpec
    attempt: int
    chains: tuple[tuple[int, ...], ...]
    epochs: tuple[int, ...]


class RunEntry(Frozen):
    """The run under way and the chain of its run table."""

    name: str
    attempt: int
    chain: tuple[int, ...]
    epoch: int


class ClusterMap(Frozen):
    """The map: slice → chain, with a chain epoch per slice, and the run under way."""

    serial: Annotated[int, Field(ge=0)] = 0
    members: tuple[Member, ...] = ()
    tables: dict[str, TableEntry] = Field(default_factory=dict)
    run: RunEntry | None = None

    def dump(self) -> dict[str, Any]:
        """Return the map as JSON-able values."""
        return self.model_dump(mode="json")

    def primary(self, table: str, index: int) -> Member:
        """Return the member that serves slice ``index`` of ``table``."""
        return self.members[self.tables[table].chains[index][0]]

    def run_primary(self) -> Member | None:
        """Return the member that holds the run table, or None where no run is under way."""
        return self.members[self.run.chain[0]] if self.run is not None else None

    def held_by(self, name: str, incarnation: int) -> dict[str, list[int]]:
        """Return the slices whose primary is this incarnation, by table."""
        held: dict[str, list[int]] = {}
        for table, entry in self.tables.items():
            mine = [
                index
                for index, chain in enumerate(entry.chains)
                if self.members[chain[0]].name == name
                and self.members[chain[0]].incarnation == incarnation
            ]
            if mine:
                held[table] = mine
        return held

    def with_table(
        self, name: str, spec: TableSpec, shards: Sequence[Member], attempt: int = 0
    ) -> ClusterMap:
        """Return this map with one more table, spread over ``shards``.

        Its chains begin at the map's new serial, so a table made anew under an old name never
        meets an old chain epoch.
        """
        members = list(self.members)
        for shard in shards:
            if shard not in members:
                members.append(shard)
        places = [members.index(shard) for shard in shards]
        count = len(slice_bounds(spec.size)) - 1
        owners = assign(count, len(shards))
        entry = TableEntry(
            spec=spec,
            attempt=attempt,
            chains=tuple((places[owner],) for owner in owners),
            epochs=(self.serial + 1,) * count,
        )
        return ClusterMap(
            serial=self.serial + 1,
            members=tuple(members),
            tables={**self.tables, name: entry},
            run=self.run,
        )

    def with_run(self, spec: RunSpec, shards: Sequence[Member]) -> ClusterMap:
        """Return this map with a run: its table and its run table's chain."""
        placed = self.with_table(spec.table_name, spec.table, shards, spec.attempt)
        primary = placed.members.index(shards[0])
        run = RunEntry(name=spec.name, attempt=spec.attempt, chain=(primary,), epoch=placed.serial)
        return placed.model_copy(update={"run": run})

    def without_run(self, table: str) -> ClusterMap:
        """Return this map without the run under way and its table."""
        tables = {name: entry for name, entry in self.tables.items() if name != table}
        return self.model_copy(update={"serial": self.serial + 1, "tables": tables, "run": None})


def parse_map(value: dict[str, Any] | str | bytes) -> ClusterMap:
    """Read a map from JSON-able values or JSON text."""
    document = json.loads(value) if isinstance(value, str | bytes) else value
    return ClusterMap.model_validate(document)
