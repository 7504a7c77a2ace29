"""Let our side and its rivals take turns at the same cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from benching.printing import Sheet
from benching.rows import Case, Ready, Taken, compared
from paramserver.errors import ParamserverError

AGREE = 2e-3
"""By how much, relatively, two sides' results may differ: float32, in another order of summation."""


class Contender(Protocol):
    """One side of a comparison."""

    @property
    def about(self) -> str:
        """What it is, "" where its name says it all."""

    async def prepare(self, case: Case) -> Ready:
        """Get ready for a case and warm up."""

    async def measure(self) -> dict[str, float]:
        """Take a turn: return the seconds of one run, see `benching.rows.Taken`."""

    async def rest(self) -> None:
        """Wait until nothing of the last turn goes on."""


async def compare(
    sheet: Sheet,
    suite: str,
    cases: Sequence[Case],
    ours: Contender,
    rivals: Mapping[str, Contender],
    turns: int,
) -> None:
    """Measure every case on our side and on its rivals, by name, and put down its row.

    All take ``turns`` turns, one after another.

    Raises:
        ParamserverError: a side failed, or the sides' results differ.
    """
    for number, case in enumerate(cases, 1):
        sheet.begin(f"{suite} {case.name}", number, len(cases))
        sides = [ours, *rivals.values()]
        ready = []
        for one in sides:
            ready.append(await one.prepare(case))
            await one.rest()
        for name, theirs in zip(rivals, ready[1:], strict=True):
            _agree(f"{suite} {case.name}", ready[0].result, name, theirs.result)
        taken: list[list[dict[str, float]]] = [[] for _ in sides]
        for _ in range(turns):
            for one, its in zip(sides, taken, strict=True):
                its.append(await one.measure())
                await one.rest()
        mine, *others = (
            Taken(its, ", ".join(filter(None, (one.about, said.how))), said.threads)
            for one, its, said in zip(sides, taken, ready, strict=True)
        )
        sheet.add(compared(suite, case, mine, dict(zip(rivals, others, strict=True))))


def _agree(case: str, mine: float | None, name: str, theirs: float | None) -> None:
    """Refuse results that differ."""
    if mine is None or theirs is None or abs(mine - theirs) <= AGREE * abs(theirs):
        return
    raise ParamserverError(
        f"{case}: our result is {mine:.6g}, that of {name} {theirs:.6g}: they do not do the same, so "
        "their times cannot be compared"
    )
