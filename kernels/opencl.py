"""The OpenCL engine: arrays as (buffer, offset), operations enqueued in one in-order queue."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from kernels.checks import (
    check_convolution,
    check_matmul,
    check_mirror,
    check_pair,
    check_rule,
    check_view,
)
from kernels.convolution import Convolution, Layer
from kernels.device.device import Located, OpenDevice
from kernels.device.discovery import DeviceInfo
from kernels.device.kernel import Replay
from kernels.device.memory import host_bytes
from kernels.device.thread_affinity import POCL
from kernels.device.trial import Tell
from kernels.errors import KernelError
from kernels.gemm import Gemm
from kernels.interface import Array, DeviceRule, Form, Mirror
from kernels.mirror import SharedArray, SharedMirror
from kernels.operation import Operation
from kernels.operations import Operations
from kernels.rule_kernel import RuleProgram
from kernels.rule_twin import RuleSpec, coefficients, state_count
from kernels.tuning import Found, prepare, tune
from kernels.windows import Window


class DeviceArray:
    """A contiguous array in a device's memory: a buffer, and an offset into it in elements.

    Views share the buffer. Sub-buffers would need the device's alignment; an offset does not.
    """

    __slots__ = ("buffer", "dtype", "offset", "owner", "shape", "size")

    def __init__(
        self,
        owner: "OpenCLEngine",
        buffer: Any,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.owner = owner
        self.buffer = buffer
        self.offset = offset
        self.shape = shape
        self.dtype = dtype
        self.size = math.prod(shape)

    def view(self, offset: int, shape: tuple[int, ...]) -> "DeviceArray":
        """Return a contiguous view that starts `offset` elements in and shares the memory."""
        check_view(self.size, offset, shape)
        return DeviceArray(self.owner, self.buffer, self.offset + offset, shape, self.dtype)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)} on {self.owner.info.name})"


class OpenCLEngine:
    """Operations on one OpenCL device; see `Engine` for what each does.

    Everything is enqueued in order; only `wait` waits. The engine belongs to one thread at a time:
    kernel objects keep their arguments, so two threads would mix them.
    """

    def __init__(
        self,
        info: DeviceInfo,
        memory: float | None = None,
        *,
        search: bool = False,
        tell: Tell = lambda _: None,
    ) -> None:
        """Open a device, which gives no more than `memory`: see `OpenDevice`."""
        self.info = info
        self.waits = 0
        self.device = OpenDevice(info, memory, tell)
        self._operations = Operations(self.device)
        self._gemm = Gemm(self.device)
        prepare(self.device, self._gemm, first_use=search)
        self._convolution: Convolution | None = None
        self.mirrors = info.type == "cpu"

    def _at(self, array: Array) -> Located:
        if not isinstance(array, DeviceArray) or array.owner is not self:
            raise KernelError(f"{array!r} does not belong to this engine on {self.info.name}")
        return array.buffer, array.offset

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Array:
        """Return an uninitialised array in the device's memory."""
        of = np.dtype(dtype)
        buffer = self.device.buffer(math.prod(shape) * of.itemsize)
        return DeviceArray(self, buffer, 0, tuple(shape), of)

    def mirror(self, host: np.ndarray, *, written: bool = True) -> Mirror:
        """Return a mirror of a host array; see `Engine.mirror`."""
        check_mirror(host, written=written)
        if not self.mirrors:
            raise KernelError(f"{self.info.name} does not compute in the host's memory")
        buffer = self.device.host_buffer(host, written=written)
        array = DeviceArray(self, buffer, 0, host.shape, host.dtype)
        return SharedMirror(self.device, buffer, array, written=written)

    def shared(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> SharedArray:
        """Return an uninitialised array that both sides reach; see `Engine.shared`."""
        of, device = np.dtype(dtype), self.device
        nbytes = math.prod(shape) * of.itemsize
        if one := self.mirrors and self.info.platform == POCL:
            buffer, raw = device.shared_buffer(nbytes)
        else:
            buffer, raw = device.buffer(nbytes), host_bytes(self.info, nbytes)
        host = raw[:nbytes].view(of).reshape(shape)
        array = DeviceArray(self, buffer, 0, tuple(shape), of)
        return SharedArray(device, buffer, array, host, one=one)

    def upload(self, target: Array, host: np.ndarray) -> None:
        """Enqueue a copy to the device; `host` must stay unchanged until the next `wait`."""
        check_pair(target, host)
        buffer, offset = self._at(target)
        if host.size:
            self.device.copy_in(buffer, offset * host.itemsize, host)

    def download(self, source: Array, host: np.ndarray) -> None:
        """Enqueue a copy to `host`, which is valid after the next `wait`."""
        check_pair(source, host)
        buffer, offset = self._at(source)
        if host.size:
            self.device.copy_out(buffer, offset * host.itemsize, host)

    def wait(self) -> None:
        """Finish everything enqueued, counted in `waits`."""
        self.waits += 1
        self.device.finish()

    def recording(self) -> AbstractContextManager[Replay]:
        """Return a context whose operations are taken down; see `Engine.recording`."""
        return self.device.recording()

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
        """Enqueue a product with its epilogue.

        A row's result depends on neither the number of rows nor the cut into tiles.
        """
        others = (residual, column_sums)
        m, n, k = check_matmul(a, b, out, form, bias, activation, derivative, *others)
        name, y = derivative or ("identity", None)
        self._gemm(
            self._at(a),
            self._at(b),
            self._at(out),
            form=form,
            m=m,
            n=n,
            k=k,
            bias=None if bias is None else self._at(bias),
            activation=activation,
            derivative=name,
            y=None if y is None else self._at(y),
            residual=None if residual is None else self._at(residual),
            scale=scale,
            column_sums=None if column_sums is None else self._at(column_sums),
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
        """Enqueue a convolution; see `Engine.convolve`."""
        others = () if bias is None else ((bias, weights.shape[:1]),)
        check_convolution(x, weights, out, window, *others)
        by = None if bias is None else self._at(bias)
        arrays = (self._at(x), self._at(weights), self._at(out))
        self._convolutions().forward(_layer(x, weights, window), *arrays, by, activation)

    def convolve_input(
        self,
        delta: Array,
        weights: Array,
        out: Array,
        window: Window,
        *,
        derivative: tuple[str, Array] | None = None,
    ) -> None:
        """Enqueue a convolution's gradient by its input; see `Engine.convolve_input`."""
        others = () if derivative is None else ((derivative[1], out.shape),)
        check_convolution(out, weights, delta, window, *others)
        name, y = derivative or ("identity", None)
        arrays = (self._at(delta), self._at(weights), self._at(out))
        of = None if y is None else self._at(y)
        self._convolutions().input(_layer(out, weights, window), *arrays, of, name)

    def convolve_weights(
        self,
        x: Array,
        delta: Array,
        out: Array,
        window: Window,
        *,
        filter_sums: Array | None = None,
    ) -> None:
        """Enqueue a convolution's gradient by its weights; see `Engine.convolve_weights`."""
        others = () if filter_sums is None else ((filter_sums, out.shape[:1]),)
        check_convolution(x, out, delta, window, *others)
        sums = None if filter_sums is None else self._at(filter_sums)
        arrays = (self._at(x), self._at(delta), self._at(out))
        self._convolutions().weights(_layer(x, out, window), *arrays, sums)

    def _convolutions(self) -> Convolution:
        """Return the kernels of convolutions, built when the first is asked for."""
        if self._convolution is None:
            self._convolution = Convolution(self.device)
        return self._convolution

    def run(
        self,
        operation: Operation,
        arrays: Sequence[Array | None],
        numbers: Sequence[float] = (),
        *,
        items: int,
        grain: int = 1,
    ) -> None:
        """Enqueue an operation over so many items; see `Engine.run`."""
        at = [(None, 0) if array is None else self._at(array) for array in arrays]
        self._operations.run(operation, at, numbers, items, grain)

    def rule(self, spec: RuleSpec) -> DeviceRule:
        """Return an update rule over arrays of this engine, its kernel built and warm."""
        program = RuleProgram(self.device, spec)
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
            self.device.only_now()
            size = check_rule(spec.name, states, weights, out, gradient, state)
            program.enqueue(
                self._at(weights),
                self._at(out),
                self._at(gradient),
                [self._at(array) for array in state],
                size,
                coefficients(spec, scale, rate, step),
            )

        return apply

    def tune(self) -> Iterator[Found]:
        """Yield what a long search finds for each class of products, then keep it on disk.

        It takes `kernels.tuning.LONG` seconds at most. Raises OSError, DeviceError.
        """
        return tune(self.device, self._gemm)

    def close(self) -> None:
        """Finish, and release the queue and the context."""
        self.device.close()


def _layer(x: Array, weights: Array, window: Window) -> Layer:
    batch, channels, h, w = x.shape
    return Layer(batch, channels, (h, w), weights.shape[0], window)
