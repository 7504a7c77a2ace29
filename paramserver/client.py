"""Pull from and push to a table, wherever its slices are.

A `TableClient` knows the map, groups slices by their primary, and keeps one request a peer under way
to all peers at once. It learns of moved slices from the answers, and retries a push only under the
same id, so a repeat is recognised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from paramserver.errors import (
    DeadlineExceeded,
    Moved,
    NonFinite,
    RequestFailed,
    UnknownTable,
    UserError,
)
from paramserver.mapview import MapSource
from paramserver.placement import Member, TableEntry, slice_bounds
from paramserver.slices import Floats, aligned, is_finite
from paramserver.transport.links import Links
from paramserver.types import PeerId
from paramserver.waiting import all_of
from paramserver.wire.data import (
    Held,
    Initialise,
    Pull,
    Pulled,
    Push,
    Pushed,
    PushPart,
)

LARGEST_BODY = 32 * 1024 * 1024
RETRY_PAUSE = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring slices with one primary: elements ``[start, stop)`` of the table."""

    member: Member
    indices: tuple[int, ...]
    start: int
    stop: int


class Copy:
    """A place for a pulled table: weights, and per slice the version ``n`` and clock they have."""

    def __init__(self, size: int) -> None:
        slices = len(slice_bounds(size)) - 1
        self.weights = aligned(size)
        self.versions: npt.NDArray[np.int64] = np.zeros(slices, np.int64)
        self.clocks: npt.NDArray[np.int64] = np.zeros(slices, np.int64)

    def __repr__(self) -> str:
        return f"<Copy of {self.weights.size} at clocks {self.clocks.min()} to {self.clocks.max()}>"

    def is_of(self, clock: int) -> bool:
        """Say whether every slice stands at the beginning of ``clock``."""
        return bool((self.clocks == clock).all())


@dataclass(slots=True)
class PushResult:
    """The outcome of one logical push over all primaries."""

    committed: bool = True
    slices: int = 0
    staleness: int = 0
    repeats: int = 0

    def add(self, answer: Pushed) -> None:
        """Add one primary's answer."""
        self.committed = self.committed and answer.committed
        self.slices += answer.slices
        self.staleness += answer.staleness
        self.repeats += answer.repeats

    @property
    def duplicate(self) -> bool:
        """Whether every slice had the push already."""
        return self.slices == 0 and self.repeats > 0


def group_slices(entry: TableEntry, members: tuple[Member, ...], arrays: int = 1) -> list[Group]:
    """Group neighbouring slices by primary, each group at most 32 MiB in so many ``arrays``."""
    bounds = slice_bounds(entry.spec.size)
    groups: list[Group] = []
    run: list[int] = []

    def close() -> None:
        if run:
            member = members[entry.chains[run[0]][0]]
            groups.append(Group(member, tuple(run), bounds[run[0]], bounds[run[-1] + 1]))
            run.clear()

    for index, chain in enumerate(entry.chains):
        full = run and (bounds[index + 1] - bounds[run[0]]) * 4 * arrays > LARGEST_BODY
        if run and (chain[0] != entry.chains[run[-1]][0] or full):
            close()
        run.append(index)
    close()
    return groups


class TableClient:
    """One table as a worker or a user's program sees it.

    Weights and gradients are flat float32 arrays of ``size`` elements.
    """

    def __init__(
        self, links: Links, source: MapSource, name: str, me: PeerId, *, deadline: float
    ) -> None:
        self._links = links
        self._source = source
        self._me = me
        self._deadline = deadline
        self._sequence = 0
        self._open: set[int] = set()
        self._routed: tuple[int, TableEntry, list[Group]] | None = None
        self.name = name
        self._latest: Copy | None = None

    def __repr__(self) -> str:
        return f"<TableClient {self.name!r} of {self.size}, {self._sequence} pushes>"

    @property
    def size(self) -> int:
        """The number of elements of the table."""
        return self._route()[0].spec.size

    def check(self) -> None:
        """Look the table up.

        Raises:
            UnknownTable: there is none of that name; the text lists those there are.
        """
        self._route()

    def _route(self) -> tuple[TableEntry, list[Group]]:
        placed = self._source.view.map
        if self._routed is None or self._routed[0] != placed.serial:
            entry = placed.tables.get(self.name)
            if entry is None:
                raise UnknownTable(
                    f"no table {self.name!r} in the cluster; there are "
                    f"{', '.join(sorted(placed.tables)) or 'none'}"
                )
            self._routed = (
                placed.serial,
                entry,
                group_slices(entry, placed.members, self._arrays(entry)),
            )
        return self._routed[1], self._routed[2]

    def _arrays(self, entry: TableEntry) -> int:
        """Return how many arrays of the table's size one request carries."""
        return 1

    # Pulls

    async def pull(self, *, clock: int | None = None) -> Floats:
        """Pull the whole table, in bsp once ``clock`` has begun, and return it as a new array.

        Raises:
            DeadlineExceeded: a primary has no weights yet, or did not answer, in time.
        """
        copy = Copy(self.size)
        if not await self.pull_into(copy, clock=clock, deadline=self._deadline):
            raise DeadlineExceeded(
                f"table {self.name!r} has no weights after {self._deadline:g} s: "
                "nobody has set them; see initialise()"
            )
        self._latest = copy
        return copy.weights

    async def pull_into(self, copy: Copy, *, clock: int | None, deadline: float) -> bool:
        """Pull the table into ``copy``, in bsp as it stands once ``clock`` has begun.

        Returns False where it was not ready within ``deadline`` seconds. Where a slice had gone
        beyond ``clock`` already, ``copy.clocks`` says so.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        waiting = set(range(len(self._route()[0].chains)))

        async def one(entry: TableEntry, group: Group, left: float) -> bool:
            view = copy.weights[group.start : group.stop].data.cast("B")
            reply = await self._links.request(
                group.member.address,
                Pull(
                    table=self.name,
                    slices=[(index, entry.epochs[index]) for index in group.indices],
                    clock=clock,
                ),
                deadline=left,
                into=[view],
                attempt=entry.attempt,
            )
            answer: Pulled = reply.message
            if answer.ready:
                for index, version in zip(group.indices, answer.versions, strict=True):
                    copy.versions[index] = version[1]
                    copy.clocks[index] = version[2]
                waiting.difference_update(group.indices)
            return answer.ready

        while waiting:
            if loop.time() >= until:
                return False
            await self._everywhere(one, until, lambda group: not waiting.isdisjoint(group.indices))
        return True

    # Pushes

    async def initialise(self, weights: Floats) -> int:
        """Set the table's first weights; return how many slices took them (others had some)."""
        values = self._checked(weights)

        async def one(entry: TableEntry, group: Group, left: float) -> int:
            reply = await self._links.request(
                group.member.address,
                Initialise(
                    table=self.name,
                    slices=[(index, entry.epochs[index]) for index in group.indices],
                ),
                [values[group.start : group.stop].data.cast("B")],
                deadline=left,
                attempt=entry.attempt,
            )
            return int(reply.message.taken)

        until = asyncio.get_running_loop().time() + self._deadline
        return sum(await self._everywhere(one, until))

    async def push(
        self,
        gradient: Floats,
        *,
        scale: float = 1.0,
        computed_from: Copy | None = None,
        finite: bool = False,
    ) -> PushResult:
        """Push a gradient (times ``scale``) and return once every primary has applied it.

        ``computed_from`` is the copy that it was computed from, the last `pull`'s where None: the
        shards measure its staleness against it. ``finite`` says that the caller has checked the
        gradient already. The gradient must stay unchanged until this returns.

        Within the deadline this method repeats a request that failed, under the same id. A caller
        who repeats a failed push gives it a new id, so it may then count twice.

        Raises:
            NonFinite: it holds NaN or infinity; nothing was sent.
            Evicted: this incarnation was dropped.
        """
        values = self._checked(gradient, finite)
        sequence = self._sequence
        self._sequence += 1
        self._open.add(sequence)
        settled = min(self._open)
        source = computed_from if computed_from is not None else self._latest
        versions = (
            source.versions.tolist() if source is not None else [0] * len(self._route()[0].chains)
        )

        async def one(entry: TableEntry, group: Group, left: float) -> Pushed:
            reply = await self._links.request(
                group.member.address,
                Push(
                    table=self.name,
                    worker=self._me.name,
                    incarnation=self._me.incarnation,
                    sequence=sequence,
                    settled=settled,
                    scale=scale,
                    slices=[
                        (index, entry.epochs[index], versions[index]) for index in group.indices
                    ],
                ),
                [values[group.start : group.stop].data.cast("B")],
                deadline=left,
                attempt=entry.attempt,
            )
            answer: Pushed = reply.message
            if not answer.committed:
                raise DeadlineExceeded(
                    f"push {sequence} to table {self.name!r} is still in work at "
                    f"{group.member.name}, {group.member.address}"
                )
            return answer

        until = asyncio.get_running_loop().time() + self._deadline
        result = PushResult()
        try:
            for answer in await self._everywhere(one, until):
                result.add(answer)
        finally:
            self._open.discard(sequence)  # answered or given up: it is never sent again
        return result

    async def push_part(
        self,
        gradient: Floats,
        *,
        clock: int,
        part: int,
        examples: int,
        held: Callable[[], None] | None = None,
    ) -> PushResult:
        """Push a part of a bsp clock; ``held`` is called once every primary holds it.

        Returns when every primary has closed the clock, or has waited as long as a request may
        (``committed`` says which). The gradient must stay unchanged until the clock has closed, and
        the caller has checked that it is finite (the shards do so again).
        """
        values = self._checked(gradient, finite=True)
        missing = {group.start for group in self._route()[1]}

        async def one(entry: TableEntry, group: Group, left: float) -> Pushed:
            def note(_: Held) -> None:
                missing.discard(group.start)
                if held is not None and not missing:
                    held()

            reply = await self._links.request(
                group.member.address,
                PushPart(
                    table=self.name,
                    worker=self._me.name,
                    incarnation=self._me.incarnation,
                    clock=clock,
                    part=part,
                    examples=examples,
                    slices=[(index, entry.epochs[index], 0) for index in group.indices],
                ),
                [values[group.start : group.stop].data.cast("B")],
                deadline=left,
                attempt=entry.attempt,
                on_interim=note,
            )
            answer: Pushed = reply.message
            return answer

        until = asyncio.get_running_loop().time() + self._deadline
        result = PushResult()
        for answer in await self._everywhere(one, until):
            result.add(answer)
        return result

    def _checked(self, values: Floats, finite: bool = False) -> Floats:
        if values.shape != (self.size,) or values.dtype != np.float32:
            raise UserError(
                f"table {self.name!r} holds {self.size} float32 values, "
                f"not {values.dtype} of shape {values.shape}"
            )
        if not finite and not is_finite(values):
            raise NonFinite(f"values for table {self.name!r} hold NaN or infinity: not sent")
        return np.ascontiguousarray(values)

    async def _everywhere(
        self,
        one: Callable[[TableEntry, Group, float], Coroutine[Any, Any, T]],
        until: float,
        wanted: Callable[[Group], bool] = lambda _: True,
    ) -> list[T]:
        """Do ``one`` for every group at once, each again where its slices moved or a link broke."""
        entry, groups = self._route()

        async def stubborn(group: Group) -> T:
            """Retry while the group stands in the map as it is; an answer of no is final."""
            loop = asyncio.get_running_loop()
            pause = RETRY_PAUSE
            while True:
                try:
                    return await one(entry, group, max(until - loop.time(), 0.001))
                except (Moved, UnknownTable, RequestFailed):
                    serial = self._source.view.map.serial
                    left = until - loop.time()
                    if left <= 0:
                        raise
                    await self._source.newer(serial, min(pause, left))
                    pause = min(pause * 2, 1.0)
                    if self._route()[0] != entry:
                        raise

        return await all_of([stubborn(group) for group in groups if wanted(group)])
