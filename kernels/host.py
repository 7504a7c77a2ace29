"""The numpy engine: the reference twins behind the engine's interface."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from kernels import reference
from kernels.checks import (
    check_convolution,
    check_matmul,
    check_mirror,
    check_pair,
    check_put,
    check_rule,
    check_view,
)
from kernels.device.discovery import DeviceInfo
from kernels.errors import DeviceError, KernelError
from kernels.interface import Array, DeviceRule, Form
from kernels.operation import Operation
from kernels.rule_twin import RuleSpec, RuleTwin, Update, state_count
from kernels.windows import Window


class HostArray:
    """An array in host memory."""

    __slots__ = ("data", "dtype", "shape", "size")

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.shape: tuple[int, ...] = data.shape
        self.dtype: np.dtype[Any] = data.dtype
        self.size = data.size

    def view(self, offset: int, shape: tuple[int, ...]) -> "HostArray":
        """Return a contiguous view that starts `offset` elements in and shares the memory."""
        count = check_view(self.size, offset, shape)
        return HostArray(self.data.reshape(-1)[offset : offset + count].reshape(shape))

    def __repr__(self) -> str:
        return f"HostArray({self.dtype}{list(self.shape)})"


class HostMirror:
    """A host array and the same for this engine."""

    def __init__(self, array: HostArray) -> None:
        self.array = array

    def to_device(self) -> None:
        """Do nothing: the memory is the same."""

    def to_host(self) -> None:
        """Do nothing: the memory is the same."""


class HostShared:
    """An array of this engine and its memory."""

    def __init__(self, engine: "NumpyEngine", array: HostArray) -> None:
        self._engine = engine
        self.array = array
        self.host = array.data

    def put(self, values: np.ndarray) -> None:
        """Copy at once."""
        check_put(self.array, values)
        self._engine.only_now()
        self.host.reshape(-1)[: values.size] = values.reshape(-1)

    def bring(self) -> None:
        """Do nothing: the memory is the same."""
        self._engine.only_now()


class HostReplay:
    """Operations in their order, done again by each call."""

    def __init__(self) -> None:
        self.operations: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<HostReplay of {len(self.operations)} operations>"

    def __call__(self) -> None:
        """Do them all."""
        for operation in self.operations:
            operation()


def _data(array: Array) -> np.ndarray:
    if not isinstance(array, HostArray):
        raise KernelError(f"{array!r} belongs to another engine than numpy's")
    return array.data


class NumpyEngine:
    """Run every operation at once with numpy; `wait` only counts.

    Products are those of the BLAS that numpy was built with, which does not promise that a row's
    result is independent of the number of rows; the OpenCL engine does.
    """

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.waits = 0
        self.mirrors = True
        self._recorded: list[Callable[[], None]] | None = None

    @contextmanager
    def recording(self) -> Iterator[HostReplay]:
        """Take down what is asked for in the context; see `Engine.recording`."""
        if self._recorded is not None:
            raise KernelError("one recording at a time")
        replay = HostReplay()
        self._recorded = replay.operations
        try:
            yield replay
        finally:
            self._recorded = None

    def _do(self, operation: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Do an operation at once, or take it down."""
        if self._recorded is None:
            operation(*args, **kwargs)
        else:
            self._recorded.append(partial(operation, *args, **kwargs))

    def only_now(self) -> None:
        """Refuse what cannot be taken down, while a recording goes on."""
        if self._recorded is not None:
            raise KernelError(
                "copies, waits and rules cannot be recorded: do them around the replay"
            )

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> HostArray:
        """Return an uninitialised array in host memory."""
        try:
            return HostArray(np.empty(shape, dtype))
        except (MemoryError, ValueError) as error:
            raise DeviceError(
                f"device {self.info} is out of memory ({error}): use a smaller model or minibatch"
            ) from error

    def mirror(self, host: np.ndarray, *, written: bool = True) -> HostMirror:
        """Return an array over the same memory."""
        check_mirror(host, written=written)
        return HostMirror(HostArray(host))

    def shared(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> HostShared:
        """Return an array whose memory both sides see."""
        return HostShared(self, self.empty(shape, dtype))

    def upload(self, target: Array, host: np.ndarray) -> None:
        """Copy from `host` at once."""
        self.only_now()
        check_pair(target, host)
        _data(target).reshape(-1)[:] = host.reshape(-1)

    def download(self, source: Array, host: np.ndarray) -> None:
        """Copy to `host` at once."""
        self.only_now()
        check_pair(source, host)
        host[...] = _data(source).reshape(host.shape)

    def wait(self) -> None:
        """Count a wait; there is nothing to finish."""
        self.only_now()
        self.waits += 1

    def matmul(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        form: Form = "nn",
        bias: Array | None = None,
        activation: str = "identity",
        derivative: tuple[str, Array] | None = None,
        residual: Array | None = None,
        scale: float = 1.0,
        column_sums: Array | None = None,
    ) -> None:
        """Multiply matrices; see `Engine.matmul`."""
        check_matmul(a, b, out, form, bias, activation, derivative, residual, column_sums)
        self._do(
            reference.matmul,
            _data(a),
            _data(b),
            _data(out),
            form=form,
            bias=None if bias is None else _data(bias),
            activation=activation,
            derivative=None if derivative is None else (derivative[0], _data(derivative[1])),
            residual=None if residual is None else _data(residual),
            scale=scale,
            column_sums=None if column_sums is None else _data(column_sums),
        )

    def convolve(
        self,
        x: Array,
        weights: Array,
        out: Array,
        window: Window,
        *,
        bias: Array | None = None,
        activation: str = "identity",
    ) -> None:
        """Convolve planes; see `Engine.convolve`."""
        others = () if bias is None else ((bias, weights.shape[:1]),)
        check_convolution(x, weights, out, window, *others)
        by = None if bias is None else _data(bias)
        arrays = (_data(x), _data(weights), _data(out))
        self._do(reference.convolve, *arrays, window, bias=by, activation=activation)

    def convolve_input(
        self,
        delta: Array,
        weights: Array,
        out: Array,
        window: Window,
        *,
        derivative: tuple[str, Array] | None = None,
    ) -> None:
        """Compute the gradient by the input; see `Engine.convolve_input`."""
        others = () if derivative is None else ((derivative[1], out.shape),)
        check_convolution(out, weights, delta, window, *others)
        by = None if derivative is None else (derivative[0], _data(derivative[1]))
        arrays = (_data(delta), _data(weights), _data(out))
        self._do(reference.convolve_input, *arrays, window, derivative=by)

    def convolve_weights(
        self,
        x: Array,
        delta: Array,
        out: Array,
        window: Window,
        *,
        filter_sums: Array | None = None,
    ) -> None:
        """Compute the gradient by the weights; see `Engine.convolve_weights`."""
        others = () if filter_sums is None else ((filter_sums, out.shape[:1]),)
        check_convolution(x, out, delta, window, *others)
        sums = None if filter_sums is None else _data(filter_sums)
        arrays = (_data(x), _data(delta), _data(out))
        self._do(reference.convolve_weights, *arrays, window, filter_sums=sums)

    def run(
        self,
        operation: Operation,
        arrays: Sequence[Array | None],
        numbers: Sequence[float] = (),
        *,
        items: int,
        grain: int = 1,
    ) -> None:
        """Call an operation's twin; see `Engine.run`."""
        if items:
            data = [None if array is None else _data(array) for array in arrays]
            self._do(operation.twin, *data, *numbers)

    def rule(self, spec: RuleSpec) -> DeviceRule:
        """Return the twin of an update rule over arrays of this engine."""
        twin = RuleTwin(spec)
        states = state_count(spec.name)

        def apply(
            weights: Array,
            out: Array,
            gradient: Array,
            state: Sequence[Array],
            *,
            scale: float,
            rate: float,
            step: int,
        ) -> None:
            self.only_now()
            check_rule(spec.name, states, weights, out, gradient, state)
            arrays = tuple(_data(array) for array in state)
            of, to, by = _data(weights), _data(out), _data(gradient)
            twin.apply(Update(of, to, arrays, by, scale, rate, step))

        return apply

    def close(self) -> None:
        """Do nothing: numpy holds no device."""
