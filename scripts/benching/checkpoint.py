"""What checkpoints cost a run while they are written."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benching.comparing import compare
from benching.printing import Sheet
from benching.rows import Case
from benching.running import BATCH, NETWORK, Command, find_data
from benching.suites import Settings, Suite

TURNS = 7
QUICK_TURNS = 2
EVERY = {"always": 0.001, "every-second": 1.0}
"""Seconds from a checkpoint's end to the next one's beginning; the driver looks ten times a second."""
NEVER = 86400


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure the run with checkpoints and without."""
    cores = tuple(dict.fromkeys(settings.pair))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
        data, words = find_data(folder, quick=settings.quick)
        sheet.note(f"data: {words}")
        sheet.note(f"written to {folder} (TMPDIR names another disk)")
        sheet.note(f"both sides on cores {', '.join(str(core) for core in cores)}")
        without = Command(folder, settings, cores, data, **{"checkpoint.every": NEVER})
        for name, every in EVERY.items():
            often = Command(folder, settings, cores, data, **{"checkpoint.every": every})
            case = Case(f"{name}/{NETWORK}/batch{BATCH}", "examples/s", 1.0)
            turns = QUICK_TURNS if settings.quick else TURNS
            await compare(sheet, SUITE.name, [case], often, {"none": without}, turns)
            sheet.note(f"{name}: {often.checkpoints / often.seconds:.1f} checkpoints a second")


SUITE = Suite(
    "checkpoint",
    "`node train mnist` with two peers while checkpoints are written, against none but the last",
    ("bsp, a gradient each step, sgd, global minibatch 128; files and folder synced each time",),
    run,
)
