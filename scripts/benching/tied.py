"""Become another Python module, tied to a parent and to some cores.

``python -m benching.tied PARENT CORES MODULE ARGUMENTS…``: the module runs on these cores alone
(numbers with commas), from its first import on, and is killed when process PARENT ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def command(cores: tuple[int, ...], module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``python -m module arguments`` tied to this process."""
    numbers = ",".join(str(core) for core in cores)
    return [sys.executable, "-m", "benching.tied", str(os.getpid()), numbers, module, *arguments]


def main() -> None:
    """Tie this process, then become the module; both outlast the change of program."""
    parent, cores, *rest = sys.argv[1:]
    with contextlib.suppress(OSError, AttributeError):  # other systems than Linux have none
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)  # it ended before we were tied to it
    os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.execv(sys.executable, [sys.executable, "-m", *rest])


if __name__ == "__main__":
    main()
