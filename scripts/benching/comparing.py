"""Let two sides take turns at the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from benching.printing import Sheet
from benching.rows import Case, compared
from paramserver.errors import ParamserverError

AGREE = 2e-3
"""By how much, relatively, two sides' results may differ: float32, in another order of summation."""


class Contender(Protocol):
    """One side of a comparison."""

    async def prepare(self, case: Case) -> float | None:
        """Get ready for a case and warm up.

        Returns a number made of the results, by which the sides are seen to do the same, or None
        where there is nothing to compare.
        """

    async def measure(self) -> dict[str, float]:
        """Take a turn: return the seconds of one run, see `benching.rows.compared`."""

    async def rest(self) -> None:
        """Wait until nothing of the last turn goes on."""


async def compare(
    sheet: Sheet,
    suite: str,
    cases: Sequence[Case],
    ours: Contender,
    other: Contender,
    against: str,
    turns: int,
) -> None:
    """Measure every case on both sides, ``turns`` times in alternation, and put down its row.

    Raises:
        ParamserverError: a side failed, or the sides' results differ.
    """
    for number, case in enumerate(cases, 1):
        sheet.begin(f"{suite} {case.name}", number, len(cases))
        mine, theirs = await ours.prepare(case), await other.prepare(case)
        if (
            mine is not None
            and theirs is not None
            and not abs(mine - theirs) <= AGREE * abs(theirs)
        ):
            raise ParamserverError(
                f"{suite} {case.name}: our result is {mine:.6g}, that of {against} {theirs:.6g}: "
                "they do not do the same, so their times cannot be compared"
            )
        turns_of_ours, turns_of_other = [], []
        for _ in range(turns):
            await other.rest()
            turns_of_ours.append(await ours.measure())
            await ours.rest()
            turns_of_other.append(await other.measure())
        sheet.add(compared(suite, case, against, turns_of_ours, turns_of_other))
