"""The fused kernel of an update rule, over host memory that the device uses in place."""

from dataclasses import astuple

import numpy as np

from kernels.errors import KernelError
from kernels.interface import Engine
from kernels.opencl import OpenCLEngine
from kernels.program import building, define, source
from kernels.rule_twin import RULES, RuleSpec, Update, coefficients, state_count

SHARE = 16384
"""Elements of one work-item."""


class RuleKernel:
    """The fused kernel of one rule over buffers that use the host's memory."""

    def __init__(self, engine: Engine, spec: RuleSpec) -> None:
        if not isinstance(engine, OpenCLEngine):
            raise KernelError(f"{engine!r} is not an OpenCL engine")
        device = self._device = engine.device
        self._spec = spec
        self._buffers: list[object] = []
        codes = {f"RULE_{name.upper()}": code for code, name in enumerate(RULES)}
        values = {**codes, "RULE": RULES.index(spec.name), "STATES": state_count(spec.name)}
        text = define(values) + source("common.cl", "rules.cl")
        types = (*(None,) * 5, np.uint64, np.int32, *(np.float32,) * 10)
        with building(device.info, [text]):
            program = device.build(text, {})
            self._kernel = device.kernel(program, "apply_rule", types)
            tiny = np.zeros((4, 1), np.float32)
            state = tuple(tiny[2 : 2 + state_count(spec.name)])
            self.enqueue(Update(tiny[0], tiny[0], state, tiny[1], 1.0, 0.0, 1))
            device.finish()
            self.release()

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
        one, two = [*state, None, None][:2]
        scalars = astuple(coefficients(self._spec, update))
        grid = (-(-size // SHARE),)
        self._kernel(grid, (1,), weights, out, gradient, one, two, size, SHARE, *scalars)
        for buffer in (out, *state):
            device.hand_to_host(buffer, size)
        self._buffers += [weights, out, gradient, *state]

    def release(self) -> None:
        """Drop the buffers of updates that are finished."""
        self._buffers.clear()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(a.__array_interface__["data"][0] == b.__array_interface__["data"][0])
