"""Update rules: what they are, their coefficients, and their numpy twin.

Sources: momentum, Polyak 1964; nesterov, Sutskever et al. 2013 (in the form that PyTorch uses);
adagrad, Duchi et al. 2011; rmsprop, Tieleman and Hinton 2012; adam, Kingma and Ba 2015; adamw,
Loshchilov and Hutter 2019.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kernels.errors import KernelError

CHUNK = 16384
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


@dataclass
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
    if spec.name == "rmsprop":
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


Chunk = tuple[np.ndarray, ...]
"""weights, out, g, scratch, then the state: what a step works on. `g` is the scaled gradient."""


def _sgd(c: Coefficients, w: np.ndarray, out: np.ndarray, g: np.ndarray, t: np.ndarray) -> None:
    np.multiply(g, c.rate, out=t)
    np.subtract(w, t, out=out)


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
    np.multiply(velocity, c.rate, out=t)
    np.subtract(w, t, out=out)


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
    np.multiply(velocity, c.one, out=t)
    t += g
    t *= c.rate
    np.subtract(w, t, out=out)


def _adagrad(
    c: Coefficients, w: np.ndarray, out: np.ndarray, g: np.ndarray, t: np.ndarray, sums: np.ndarray
) -> None:
    np.multiply(g, g, out=t)
    sums += t
    _divided(c, w, out, g, t, sums)


def _rmsprop(
    c: Coefficients, w: np.ndarray, out: np.ndarray, g: np.ndarray, t: np.ndarray, mean: np.ndarray
) -> None:
    np.multiply(g, g, out=t)
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
    np.subtract(w, g, out=out)


def _adam(
    c: Coefficients,
    w: np.ndarray,
    out: np.ndarray,
    g: np.ndarray,
    t: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
) -> None:
    np.multiply(g, c.rest_one, out=t)
    mean *= c.one
    mean += t
    g *= g
    g *= c.rest_two
    square *= c.two
    square += g
    np.sqrt(square, out=t)
    t *= c.correction
    t += c.epsilon
    np.multiply(mean, c.rate, out=g)
    g /= t
    np.subtract(w, g, out=out)


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
    """A rule in numpy, a cache-sized chunk at a time, with scratch that is kept and reused."""

    def __init__(self, spec: RuleSpec) -> None:
        self._spec = spec
        self._scratch = np.empty((3, CHUNK), np.float32)

    def apply(self, update: Update) -> None:
        """Apply one update, already checked; bit-equal to the kernel by IEEE 754's rounding."""
        c = coefficients(self._spec, update.scale, update.rate, update.step)
        decoupled = self._spec.name == "adamw"
        run = _RULES[self._spec.name][1]
        arrays = (update.weights, update.out, update.gradient, *update.state)
        flat = [array.reshape(-1) for array in arrays]
        size = flat[0].size
        # Overflow and invalid numbers are for the check of finiteness to judge, not for warnings.
        with np.errstate(all="ignore"):
            for start in range(0, size, CHUNK):
                stop = min(start + CHUNK, size)
                parts = flat if size <= CHUNK else [array[start:stop] for array in flat]
                w, out, gradient, *state = parts
                g, t, kept = self._scratch[:, : stop - start]
                np.multiply(gradient, c.scale, out=g)
                if decoupled:
                    w = np.multiply(w, c.keep, out=kept)
                elif c.decay != 0:
                    np.multiply(w, c.decay, out=t)
                    g += t
                run(c, w, out, g, t, *state)
