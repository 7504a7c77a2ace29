"""Run operations on an OpenCL device: their kernels are built when they are first asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.device.device import Located, OpenDevice, source
from kernels.device.kernel import Kernel
from kernels.operation import Operation

ITEMS_A_UNIT = 4
"""Work-items for each of a CPU's compute units, where the grain allows so many: enough to share."""

GRAIN_TIME = 2000.0
"""Nanoseconds that the items which are worth a work-item take, more or less."""


class Operations:
    """The kernels of the operations that were asked for so far."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._cpu = device.info.type == "cpu"
        self._programs: dict[str, Any] = {}
        self._kernels: dict[str, Kernel] = {}

    def run(
        self,
        operation: Operation,
        arrays: Sequence[Located],
        numbers: Sequence[float],
        items: int,
        grain: int,
    ) -> None:
        """Enqueue an operation; arguments as in `Engine.run`."""
        if items <= 0:
            return
        kernel = self._kernels.get(operation.name) or self._prepare(operation)
        share = max(grain, -(-items // (ITEMS_A_UNIT * self._device.info.compute_units)))
        if not self._cpu:
            share = 1
        located = (part for at in arrays for part in at)
        # Groups of one on CPUs: another size would be another compilation, and tails a third.
        group = (1,) if self._cpu else None
        work = GRAIN_TIME * items / grain
        kernel((-(-items // share),), group, *located, *numbers, items, share, work=work)

    def _prepare(self, operation: Operation) -> Kernel:
        """Build an operation's kernel, and run it over nothing: many devices compile only then."""
        device = self._device
        text = source("common.cl", operation.source)
        with device.building([text, operation.name]):
            program = self._programs.get(operation.source)
            if program is None:
                program = self._programs[operation.source] = device.build(text, {})
            at = (None, np.uint64) * operation.arrays
            types = (*at, *operation.numbers, np.uint64, np.int32)
            kernel = device.kernel(program, operation.name, types)
            nowhere = [part for _ in range(operation.arrays) for part in (device.buffer(4), 0)]
            numbers = [1 for _ in operation.numbers]
            with device.unrecorded(), device.on_each_queue() as rounds:
                for _ in rounds:
                    group = (1,) if self._cpu else None
                    kernel((1,), group, *nowhere, *numbers, 0, 1, work=0.0)
        self._kernels[operation.name] = kernel
        return kernel
