"""The other sides of a suite: frameworks that are installed and work here, or else numpy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeVar

from benching.choosing import counts
from benching.frameworks import is_installed
from benching.printing import Sheet
from benching.processes import Side, begun, side
from benching.suites import Settings
from paramserver.errors import ParamserverError

FALLBACK = "numpy"


class Starting(Protocol):
    """A side that has been started; see `benching.processes.Side`."""

    async def begin(self) -> None:
        """Wait until the side has begun."""

    def kill(self) -> None:
        """End it at once."""


AnySide = TypeVar("AnySide", bound=Starting)


@asynccontextmanager
async def contest(
    suite: str, names: Sequence[str], settings: Settings, sheet: Sheet
) -> AsyncIterator[tuple[Side, dict[str, Side]]]:
    """Start our side of a suite and the others by name; note what they are. All end with the context.

    Raises:
        ParamserverError: our side does not work, or not even numpy's does.
    """
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(side(suite, "ours", settings, ours=True))
        await begun(ours)
        sheet.note(f"ours: {ours.about}")
        rivals = await _rivals(stack, suite, names, settings, sheet)
        for one in rivals.values():
            sheet.note(f"other: {one.about}")
        tried = ", ".join(map(str, counts(len(settings.cores))))
        sheet.note(f"other: on that number of threads which is quickest for the case, of {tried}")
        yield ours, rivals


async def _rivals(
    stack: AsyncExitStack, suite: str, names: Sequence[str], settings: Settings, sheet: Sheet
) -> dict[str, Side]:
    """Start those other sides whose framework is installed, or numpy's where none works.

    A side's name is its framework's, with a way to use it after a dot: ``torch.compile``.
    """
    packages = dict.fromkeys(name.partition(".")[0] for name in names)
    there = {package for package in packages if is_installed(package, sheet)}

    async def started(name: str) -> Side:
        return await stack.enter_async_context(side(suite, name, settings, ours=False))

    sides = {name: await started(name) for name in names if name.partition(".")[0] in there}
    sides = await working(sides, sheet)
    if not sides:
        sides = {FALLBACK: await started(FALLBACK)}
        await begun(sides[FALLBACK])
    return sides


async def working(sides: Mapping[str, AnySide], sheet: Sheet) -> dict[str, AnySide]:
    """Wait until all sides have begun or failed; note those that failed, return the others."""
    ends = await asyncio.gather(*(one.begin() for one in sides.values()), return_exceptions=True)
    found = {}
    for (name, one), failed in zip(sides.items(), ends, strict=True):
        if failed is None:
            found[name] = one
        elif isinstance(failed, ParamserverError):
            one.kill()
            sheet.note(f"{name} is left out: {failed}")
        else:
            raise failed
    return found
