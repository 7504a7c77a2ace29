"""Update rules: what they are, their coefficients, and their numpy twin.

Sources: momentum, Polyak 1964; nesterov, Sutskever et al. 2013 (in the form that PyTorch uses);
adagrad, Duchi et al. 2011; rmsprop, Tieleman and Hinton 2012; adam, Kingma and Ba 2015; adamw,
Loshchilov and Hutter 2019.
"""

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy import multiply, subtract

from kernels.errors import KernelError

CHUNK = 65536
"""Elements the twin works on at a time: its scratch and five arrays stay in a core's cache."""


@dataclass(frozen=True)
class RuleSpec:
    """A rule's name and constants; a rule ignores those it has no use for."""

    name: str
    """"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam" or "adamw"."""
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 0.99
    """rmsprop's share of the old mean square."""
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    """Times the weights, added to the gradient; in adamw decoupled from it."""

    def __post_init__(self) -> None:
        state_count(self.name)


@dataclass(slots=True)
class Update:
    """One update of a range of weights; host arrays, float32, contiguous, all of one size."""

    weights: np.ndarray
    out: np.ndarray
    """Where the new weights are written; may be `weights` itself."""
    state: tuple[np.ndarray, ...]
    """As many arrays as `state_count` says, updated in place; zeros before the first update."""
    gradient: np.ndarray
    scale: float
    """The gradient is multiplied by it first, e.g. 1 / examples."""
    rate: float
    step: int
    """Number of this update, from 1: adam's bias correction."""


class Coefficients(NamedTuple):
    """The scalars of one update, computed once in float64 and rounded once to float32."""

    scale: np.float32
    rate: np.float32
    keep: np.float32
    one: np.float32
    two: np.float32
    rest_one: np.float32
    rest_two: np.float32
    correction: np.float32
    epsilon: np.float32
    decay: np.float32


def coefficients(spec: RuleSpec, scale: float, rate: float, step: int) -> Coefficients:
    """Return an update's scalars; the kernel and the twin use the same ones."""
    one, two, times, correction = spec.momentum, 0.0, rate, 1.0
    if spec.name == "sgd" and spec.weight_decay == 0:
        scale, times = 1.0, scale * rate  # one product fewer for each element
    elif spec.name == "rmsprop":
        one = spec.decay
    elif spec.name in ("adam", "adamw"):
        one, two = spec.beta1, spec.beta2
        times = rate / (1 - one**step)
        correction = (1 - two**step) ** -0.5
    return Coefficients(
        scale=np.float32(scale),
        rate=np.float32(times),
        keep=np.float32(1 - rate * spec.weight_decay),
        one=np.float32(one),
        two=np.float32(two),
        rest_one=np.float32(1 - one),
        rest_two=np.float32(1 - two),
        correction=np.float32(correction),
        epsilon=np.float32(spec.epsilon),
        decay=np.float32(spec.weight_decay),
    )


class KnownCoefficients:
    """The coefficients of one rule, computed anew only where they change."""

    def __init__(self, spec: RuleSpec) -> None:
        self._spec = spec
        self._counts = spec.name in ("adam", "adamw")
        self._scale = self._rate = np.nan
        self._step = 0
        self._last = coefficients(spec, 1.0, 1.0, 1)

    def __call__(self, scale: float, rate: float, step: int) -> Coefficients:
        """Return an update's scalars, see `coefficients`."""
        if rate != self._rate or scale != self._scale or (self._counts and step != self._step):
            self._scale, self._rate, self._step = scale, rate, step
            self._last = coefficients(self._spec, scale, rate, step)
        return self._last


Chunk = tuple[np.ndarray, ...]
"""weights, out, g, scratch, then the state: what a step works on. `g` is the scaled gradient."""


def _sgd(c: Coefficients, w: np.ndarray, out: np.ndarray, g: np.ndarray, t: np.ndarray) -> None:
    multiply(g, c.rate, t)
    subtract(w, t, out)


def _momentum(
    c: Coefficients,
    w: np.ndarray,
    out: np.ndarray,
    g: np.ndarray,
    t: np.ndarray,
    velocity: np.ndarray,
) -> None:
    velocity *= c.one
    velocity += g
    multiply(velocity, c.rate, out=t)
    subtract(w, t, out=out)


def _nesterov(
    c: Coefficients,
    w: np.ndarray,
    out: np.ndarray,
    g: np.ndarray,
    t: np.ndarray,
    velocity: np.ndarray,
) -> None:
    velocity *= c.one
    velocity += g
    multiply(velocity, c.one, out=t)
    t += g
    t *= c.rate
    subtract(w, t, out=out)


def _adagrad(
    c: Coefficients, w: np.ndarray, out: np.ndarray, g: np.ndarray, t: np.ndarray, sums: np.ndarray
) -> None:
    multiply(g, g, out=t)
    sums += t
    _divided(c, w, out, g, t, sums)


def _rmsprop(
    c: Coefficients, w: np.ndarray, out: np.ndarray, g: np.ndarray, t: np.ndarray, mean: np.ndarray
) -> None:
    multiply(g, g, out=t)
    t *= c.rest_one
    mean *= c.one
    mean += t
    _divided(c, w, out, g, t, mean)


def _divided(
    c: Coefficients,
    w: np.ndarray,
    out: np.ndarray,
    g: np.ndarray,
    t: np.ndarray,
    squares: np.ndarray,
) -> None:
    np.sqrt(squares, out=t)
    t += c.epsilon
    g *= c.rate
    g /= t
    subtract(w, g, out=out)


def _adam(
    c: Coefficients,
    w: np.ndarray,
    out: np.ndarray,
    g: np.ndarray,
    t: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
) -> None:
    multiply(g, c.rest_one, out=t)
    mean *= c.one
    mean += t
    g *= g
    g *= c.rest_two
    square *= c.two
    square += g
    np.sqrt(square, out=t)
    t *= c.correction
    t += c.epsilon
    multiply(mean, c.rate, out=g)
    g /= t
    subtract(w, g, out=out)


_RULES: dict[str, tuple[int, Callable[..., None]]] = {
    "sgd": (0, _sgd),
    "momentum": (1, _momentum),
    "nesterov": (1, _nesterov),
    "adagrad": (1, _adagrad),
    "rmsprop": (1, _rmsprop),
    "adam": (2, _adam),
    "adamw": (2, _adam),
}
RULES = tuple(_RULES)
"""The names of all rules; a rule's position is its code in the kernels."""


def state_count(name: str) -> int:
    """Return how many state arrays, each as large as the weights, a rule keeps: 0, 1 or 2."""
    if name not in _RULES:
        raise KernelError(f"unknown update rule {name!r}: use one of {', '.join(RULES)}")
    return _RULES[name][0]


class RuleTwin:
    """A rule in numpy, a cache-sized chunk at a time, with scratch that is kept and reused.

    It belongs to one thread at a time.
    """

    def __init__(self, spec: RuleSpec) -> None:
        self._coefficients = KnownCoefficients(spec)
        self._run = _RULES[spec.name][1]
        self._decoupled = spec.name == "adamw"
        self._scaled = spec.name != "sgd" or spec.weight_decay != 0
        self._scratch = np.empty((3, CHUNK), np.float32)
        self._rows = tuple(self._scratch)
        # Overflow and invalid numbers are for the check of finiteness to judge, not for warnings. To
        # enter a context that says so is quicker than to say so each time.
        self._quiet = copy_context()
        self._quiet.run(np.seterr, all="ignore")
        self._here = self._apply

    def apply(self, update: Update) -> None:
        """Apply one update, already checked; bit-equal to the kernel by IEEE 754's rounding."""
        self._quiet.run(self._here, update)

    def _apply(self, update: Update) -> None:
        c = self._coefficients(update.scale, update.rate, update.step)
        weights = update.weights
        if not self._scaled and weights.size == self._rows[0].size and weights.ndim == 1:
            # Plain sgd on a slice as large as the last one: what it costs is mostly Python's.
            scratch = self._rows[0]
            multiply(update.gradient, c.rate, scratch)
            subtract(weights, scratch, update.out)
            return
        arrays = (update.weights, update.out, update.gradient, *update.state)
        if update.weights.ndim != 1:
            arrays = tuple(array.reshape(-1) for array in arrays)
        size = update.weights.size
        if size <= CHUNK:
            self._chunk(c, size, *arrays)
            return
        for start in range(0, size, CHUNK):
            stop = min(start + CHUNK, size)
            self._chunk(c, stop - start, *(array[start:stop] for array in arrays))

    def _chunk(
        self,
        c: Coefficients,
        size: int,
        w: np.ndarray,
        out: np.ndarray,
        gradient: np.ndarray,
        *state: np.ndarray,
    ) -> None:
        if self._rows[0].size != size:
            self._rows = tuple(self._scratch[:, :size])
        g, t, kept = self._rows
        if self._scaled:
            multiply(gradient, c.scale, g)
        else:
            g = gradient
        if self._decoupled:
            w = multiply(w, c.keep, kept)
        elif c.decay != 0:
            multiply(w, c.decay, t)
            g += t
        self._run(c, w, out, g, t, *state)
