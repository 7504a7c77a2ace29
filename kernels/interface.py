"""What an engine offers, whichever device stands behind it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np

from kernels.device.discovery import DeviceInfo
from kernels.operation import Operation
from kernels.rule_twin import RuleSpec
from kernels.windows import Window

Form = Literal["nn", "tn", "nt"]


class Array(Protocol):
    """A contiguous, C-ordered array in a device's memory, or a view into one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each dimension."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    @property
    def size(self) -> int:
        """Number of elements."""

    def view(self, offset: int, shape: tuple[int, ...]) -> "Array":
        """Return a contiguous view that starts `offset` elements in and shares the memory."""


class DeviceRule(Protocol):
    """An update rule over an engine's own arrays."""

    def __call__(
        self,
        weights: Array,
        out: Array,
        gradient: Array,
        state: Sequence[Array],
        *,
        scale: float,
        rate: float,
        step: int,
    ) -> None:
        """Enqueue one update of `weights` into `out`, which may be `weights` itself.

        `state` is as many arrays as the rule keeps, zeros before the first update; the gradient is
        multiplied by `scale`; `step` is the number of the update, from 1.
        """


class Replay(Protocol):
    """Operations taken down once, in their order."""

    def __call__(self) -> None:
        """Enqueue all of them again, over the same arrays."""


class Mirror(Protocol):
    """A host array in whose memory a device computes, without a copy.

    It is the host's at first. Between `to_device` and the `wait` after `to_host` it is the device's:
    the host writes nothing to it, and what it reads may be old.
    """

    @property
    def array(self) -> Array:
        """What the engine computes with."""

    def to_device(self) -> None:
        """Let what is enqueued next see what the host wrote."""

    def to_host(self) -> None:
        """Let the host see, after the next `wait`, what was enqueued until now."""


class Shared(Protocol):
    """An array that host and device both reach.

    It is in one memory where that saves a copy, else each has its own.
    """

    @property
    def host(self) -> np.ndarray:
        """What the host sees: valid after a `bring` and the next `wait`, until something is put or
        enqueued that writes it."""

    @property
    def array(self) -> Array:
        """What the engine computes with."""

    def put(self, values: np.ndarray) -> None:
        """Let what is enqueued next see values[n,...] as the first n.

        They must stay unchanged until the next `wait`.
        """

    def bring(self) -> None:
        """Let the host see, after the next `wait`, what was enqueued until now."""


class RuleHost(Protocol):
    """What update rules over host memory need: a device, and the wait for it."""

    info: DeviceInfo

    def wait(self) -> None:
        """Finish everything enqueued."""

    def close(self) -> None:
        """Finish, and release the device."""


class Engine(Protocol):
    """Operations on one device, enqueued in order; only `wait` waits.

    An engine belongs to one thread at a time, since kernel objects are not thread-safe. Threads
    that compute side by side open an engine each. Arrays of different engines do not mix.
    """

    info: DeviceInfo
    waits: int
    """Number of times the host has waited for the device."""
    mirrors: bool
    """Whether it computes in the host's memory where it is asked to: see `mirror`."""

    def recording(self) -> AbstractContextManager[Replay]:
        """Return a context in which operations are taken down instead of enqueued.

        What it gives enqueues all of them at each call, at a fraction of the host's time. Copies,
        waits and update rules (whose rates change) do not go in.

        Raises:
            KernelError: a recording goes on already; in the context, what does not go in.
        """

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Array:
        """Return an uninitialised array of the device."""

    def mirror(self, host: np.ndarray, *, written: bool = True) -> Mirror:
        """Return a mirror of a contiguous float32 array, which it keeps alive.

        Without ``written`` the device does not write to it, and the host's may be read-only.

        Raises:
            KernelError: the engine has no mirrors, or the array is none that can be mirrored.
        """

    def shared(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Shared:
        """Return an uninitialised array that both sides reach, for what is exchanged each step.

        Nothing is put or brought while a recording goes on. Raises as `empty` does.
        """

    def upload(self, target: Array, host: np.ndarray) -> None:
        """Enqueue a copy to the device; `host` must stay unchanged until the next `wait`."""

    def download(self, source: Array, host: np.ndarray) -> None:
        """Enqueue a copy to `host`, which is valid after the next `wait`."""

    def wait(self) -> None:
        """Finish everything enqueued, counted in `waits`."""

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
        """Multiply matrices: `out[M,N] = epilogue(op(a) op(b))`.

        Forms: "nn" takes a[M,K], b[K,N]; "tn" a[K,M], b[K,N] (a weight's gradient, x^T delta);
        "nt" a[M,K], b[N,K] (an input's gradient, delta W^T). The epilogue multiplies by `scale`, adds
        `bias[N]` and `residual[M,N]`, applies `activation`, then multiplies by the derivative of the
        named activation, taken from that activation's output y[M,N] in `derivative = (name, y)`.

        Into `column_sums[N]`, which no product with a bias has, go the sums of op(b)[K,N] over K, from
        first to last: in "tn" the gradient of the bias beside the weight's. `out` and `column_sums`
        overlap no other array.
        """

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
        """Convolve planes: `out[B,F,OH,OW] = activation(weights * x + bias[F])`.

        `x[B,C,H,W]`, `weights[F,C,*window.size]`; as is usual in this field the window is not turned
        round (LeCun et al. 1998). `out` overlaps no other array.
        """

    def convolve_input(
        self,
        delta: Array,
        weights: Array,
        out: Array,
        window: Window,
        *,
        derivative: tuple[str, Array] | None = None,
    ) -> None:
        """Compute a convolution's gradient by its input into out[B,C,H,W], from delta[B,F,OH,OW].

        It is multiplied by the derivative of the named activation, taken from that activation's
        output y[B,C,H,W] in `derivative = (name, y)`. `out` overlaps no other array.
        """

    def convolve_weights(
        self,
        x: Array,
        delta: Array,
        out: Array,
        window: Window,
        *,
        filter_sums: Array | None = None,
    ) -> None:
        """Compute a convolution's gradient by its weights into out[F,C,*window.size].

        From x[B,C,H,W] and delta[B,F,OH,OW], summed over the minibatch in an order that depends on
        the shapes alone. Into `filter_sums[F]` go delta's sums over images and places: the gradient of
        the bias. An x that is not finite may give NaN also where no window sees it.
        """

    def run(
        self,
        operation: Operation,
        arrays: Sequence[Array | None],
        numbers: Sequence[float] = (),
        *,
        items: int,
        grain: int = 1,
    ) -> None:
        """Run an operation over so many items; the functions of `kernels.ops` call this.

        Args:
            operation: what to do. Its kernel is built when it is first asked for (slow).
            arrays: its arrays; None for one that it will not touch.
            numbers: its numbers.
            items: how many items there are; 0 does nothing.
            grain: the items that are worth a work-item on a CPU.
        """

    def rule(self, spec: RuleSpec) -> DeviceRule:
        """Return an update rule over arrays of this engine, its kernel built and warm."""

    def close(self) -> None:
        """Finish and release what the engine holds; a closed engine is not used again."""
