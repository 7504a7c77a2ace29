"""Apply update rules to the server's shards, whose arrays lie in host memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kernels.errors import KernelError
from kernels.interface import RuleHost
from kernels.rule_twin import RULES, RuleSpec, RuleTwin, Update, state_count

if TYPE_CHECKING:
    from kernels.rule_kernel import RuleKernel

__all__ = ["RULES", "RuleRunner", "RuleSpec", "Update", "state_count"]

_FLOAT32 = np.dtype(np.float32)

TWIN_BELOW = (98304, 40960, 8192)
"""Elements in all below which numpy is quicker than a launch and a wait, for rules of no state, of one
array of it and of two (`scripts/bench rules` prints both sides)."""


class RuleRunner:
    """Apply one rule to host arrays, in one fused pass an update and one wait a call.

    On CPU devices the kernel works on the host's memory in place. Small calls run the numpy twin,
    if and only if a self-test here found it bit-equal to the kernel on this device; so a run has
    one implementation as far as any bit can tell. On GPUs and with the numpy engine the twin does
    everything, because the weights live on the host and a trip over the bus costs more than the
    rule. Like its engine, a runner belongs to one thread at a time.
    """

    def __init__(self, engine: RuleHost, spec: RuleSpec) -> None:
        """Prepare a rule on an engine, or on what `open_rules` returned."""
        self.spec = spec
        self._engine = engine
        self._twin = RuleTwin(spec)
        self._states = state_count(spec.name)
        self._kernel: RuleKernel | None = None
        self.twin_is_equal = True
        """Whether the twin proved bit-equal on this device (always where it does everything)."""
        if engine.info.type == "cpu":
            # Imported here, so that hosts without pyopencl can run the twin.
            from kernels import opencl, rule_kernel

            if not isinstance(engine, opencl.OpenCLEngine | rule_kernel.RuleDevice):
                raise KernelError(f"{engine!r} is not open on an OpenCL device")
            self._kernel = rule_kernel.RuleKernel(engine.device, spec)
            self.twin_is_equal = self._self_test(self._kernel)

    def apply(self, updates: Sequence[Update]) -> None:
        """Apply updates and return when all are done; they must not overlap each other.

        Raises KernelError where arrays do not fit each other or the rule, before any is touched.
        """
        total = 0
        for update in updates:
            weights, gradient = update.weights, update.gradient
            size = weights.size
            if (  # what is no plain sgd in place, or looks odd, is looked at more closely
                update.out is not weights
                or self._states
                or gradient.size != size
                or weights.dtype is not _FLOAT32
                or gradient.dtype is not _FLOAT32
                or not weights.flags.c_contiguous
                or not gradient.flags.c_contiguous
                or update.state
                or update.step < 1
            ):
                _check(self.spec, self._states, update)
            total += size
        if self._kernel is None or (total < TWIN_BELOW[self._states] and self.twin_is_equal):
            for update in updates:
                self._twin.apply(update)
            return
        try:
            for update in updates:
                self._kernel.enqueue(update)
        finally:
            try:
                self._engine.wait()  # also for those before one that was refused
            finally:
                self._kernel.release()

    def _self_test(self, kernel: "RuleKernel") -> bool:
        """Compare three updates bit for bit on random numbers over all magnitudes and odd tails."""
        source_of_bits = np.random.default_rng(7)
        size = 4096 + 13

        def numbers() -> np.ndarray:
            spread = 10.0 ** source_of_bits.uniform(-42, 8, size)
            plain = source_of_bits.standard_normal(size)
            return np.where(np.arange(size) % 4 == 0, plain * spread, plain).astype(np.float32)

        count = state_count(self.spec.name)
        weights, equal = numbers(), True
        ours = (weights.copy(), *(np.zeros(size, np.float32) for _ in range(count)))
        theirs = (weights.copy(), *(np.zeros(size, np.float32) for _ in range(count)))
        for step in (1, 2, 3):
            gradient = numbers()
            for arrays, apply in ((ours, kernel.enqueue), (theirs, self._twin.apply)):
                apply(Update(arrays[0], arrays[0], arrays[1:], gradient, 1 / 96, 0.01, step))
            self._engine.wait()
            kernel.release()
            for a, b in zip(ours, theirs, strict=True):
                # A NaN may carry any payload.
                same = (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))
                equal = equal and bool(same.all())
        return equal


def _check(spec: RuleSpec, states: int, update: Update) -> None:
    weights, gradient, out = update.weights, update.gradient, update.out
    size = weights.size
    if len(update.state) != states:
        raise KernelError(f"rule {spec.name} keeps {states} state arrays, got {len(update.state)}")
    if not _fits(weights, size) or not _fits(gradient, size):
        raise KernelError(_misfit(spec, size, weights, gradient))
    if out is not weights and not _fits(out, size):
        raise KernelError(_misfit(spec, size, out))
    for array in update.state:
        if not _fits(array, size):
            raise KernelError(_misfit(spec, size, array))
    if update.step < 1:
        raise KernelError(f"updates are numbered from 1, got {update.step}")


def _fits(array: np.ndarray, size: int) -> bool:
    return array.size == size and array.dtype == _FLOAT32 and array.flags.c_contiguous


def _misfit(spec: RuleSpec, size: int, *arrays: np.ndarray) -> str:
    wrong = next((array for array in arrays if not _fits(array, size)), arrays[0])
    return (
        f"rule {spec.name} takes contiguous float32 arrays of one size ({size}), "
        f"got {wrong.dtype}{list(wrong.shape)}"
    )
