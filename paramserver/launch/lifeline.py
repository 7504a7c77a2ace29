"""The pipe between a launcher and its children.

The launcher writes a first line into it (JSON: the cluster's secret and settings, so that neither is
seen in a process list or an environment) and keeps it open. When the launcher dies, however it
dies, the child reads the end of file and leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass

from paramserver.errors import NotReady, TryAgain

LONGEST = 65536
LEAVE_WITHIN = 2.0
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h; other systems have none


@dataclass(frozen=True, slots=True)
class Handover:
    """What a launcher tells a child: the secret (hex) and where to join."""

    secret: str
    join: str

    def encode(self) -> bytes:
        """Return the line to write into the pipe."""
        return json.dumps(asdict(self)).encode() + b"\n"


def read_handover(fd: int) -> Handover:
    """Read the first line of the lifeline ``fd``; blocks until the launcher has written it, or ended.

    Raises:
        TryAgain: the launcher has ended.
        NotReady: the pipe holds something else.
    """
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST:
        try:
            piece = os.read(fd, 1)
        except OSError as error:
            raise NotReady(f"cannot read the lifeline (file descriptor {fd}): {error}") from error
        if not piece:
            break
        line += piece
    if not line:
        raise TryAgain("the launcher ended before it had said where to join")
    try:
        return Handover(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise NotReady(
            f"the lifeline (file descriptor {fd}) holds no handover; it is for children of "
            "`node train` only"
        ) from error


def wake_when_launcher_dies() -> None:
    """Have SIGCONT sent at the launcher's death: a stopped child cannot read an end of file."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


async def watch_lifeline(fd: int, gone: Callable[[], None]) -> None:
    """Wait for the launcher's end, then call ``gone`` and see that this process ends.

    The process is ended by force where a clean end takes longer than 2 s.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def readable() -> None:
        try:
            piece = os.read(fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            loop.remove_reader(fd)
            ended.set()

    os.set_blocking(fd, False)
    loop.add_reader(fd, readable)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
    gone()
    loop.call_later(LEAVE_WITHIN * 0.75, os._exit, 75)
