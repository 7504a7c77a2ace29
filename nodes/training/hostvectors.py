"""The weights that a step is given and the gradient that it gives, between host and device."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from kernels.engine import Array, Engine, Mirror
from nodes.errors import ModelError
from nodes.models import Model
from nodes.models.network import Parameters

Floats = npt.NDArray[np.float32]

MOST_MIRRORS = 64
"""Of as many host arrays; further ones are copied."""


class _Mirrored(Parameters):
    """Parameters in a host array's mirror."""

    def __init__(self, model: Model, mirror: Mirror) -> None:
        super().__init__(model, mirror.array)
        self.mirror = mirror


class HostVectors:
    """Host arrays of a model's size as a device sees them.

    Where the device computes in the host's memory, arrays that come again and again are mirrored; else
    they are copied to and from one vector for weights and one for gradients.
    """

    def __init__(self, engine: Engine, model: Model) -> None:
        self._engine = engine
        self._model = model
        self._mirrors: dict[tuple[int, bool], _Mirrored] = {}
        self._own: dict[Literal["weights", "gradient"], Parameters] = {}
        self._weights: Parameters | None = None

    def __repr__(self) -> str:
        return f"<HostVectors of {self._model!r}: {len(self._mirrors)} mirrored>"

    def given(self, weights: Floats | None) -> Parameters:
        """Return the weights to compute with: those given, or without any those of the call before.

        Given ones stay as they are until others are given.
        """
        if weights is not None:
            self._weights = self._mirrored(weights, written=False)
            if self._weights is None:
                self._weights = self._vector("weights")
                self._engine.upload(self._weights.flat, weights)
        elif self._weights is None:
            raise ModelError("no weights on the device yet: the first call must bring them")
        if isinstance(self._weights, _Mirrored):
            self._weights.mirror.to_device()
        return self._weights

    def result(self, out: Floats) -> Parameters:
        """Return where the device is to write what `hand_over` brings to ``out``."""
        result = self._mirrored(out, written=True)
        if result is None:
            return self._vector("gradient")
        result.mirror.to_device()
        return result

    def hand_over(self, result: Parameters, out: Floats, what: Array | None = None) -> None:
        """Let the host find in ``out``, after the next wait, the result, or ``what`` instead."""
        if isinstance(result, _Mirrored):
            result.mirror.to_host()
        if what is not None or not isinstance(result, _Mirrored):
            self._engine.download(result.flat if what is None else what, out)

    def rest(self) -> None:
        """Give weights in the host's memory back to the host, before the wait that ends a step."""
        if isinstance(self._weights, _Mirrored):
            self._weights.mirror.to_host()

    def for_building(self) -> tuple[Parameters, Parameters]:
        """Return weights and a gradient that no step uses, as the steps' kernels will see theirs."""
        if not self._engine.mirrors:
            return self._vector("weights"), self._vector("gradient")
        hosts = [np.empty(self._model.size, np.float32) for _ in range(2)]
        one, other = (_Mirrored(self._model, self._engine.mirror(host)) for host in hosts)
        return one, other

    def _vector(self, name: Literal["weights", "gradient"]) -> Parameters:
        found = self._own.get(name)
        if found is None:
            flat = self._engine.empty((self._model.size,))
            found = self._own[name] = Parameters(self._model, flat)
        return found

    def _mirrored(self, host: Floats, *, written: bool) -> _Mirrored | None:
        """Return the mirror of a host array, made when it is first seen; None to have it copied."""
        if host.shape != (self._model.size,):
            raise ModelError(f"{host.shape} numbers for a model of {self._model.size} parameters")
        key = (host.__array_interface__["data"][0], written)
        found = self._mirrors.get(key)
        if found is None and self._engine.mirrors and len(self._mirrors) < MOST_MIRRORS:
            mirror = self._engine.mirror(host, written=written)
            found = self._mirrors[key] = _Mirrored(self._model, mirror)
        return found
