"""The fused kernel of an update rule on a device: over its own arrays, or over the host's memory."""

from collections.abc import Sequence

import numpy as np
from pyopencl import cltypes

from kernels.device.device import Located, OpenDevice, define, source
from kernels.device.discovery import DeviceInfo
from kernels.rule_twin import (
    RULES,
    Coefficients,
    KnownCoefficients,
    RuleSpec,
    Update,
    state_count,
)

SHARE = 16384
"""Elements of one work-item on CPUs."""

LARGE = 1 << 30
MOVING = 0.025
"""Nanoseconds that a core needs to move a byte."""
ALONE = 3
"""An update is waited for: that costs as much as so many kernels do between others."""

_NOWHERE: Located = (None, 0)


class RuleDevice:
    """A device that is open for update rules alone; like an engine, for one thread at a time."""

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.device = OpenDevice(info)

    def __repr__(self) -> str:
        return f"<RuleDevice {self.info}>"

    def wait(self) -> None:
        """Finish everything enqueued."""
        self.device.finish()

    def close(self) -> None:
        """Finish, and release the queue and the context."""
        self.device.close()


class RuleProgram:
    """The kernel of one rule on one device."""

    def __init__(self, device: OpenDevice, spec: RuleSpec) -> None:
        self._device = device
        self._cpu = device.info.type == "cpu"
        self._states = state_count(spec.name)
        codes = {f"RULE_{name.upper()}": code for code, name in enumerate(RULES)}
        values = {**codes, "RULE": RULES.index(spec.name), "STATES": self._states}
        text = define(values) + source("common.cl", "rules.cl")
        types = (*(None,) * 5, cltypes.ulong8, cltypes.float16)
        self._bytes = 4 * (3 + 2 * self._states)
        with device.building([text]):
            self._kernel = device.kernel(device.build(text, {}), "apply_rule", types)
            self._warm()

    def _warm(self) -> None:
        """Run once: many devices compile at the first launch."""
        weights, gradient, one, two = (self._device.buffer(4) for _ in range(4))
        constants = Coefficients(*(np.float32(1),) * 10)
        state = [(one, 0), (two, 0)][: self._states]
        for size in (1, LARGE):  # on each of the device's queues
            self.enqueue(
                (weights, 0), (weights, 0), (gradient, 0), state, min(size, 1), constants, size
            )
            self._device.finish()

    def enqueue(
        self,
        weights: Located,
        out: Located,
        gradient: Located,
        state: Sequence[Located],
        size: int,
        constants: Coefficients,
        weight: int | None = None,
    ) -> None:
        """Enqueue one update of `size` elements; `out` may be `weights`.

        ``weight`` is the size by which it is judged where to compute it, its own unless given.
        """
        if size == 0:
            return
        share = SHARE if self._cpu else 1
        arrays = (weights, out, gradient, *state, *(_NOWHERE,) * (2 - self._states))
        numbers = np.array((*(offset for _, offset in arrays), size, share, 0), np.uint64)
        # What it costs to launch a kernel grows with the number of its arguments.
        floats = np.zeros(16, np.float32)
        floats[: len(constants)] = constants
        self._kernel(
            (-(-size // share),),
            (1,) if self._cpu else None,
            *(buffer for buffer, _ in arrays),
            numbers,
            floats,
            work=MOVING * self._bytes * (size if weight is None else weight),
            kernels=ALONE,
        )


class RuleKernel:
    """The fused kernel of one rule over buffers that use the host's memory."""

    def __init__(self, device: OpenDevice, spec: RuleSpec) -> None:
        self._device = device
        self._coefficients = KnownCoefficients(spec)
        self._program = RuleProgram(device, spec)
        self._buffers: list[object] = []

    def enqueue(self, update: Update) -> None:
        """Enqueue one update; its arrays belong to the device until `finish`."""
        size = update.weights.size
        if size == 0:
            return
        device = self._device
        in_place = update.out is update.weights or _same(update.out, update.weights)
        weights = device.host_buffer(update.weights, written=in_place, kept=True)
        out = weights if in_place else device.host_buffer(update.out, kept=True)
        gradient = device.host_buffer(update.gradient, written=False, kept=True)
        state = [device.host_buffer(array, kept=True) for array in update.state]
        self._program.enqueue(
            (weights, 0),
            (out, 0),
            (gradient, 0),
            [(buffer, 0) for buffer in state],
            size,
            self._coefficients(update.scale, update.rate, update.step),
        )
        for buffer in (out, *state):
            device.map_for_host(buffer, size)
        self._buffers += [weights, out, gradient, *state]

    def release(self) -> None:
        """Drop the buffers of updates that are finished."""
        self._buffers.clear()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.__array_interface__["data"][0] == b.__array_interface__["data"][0])
