"""See whether the machine, or a process, is idle enough for a comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

BUSY = 0.1
"""A share from which on figures say little: the threads of a BLAS wait for each other by spinning,
so one that has to share its core holds up all of them."""

WATCHED = 0.5
"""Seconds."""


LOOKS = 0.01
"""Seconds between two looks at a process."""
QUIET_SHARE = 0.1
QUIET_LOOKS = 3
"""On end: on a busy machine a process may have to wait for its core in one."""
LONGEST_REST = 2.0


async def at_rest(pid: int) -> None:
    """Wait until a process does next to nothing on any core, two seconds at most.

    The threads of a BLAS, or of OpenMP, go on spinning after their work (those of numpy's OpenBLAS for
    2^28 cycles, a tenth of a second) and would take the cores from the other side.
    """
    loop = asyncio.get_running_loop()
    end, before, quiet = loop.time() + LONGEST_REST, _spent(pid), 0
    while loop.time() < end and quiet < QUIET_LOOKS:
        began = loop.time()
        await asyncio.sleep(LOOKS)
        after = _spent(pid)
        quiet = quiet + 1 if after - before < QUIET_SHARE * (loop.time() - began) else 0
        before = after


def _spent(pid: int) -> float:
    """Return the seconds that all threads of a process had a core so far; see proc(5)."""
    nanoseconds = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            nanoseconds += int(path.read_text().split()[0])
        except OSError:
            continue  # it has ended
    return nanoseconds * 1e-9


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
