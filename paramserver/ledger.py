"""Which pushes a slice has seen: the memory that makes a retry harmless.

A push is named by (worker incarnation, sequence number); sequences run per slice and move with it.
Each push says below which number everything is settled, so the memory is a window. A push still in
work is joined by its retry, one already applied is answered and not applied, one below the window is
refused. Evicted incarnations are refused for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from paramserver.errors import Evicted, StaleSequence
from paramserver.types import PeerId

WINDOW = 4096


class Verdict(Enum):
    """What to do with a push."""

    NEW = "new"
    IN_WORK = "in work"
    APPLIED = "applied"


@dataclass(slots=True)
class _Window:
    settled: int = 0
    highest: int = -1
    in_work: set[int] = field(default_factory=set)
    applied: set[int] = field(default_factory=set)


class Ledger:
    """The windows of every worker that pushed to one slice."""

    def __init__(self) -> None:
        self._windows: dict[PeerId, _Window] = {}
        self._evicted: set[PeerId] = set()

    def __repr__(self) -> str:
        return f"<Ledger of {len(self._windows)} workers, {len(self._evicted)} evicted>"

    def judge(self, worker: PeerId, sequence: int, settled: int) -> Verdict:
        """Judge a push, and change nothing: `begin` takes a new one.

        Raises:
            Evicted: this incarnation was dropped.
            StaleSequence: the number is below the window, or too far above what is settled.
        """
        if worker in self._evicted:
            raise Evicted(f"{worker} was dropped from the run: its pushes are refused")
        window = self._windows.get(worker, _Window())
        if sequence < window.settled:
            raise StaleSequence(
                f"push {sequence} of {worker} is below {window.settled}, where all is settled"
            )
        if sequence in window.in_work:
            return Verdict.IN_WORK
        if sequence in window.applied:
            return Verdict.APPLIED
        beyond = sequence - max(window.settled, settled)
        if beyond >= WINDOW:
            raise StaleSequence(
                f"push {sequence} of {worker} is {beyond} beyond what is settled; at most {WINDOW} "
                "may be open"
            )
        return Verdict.NEW

    def begin(self, worker: PeerId, sequence: int, settled: int) -> None:
        """Take a new push: it is in work from now on."""
        window = self._windows.setdefault(worker, _Window())
        if settled > window.settled:
            window.settled = settled
            window.applied = {seen for seen in window.applied if seen >= settled}
        window.in_work.add(sequence)
        window.highest = max(window.highest, sequence)

    def finish(self, worker: PeerId, sequence: int) -> None:
        """Note a push in work as applied."""
        window = self._windows[worker]
        window.in_work.discard(sequence)
        window.applied.add(sequence)

    def applied(self, worker: PeerId, sequence: int) -> bool:
        """Say whether a push was applied."""
        window = self._windows.get(worker)
        return window is not None and (sequence < window.settled or sequence in window.applied)

    def evict(self, worker: PeerId) -> int:
        """Refuse this incarnation from now on; return its highest sequence seen, -1 if none."""
        self._evicted.add(worker)
        window = self._windows.get(worker)
        return window.highest if window is not None else -1
