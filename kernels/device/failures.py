"""Turn pyopencl's errors into DeviceError with the device's name: the one place that does."""

import re
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal

import pyopencl as cl

from kernels.device.discovery import DeviceInfo
from kernels.errors import DeviceError

LINES = 3
"""Errors of a compiler's log that are shown."""

_ERROR = re.compile(r"\berror\b|\bundefined\b|\bcannot\b", re.IGNORECASE)
_OUT_OF_MEMORY = (
    cl.status_code.MEM_OBJECT_ALLOCATION_FAILURE,
    cl.status_code.OUT_OF_HOST_MEMORY,
    cl.status_code.INVALID_BUFFER_SIZE,
)


class Translating:
    """A context in which pyopencl's errors become DeviceError."""

    __slots__ = ("_doing", "_info")

    def __init__(self, info: DeviceInfo, doing: str) -> None:
        self._info = info
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        if isinstance(error, cl.Error):
            raise _failure(self._info, self._doing, error.code, telling(str(error))) from error
        return False


def check_ended_well(info: DeviceInfo, doing: str, events: Iterable[Any]) -> None:
    """Look at commands that have ended: the wait for a queue succeeds though what it did failed.

    Raises:
        DeviceError: one of them ended with an error.
    """
    for event in events:
        status = event.command_execution_status
        if status < 0:
            name: str = cl.status_code.to_string(status, "error %d")  # type: ignore[operator]
            why = f"a command ended with {name}"
            raise _failure(info, doing, status, why)


def _failure(info: DeviceInfo, doing: str, code: int, why: str) -> DeviceError:
    if code in _OUT_OF_MEMORY:
        return DeviceError(
            f"device {info} is out of memory (could not {doing}): "
            "use a smaller model or minibatch, or another device"
        )
    return DeviceError(
        f"device {info} failed: could not {doing}: {why}; "
        "start this peer again, or choose another device by device.select",
        reason=f"could not {doing}: {why}",
    )


def telling(text: str) -> str:
    """Return in one line what a driver's words say of a failure: of a compiler's log its errors."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines[1:] if _ERROR.search(line)]
    first = lines[0].partition(" - clBuildProgram failed")[0] if lines else "it does not say why"
    return " | ".join([first, *errors[:LINES]])
