"""The workers of a run: who is there, who was dropped and why, and who is silent. No I/O.

Times are seconds of a monotonic clock given by the caller as ``now``.
"""

from __future__ import annotations

from collections.abc import Iterable

from paramserver.errors import Evicted
from paramserver.runstate import Worker
from paramserver.spec import RunSpec
from paramserver.types import PeerId

STRIKE_STEPS = 100
SILENT_SHARE = 0.7
LINK_GRACE = 1.0


class Roster:
    """Workers by incarnation: ``workers`` are active, ``dropped`` holds why the others are not."""

    def __init__(self, spec: RunSpec, now: float) -> None:
        self._spec = spec
        self.workers: dict[PeerId, Worker] = {}
        self.dropped: dict[PeerId, str] = {}
        self._unable: dict[PeerId, str] = {}
        self._strikes: list[tuple[int, str]] = []
        self._alone_since = now

    def __repr__(self) -> str:
        return f"<Roster: {len(self.workers)} workers, {len(self.dropped)} dropped>"

    # Who is there

    def refuse_dropped(self, who: PeerId) -> None:
        """Raise Evicted where this incarnation was dropped."""
        if who in self.dropped:
            raise Evicted(
                f"{who.name} was dropped from run {self._spec.name} ({self.dropped[who]}): "
                "start it again to join anew"
            )

    def hear(self, who: PeerId, now: float) -> None:
        """Note that a worker lives.

        Raises:
            Evicted: this incarnation was dropped.
        """
        self.refuse_dropped(who)
        if who in self.workers:
            self.workers[who].heard = now
            self.workers[who].cut = None

    def others_of(self, who: PeerId) -> list[PeerId]:
        """Return the active incarnations that a worker which joins takes the place of.

        Raises:
            Evicted: a later incarnation is there already.
        """
        found = [known for known in self.workers if known.name == who.name]
        for other in found:
            if other.incarnation > who.incarnation:
                raise Evicted(f"{who} was replaced by the later incarnation {other}")
        return found

    def add(self, who: PeerId, device: str, kind: str, now: float) -> Worker:
        """Take in a worker; its clock is the least active one."""
        least = min((worker.clock for worker in self.workers.values()), default=0)
        clock = min(self.clocks(), default=least)
        worker = self.workers[who] = Worker(
            who, device, joined=now, heard=now, clock=clock, kind=kind
        )
        return worker

    def remove(self, who: PeerId, reason: str, now: float) -> Worker | None:
        """Drop an incarnation; return what was known of it, None where it was not there."""
        worker = self.workers.pop(who, None)
        if worker is not None:
            self.dropped[who] = reason
            if not self.workers:
                self._alone_since = now
        return worker

    # What they do

    def clocks(self, *, but: Worker | None = None) -> list[int]:
        """Return the clocks of the workers that have a lease, all ``but`` one."""
        return [
            worker.clock
            for worker in self.workers.values()
            if worker.lease is not None and worker is not but
        ]

    @property
    def leases(self) -> bool:
        """Whether any worker has a lease."""
        return any(worker.lease is not None for worker in self.workers.values())

    # Who is not heard of

    def link_lost(self, who: PeerId, now: float) -> None:
        """Note that a worker's connection ended: unless it is heard again soon, it is silent."""
        worker = self.workers.get(who)
        if worker is not None:
            worker.cut = now

    @property
    def silence(self) -> float:
        """After how many seconds without a word a worker is dropped."""
        return SILENT_SHARE * self._spec.deadline

    def silent(self, now: float) -> Iterable[tuple[PeerId, str]]:
        """Return the workers that were silent for too long, with the words for it."""
        grace = max(LINK_GRACE, 1.5 * self._spec.beat)
        for who, worker in list(self.workers.items()):
            if worker.cut is not None and now - worker.cut > grace:
                since = now - worker.cut
                yield who, f"its connection ended {since:.1f} s ago, and it was not heard of since"
            elif now - worker.heard > self.silence:
                yield who, f"not heard of for {now - worker.heard:.1f} s"

    # When the run has to fail for its workers

    def abandoned(self, now: float) -> str | None:
        """Return the error of a run that nobody has worked on for ``lost_after`` seconds."""
        if self.workers or now - self._alone_since <= self._spec.lost_after:
            return None
        gone = "; ".join(f"{who.name}: {why}" for who, why in self.dropped.items())
        return (
            f"no worker for {self._spec.lost_after:g} s ({gone or 'none ever joined'}): "
            "start one with `node start`, or raise cluster.lost_after"
        )

    def note_unable(self, who: PeerId, reason: str) -> str | None:
        """Note that a dropped worker cannot work; return an error where too few are left that can."""
        self._unable[who] = reason
        if self.workers or len(self._unable) < self._spec.min_workers:
            return None
        reasons = "; ".join(f"{who.name}: {why}" for who, why in self._unable.items())
        return f"no worker can work on this run: {reasons}"

    def note_poisoned(self, who: PeerId, reason: str, step: int) -> str | None:
        """Note that a worker's result was not finite; two in short order mean divergence."""
        self._strikes.append((step, f"{who.name}: {reason}"))
        recent = [why for at, why in self._strikes if step - at <= STRIKE_STEPS]
        alone = self._spec.min_workers == 1 and all(known == who for known in self.workers)
        if len(recent) < 2 and not alone:
            return None
        return (
            f"training diverged at step {step}: {'; '.join(recent)}: lower train.rate, "
            "or look for values out of range in the data"
        )
