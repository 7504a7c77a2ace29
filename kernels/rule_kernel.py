"""The fused kernel of an update rule on a device: over its own arrays, or over the host's memory."""

from collections.abc import Sequence

import numpy as np

from kernels.device.device import Located, OpenDevice, define, source
from kernels.device.discovery import DeviceInfo
from kernels.rule_twin import RULES, Coefficients, RuleSpec, Update, coefficients, state_count

SHARE = 16384
"""Elements of one work-item on CPUs."""

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
        types = (*(None, np.uint64) * 5, np.uint64, np.int32, *(np.float32,) * 10)
        with device.building([text]):
            self._kernel = device.kernel(device.build(text, {}), "apply_rule", types)
            self._warm()

    def _warm(self) -> None:
        """Run once: many devices compile at the first launch."""
        weights, gradient, one, two = (self._device.buffer(4) for _ in range(4))
        constants = Coefficients(*(np.float32(1),) * 10)
        state = [(one, 0), (two, 0)][: self._states]
        self.enqueue((weights, 0), (weights, 0), (gradient, 0), state, 1, constants)
        self._device.finish()

    def enqueue(
        self,
        weights: Located,
        out: Located,
        gradient: Located,
        state: Sequence[Located],
        size: int,
        constants: Coefficients,
    ) -> None:
        """Enqueue one update of `size` elements; `out` may be `weights`."""
        if size == 0:
            return
        one, two = [*state, _NOWHERE, _NOWHERE][:2]
        share = SHARE if self._cpu else 1
        self._kernel(
            (-(-size // share),),
            (1,) if self._cpu else None,
            *weights,
            *out,
            *gradient,
            *one,
            *two,
            size,
            share,
            *constants,
        )


class RuleKernel:
    """The fused kernel of one rule over buffers that use the host's memory."""

    def __init__(self, device: OpenDevice, spec: RuleSpec) -> None:
        self._device = device
        self._spec = spec
        self._program = RuleProgram(device, spec)
        self._buffers: list[object] = []

    def enqueue(self, update: Update) -> None:
        """Enqueue one update; its arrays belong to the device until `finish`."""
        size = update.weights.size
        if size == 0:
            return
        device = self._device
        in_place = _same(update.out, update.weights)
        weights = device.host_buffer(update.weights, written=in_place)
        out = weights if in_place else device.host_buffer(update.out)
        gradient = device.host_buffer(update.gradient, written=False)
        state = [device.host_buffer(array) for array in update.state]
        self._program.enqueue(
            (weights, 0),
            (out, 0),
            (gradient, 0),
            [(buffer, 0) for buffer in state],
            size,
            coefficients(self._spec, update.scale, update.rate, update.step),
        )
        for buffer in (out, *state):
            device.map_for_host(buffer, size)
        self._buffers += [weights, out, gradient, *state]

    def release(self) -> None:
        """Drop the buffers of updates that are finished."""
        self._buffers.clear()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.__array_interface__["data"][0] == b.__array_interface__["data"][0])
