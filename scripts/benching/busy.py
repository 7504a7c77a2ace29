"""See whether the machine is idle enough for a comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

BUSY = 0.1
"""A share from which on figures say little: the threads of a BLAS wait for each other by spinning,
so one that has to share its core holds up all of them."""

WATCHED = 0.5
"""Seconds."""


async def busy_share(cores: Sequence[int]) -> float:
    """Return which share of these cores' time is taken, while this process only waits."""
    before = _times(cores)
    await asyncio.sleep(WATCHED)
    after = _times(cores)
    passed = [b - a for a, b in zip(before, after, strict=True)]
    return 1 - passed[0] / max(passed[1], 1)


def _times(cores: Sequence[int]) -> tuple[int, int]:
    """Return the idle and the whole time of these cores so far, in the kernel's ticks; see proc(5)."""
    names = {f"cpu{core}" for core in cores}
    idle = whole = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            ticks = [int(field) for field in fields[:8]]
            idle += ticks[3] + ticks[4]
            whole += sum(ticks)
    return idle, whole
