"""Keep the threads of PoCL's CPU device on cores of their own.

Linux tends to wake both of two threads on one core, while the thread that woke them holds the other,
and takes 10 to 30 ms to move one of them away: as long as a short training step, or many.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POCL = "Portable Computing Language"
TASKS = Path("/proc/self/task")


@contextmanager
def spreading(platform: str) -> Iterator[None]:
    """Give the threads that PoCL starts in the context one core each; others keep theirs.

    Only where there are as many of them as this process may use cores: a process with fewer has a
    share of the machine, and Linux knows better which cores are free.
    """
    if platform != POCL:
        yield
        return
    before = _threads()
    yield
    pythons = {thread.native_id for thread in threading.enumerate()}
    threads = sorted(_threads() - before - pythons)
    if not threads:
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(threads) == len(cores) > 1:
        for thread, core in zip(threads, cores, strict=True):
            with suppress(OSError):  # it has ended, or the system forbids it
                os.sched_setaffinity(thread, {core})


def _threads() -> set[int]:
    """Return this process's threads; none on systems that do not tell, which are not Linux."""
    try:
        return {int(path.name) for path in TASKS.iterdir()}
    except OSError:
        return set()
