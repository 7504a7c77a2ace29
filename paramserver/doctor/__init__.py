"""Find out what of this machine works, and say what is missing."""

from __future__ import annotations

from collections.abc import Callable

from kernels.device import devices


async def examine(device: str | None, say: Callable[[str], None]) -> int:
    """Examine the machine; return the exit code: 0 all well, 3 something is missing."""
    found = devices()
    for one in found:
        if device is None or device.lower() in str(one).lower():
            say(str(one))
    return 0 if found else 3
