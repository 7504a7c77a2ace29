"""Kernels of an open device, and recordings of them that are enqueued again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyopencl as cl

if TYPE_CHECKING:
    from kernels.device.device import OpenDevice


class Kernel:
    """One kernel with the types of its arguments fixed; like its device, for one thread at a time.

    Buffers are passed as pyopencl's objects (None for one that the kernel will not touch), scalars
    as Python numbers.
    """

    def __init__(self, device: OpenDevice, program: Any, name: str, types: Sequence[Any]) -> None:
        self._device = device
        self._program = program
        self._name = name
        self._types = list(types)
        self._kernel = self._new()

    def _new(self) -> Any:
        with self._device.translating(f"prepare its kernel {self._name}"):
            kernel = cl.Kernel(self._program, self._name)
            kernel.set_scalar_arg_dtypes(self._types)
        return kernel

    def __call__(
        self,
        grid: tuple[int, ...],
        group: tuple[int, ...] | None,
        *args: Any,
        work: float = math.inf,
        kernels: int = 1,
    ) -> None:
        """Enqueue the kernel over `grid` work-items in groups of `group`; wait for nothing.

        ``work`` is about how many nanoseconds one core needs for it, and it counts as so many
        ``kernels``; see `OpenDevice.queue_for`. Under `OpenDevice.recording` it is taken down instead,
        with its arguments set once and for all: to set them takes longer than many a kernel runs.
        """
        device = self._device
        if device.recorded is None:
            with device.translating("run a kernel"):
                device.last = self._kernel(device.queue_for(work, kernels), grid, group, *args)
            return
        kernel = self._new()
        with device.translating("run a kernel"):
            kernel.set_args(*args)
        # OpenCL does not keep what a kernel's arguments name; the launch does.
        device.recorded.append(Launch(kernel, grid, group, args, work))


class Launch(NamedTuple):
    """A kernel with its arguments set."""

    kernel: Any
    grid: tuple[int, ...]
    group: tuple[int, ...] | None
    args: tuple[Any, ...]
    work: float


class Replay:
    """Kernels in their order, each with its arguments, enqueued again by each call."""

    def __init__(self, device: OpenDevice, launches: list[Launch]) -> None:
        self._device = device
        self.launches = launches
        self._work: float | None = None

    def __repr__(self) -> str:
        return f"<Replay of {len(self.launches)} kernels>"

    def __call__(self) -> None:
        """Enqueue them all; wait for nothing."""
        device = self._device
        if self._work is None:
            self._work = sum(launch.work for launch in self.launches)
        with device.translating("run a kernel"):
            queue = device.queue_for(self._work, len(self.launches))
            gate = device.gate(queue) if len(self.launches) > 1 else None
            held = None if gate is None else [gate]
            try:
                for kernel, grid, group, *_ in self.launches:
                    device.last = cl.enqueue_nd_range_kernel(
                        queue, kernel, grid, group, wait_for=held
                    )
                    held = None
            finally:
                if gate is not None:
                    gate.set_status(cl.command_execution_status.COMPLETE)
