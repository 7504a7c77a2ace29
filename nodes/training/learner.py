"""Training steps on one device: forward, loss, backward, and the update where it is local."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.engine import Array, Engine, Replay
from kernels.ops import losses, reductions, vectors
from kernels.rules import RuleSpec, state_count
from nodes.errors import ModelError
from nodes.models import Model
from nodes.models.network import Activations, Parameters
from nodes.training.hostvectors import HostVectors

Floats = npt.NDArray[np.float32]

FINITE = np.ones(1, np.int32)
"""Nothing was found yet that is not finite."""

MOST_REPLAYS = 256
"""Of as many steps and numbers of rows; beyond it all are made anew."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one minibatch, or of the minibatches of several local steps.

    ``loss_sum`` is summed over the examples, ``correct`` counts those whose largest output is the
    label's (0 in a regression), ``finite`` says whether loss and gradient, or what else is to be
    pushed (in an evaluation: the loss), are free of NaN and infinity.
    """

    loss_sum: float
    correct: int
    examples: int
    finite: bool


@dataclass(frozen=True, slots=True)
class Clip:
    """Bounds of a minibatch's mean gradient: of each element, and then of its L2 norm."""

    value: float | None = None
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Local:
    """How to train on the device between two exchanges, by ``rule``, ``period`` steps at most.

    What comes of it is the new weights (``average``), or else the difference, the weights pulled
    less the new ones: as it is, or times the examples where it is ``weighted``.
    """

    rule: RuleSpec
    period: int
    average: bool = False
    weighted: bool = False


class Learner:
    """Computes gradients of a model on an engine, into one flat vector like the cluster's table.

    It owns the device's buffers of one minibatch and its activations. It belongs
    to the engine's thread. A CPU device computes in the memory of the weights and of the gradient
    that it is given; other devices have a copy of each. A step's few other numbers, its minibatch
    among them, are in memory that both sides reach. Else there are ``max_batch`` rows of the
    input and of every layer's output, and room for what gradients on the way back do not share with
    them; local training adds the weights once more, and its rule's state.

    Args:
        engine: where to compute.
        model: what to compute.
        max_batch: the rows of a minibatch that there is room for at first; fewer take the same
            kernels, and one of more makes more room.
        clip: what bounds every gradient.
        local: how `local_steps` trains; they are not to be called without.
    """

    def __init__(
        self,
        engine: Engine,
        model: Model,
        max_batch: int,
        *,
        clip: Clip | None = None,
        local: Local | None = None,
    ) -> None:
        self._engine = engine
        self._model = model
        self._clip = clip if clip is not None else Clip()
        self._replays: dict[tuple[Any, ...], Replay] = {}
        self._host = HostVectors(engine, model)
        self._classifies = model.loss == "cross_entropy"
        self._make_room(max_batch)
        steps = 1
        if local is not None:
            steps = local.period
            self._trained = Parameters(model, engine.empty((model.size,)))
            self._rule = engine.rule(local.rule)
            states = range(state_count(local.rule.name))
            self._state = [engine.empty((model.size,)) for _ in states]
        self._local = local
        self._stats = engine.shared((2 * steps,))
        self._sums = reductions.workspace(engine, model.size)
        self._flag = engine.shared((1,), np.int32)
        self._build()

    def __repr__(self) -> str:
        return f"<Learner of {self._model!r} on {self._engine.info.name}, {self._max_batch} rows>"

    def gradient(
        self, weights: Floats | None, x: Floats, y: npt.NDArray[Any], out: Floats
    ) -> StepResult:
        """Compute the gradient of the loss, summed over the examples, into ``out`` [size].

        Waits once for the device. ``out`` is valid on return.

        Args:
            weights: float32 [size], or None for those of the call before; they stay as they are
                until others are given.
            x: float32 [rows, inputs], at most ``max_batch`` rows.
            y: int32 [rows] labels, or float32 [rows, targets].
            out: float32 [size].
        """
        self._flag.put(FINITE)
        rows, given = self._load(x, y), self._host.given(weights)
        gradient = self._host.result(out)

        def compute() -> None:
            self._enqueue_gradient(given, rows, 0, gradient)
            self._check(gradient.flat)

        self._replay(("gradient", rows, id(given), id(gradient)), compute)
        self._host.hand_over(gradient, out)
        return self._finish(rows, 1, pushed=True)

    def local_steps(
        self,
        weights: Floats | None,
        minibatches: Iterable[tuple[Floats, npt.NDArray[Any]]],
        rate: float,
        out: Floats,
    ) -> StepResult:
        """Train from ``weights`` by one local step for each minibatch; write what came of it.

        The rule's state begins at zero. Waits once for the device, after the last step, so a
        minibatch's arrays must stay as they are until then, or until `wait` was called.

        Args:
            weights: as in `gradient`.
            minibatches: x and y as in `gradient`, one pair at least and ``period`` at most.
            rate: the learning rate of all of these steps.
            out: float32 [size]: weights or a difference, as `Local` says.
        """
        local = self._local
        assert local is not None
        self._flag.put(FINITE)
        given, gradient = self._host.given(weights), self._host.result(out)
        for state in self._state:
            vectors.fill(self._engine, state, 0.0)
        current: Parameters = given
        examples = steps = 0
        for x, y in minibatches:
            if steps == local.period:
                raise ModelError(f"more minibatches than the {local.period} of a period")
            rows = self._load(x, y)
            self._local_gradient(current, rows, steps, gradient)
            examples += rows
            steps += 1
            self._rule(
                current.flat,
                self._trained.flat,
                gradient.flat,
                self._state,
                scale=1.0 / rows,
                rate=rate,
                step=steps,
            )
            current = self._trained
        if local.average:
            self._check(current.flat)
            self._host.hand_over(gradient, out, current.flat)
        else:
            factor = examples if local.weighted else 1.0
            start, new = given.flat, current.flat
            vectors.difference(self._engine, start, new, gradient.flat, factor=factor)
            self._check(gradient.flat)
            self._host.hand_over(gradient, out)
        return self._finish(examples, steps, pushed=True)

    def evaluate(self, weights: Floats | None, x: Floats, y: npt.NDArray[Any]) -> StepResult:
        """Compute loss and correct answers, forward only; arguments as in `gradient`."""
        rows, given = self._load(x, y), self._host.given(weights)

        def compute() -> None:
            x = _rows(self._input.array, rows)
            self._loss(self._activations.forward(x, given), 0)

        self._replay(("evaluate", rows, id(given)), compute)
        return self._finish(rows, 1, pushed=False)

    def load(self, weights: Floats) -> None:
        """Take weights for the calls that follow; they stay as they are until others are given."""
        self._host.given(weights)

    def wait(self) -> None:
        """Wait until the device has taken all that it was given."""
        self._engine.wait()

    def _build(self) -> None:
        """Have every kernel of a step built: no step under way is to wait for a compiler."""
        weights, gradient = self._host.for_building()
        with self._engine.recording():
            self._enqueue_gradient(weights, 1, 0, gradient)
            self._check(gradient.flat)
            if self._local is not None:
                vectors.fill(self._engine, self._state[0] if self._state else gradient.flat, 0.0)
                vectors.difference(self._engine, weights.flat, weights.flat, gradient.flat)

    def _local_gradient(
        self, weights: Parameters, rows: int, step: int, gradient: Parameters
    ) -> None:
        """Compute the gradient of a local step's minibatch on the device, clipped."""
        key = ("local", rows, step, id(weights), id(gradient))
        self._replay(key, lambda: self._enqueue_gradient(weights, rows, step, gradient))

    def _enqueue_gradient(
        self, weights: Parameters, rows: int, step: int, gradient: Parameters
    ) -> None:
        x = _rows(self._input.array, rows)
        self._loss(self._activations.forward(x, weights), step)
        self._activations.backward(x, weights, gradient)
        # The gradient is a sum over the rows, the bounds are those of its mean.
        if self._clip.value is not None:
            vectors.clip_value(self._engine, gradient.flat, self._clip.value * rows)
        if self._clip.norm is not None:
            limit = self._clip.norm * rows
            vectors.clip_norm(self._engine, gradient.flat, limit, self._sums)

    def _replay(self, key: tuple[Any, ...], compute: Callable[[], None]) -> None:
        """Do on the device what ``compute`` asks for, taken down the first time for all later ones."""
        replay = self._replays.get(key)
        if replay is None:
            with self._engine.recording() as replay:
                compute()
            if len(self._replays) >= MOST_REPLAYS:
                self._replays.clear()
            self._replays[key] = replay
        replay()

    def _check(self, result: Array) -> None:
        """Begin to see whether what is to be pushed is finite."""
        reductions.clear_unless_finite(self._engine, result, self._flag.array)

    def _load(self, x: Floats, y: npt.NDArray[Any]) -> int:
        rows = len(x)
        if not rows:
            raise ModelError("a minibatch without a row")
        if len(y) != rows:
            raise ModelError(f"{rows} rows of inputs with {len(y)} of targets")
        if rows > self._max_batch:
            self._engine.wait()  # for steps that still use the present room
            self._make_room(rows)
        self._input.put(x)
        self._target.put(y)
        return rows

    def _make_room(self, rows: int) -> None:
        """Make buffers for minibatches of so many rows."""
        engine, model = self._engine, self._model
        self._replays.clear()
        self._max_batch = 0  # nothing fits where one of these is refused
        self._input = engine.shared((rows, model.inputs))
        if self._classifies:
            self._target = engine.shared((rows,), np.int32)
        else:
            self._target = engine.shared((rows, model.outputs))
        self._rows = losses.workspace(engine, rows)
        self._activations = Activations(engine, model, rows, training=True)
        self._max_batch = rows

    def _loss(self, output: Array, step: int) -> None:
        """Compute a step's loss and its gradient by the last layer's output, which is linear."""
        engine, rows = self._engine, output.shape[0]
        target, stats = _rows(self._target.array, rows), self._stats.array.view(2 * step, (2,))
        delta = self._activations.delta(rows)
        if self._classifies:
            losses.softmax_cross_entropy(engine, output, target, delta, stats, self._rows)
        else:
            losses.mean_squared_error(engine, output, target, delta, stats, self._rows)

    def _finish(self, examples: int, steps: int, *, pushed: bool) -> StepResult:
        """Wait for the device; return the sums over the steps."""
        self._stats.bring()
        if pushed:
            self._flag.bring()
        self._host.rest()
        self._engine.wait()
        host = self._stats.host[: 2 * steps]
        loss = sum(map(float, host[::2]))
        finite = bool(np.isfinite(loss)) and (not pushed or bool(self._flag.host[0]))
        correct = int(sum(host[1::2])) if self._classifies else 0
        return StepResult(loss_sum=loss, correct=correct, examples=examples, finite=finite)


def _rows(array: Array, rows: int) -> Array:
    return array.view(0, (rows, *array.shape[1:]))
