import numpy as np
import pytest
from exchange import get, normal, put
from gradients import assert_gradient

from kernels.engine import Array, Engine
from kernels.errors import KernelError
from kernels.ops.lstm import (
    LstmWeights,
    lstm_cell,
    lstm_cell_gradient,
    lstm_weight_gradients,
)
from tests.support.float64 import Float64Engine, plain

STEPS = 3
SHAPES = [(1, 1, 1), (3, 5, 7), (4, 20, 16), (33, 10, 35)]


class Sequence:
    """Three steps of a cell, batch B, inputs I, units H, from a state and by a gradient."""

    def __init__(self, engine: Engine, shape: tuple[int, int, int], spread: float = 1.0) -> None:
        batch, inputs, units = shape
        self.engine = engine
        self.weights = LstmWeights(
            put(engine, normal(1, inputs, 4 * units)),
            put(engine, normal(2, units, 4 * units)),
            put(engine, normal(3, 4 * units)),
        )
        self.x = put(engine, normal(4, STEPS * batch, inputs) * np.float32(spread))
        self.by = put(engine, normal(5, STEPS * batch, units))
        start = normal(6, STEPS + 1, batch, units)
        self.hidden, self.cell = put(engine, start), put(engine, start * np.float32(0.5))
        self.recurrent = engine.empty((batch, 4 * units))
        self.gates = engine.empty((STEPS * batch, 4 * units))
        self.by_gates = engine.empty((STEPS * batch, 4 * units))
        self.by_hidden, self.by_cell = engine.empty((batch, units)), engine.empty((batch, units))
        self.gradients = LstmWeights(
            *(engine.empty(array.shape) for array in vars(self.weights).values())
        )
        self.shape = shape

    def step(self, array: Array, step: int) -> Array:
        """Return a step's part of an array of all steps."""
        rows, columns = self.shape[0], array.shape[-1]
        return array.view(step * rows * columns, (rows, columns))

    def forward(self) -> None:
        for step in range(STEPS):
            lstm_cell(
                self.engine,
                self.weights,
                self.step(self.x, step),
                self.step(self.hidden, step),
                self.step(self.cell, step),
                self.recurrent,
                self.step(self.gates, step),
                self.step(self.cell, step + 1),
                self.step(self.hidden, step + 1),
            )

    def back(self) -> None:
        following = None
        for step in reversed(range(STEPS)):
            lstm_cell_gradient(
                self.engine,
                self.weights,
                self.step(self.by, step),
                following,
                self.step(self.gates, step),
                self.step(self.cell, step),
                self.step(self.cell, step + 1),
                self.step(self.by_gates, step),
                self.by_hidden,
                self.by_cell,
            )
            following = (self.by_hidden, self.by_cell)
        hidden = self.hidden.view(0, self.by.shape)
        lstm_weight_gradients(self.engine, self.x, hidden, self.by_gates, self.gradients)

    def results(self) -> dict[str, Array]:
        found = {name: getattr(self, name) for name in ("hidden", "cell", "by_hidden", "by_cell")}
        return {**found, **vars(self.gradients)}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_three_steps_are_what_float64_computes(engine: Engine, shape: tuple[int, int, int]) -> None:
    found, exact = Sequence(engine, shape), Sequence(Float64Engine(), shape)
    for sequence in (found, exact):
        sequence.forward()
        sequence.back()
    wanted = exact.results()
    for name, array in found.results().items():
        scale = max(1.0, float(np.abs(plain(wanted[name])).max()))
        np.testing.assert_allclose(
            get(engine, array) / scale, plain(wanted[name]) / scale, atol=2e-5, err_msg=name
        )


def test_gradients_are_those_of_finite_differences() -> None:
    sequence = Sequence(Float64Engine(), (2, 3, 4))

    def objective() -> float:
        sequence.forward()
        return float(
            (plain(sequence.hidden)[1:].reshape(-1) * plain(sequence.by).reshape(-1)).sum()
        )

    sequence.forward()
    sequence.back()
    pairs = zip(vars(sequence.weights).values(), vars(sequence.gradients).values(), strict=True)
    for given, found in pairs:
        assert_gradient(objective, plain(given), plain(found))
    assert_gradient(objective, plain(sequence.hidden)[0], plain(sequence.by_hidden))
    assert_gradient(objective, plain(sequence.cell)[0], plain(sequence.by_cell))


def test_gates_stand_in_the_order_input_forget_candidate_output(engine: Engine) -> None:
    weights = LstmWeights(
        put(engine, np.zeros((1, 4), np.float32)),
        put(engine, np.zeros((1, 4), np.float32)),
        put(engine, np.array([1, -1, 0.5, 2], np.float32)),
    )
    one = put(engine, np.ones((1, 1), np.float32))
    cell, hidden, gates = engine.empty((1, 1)), engine.empty((1, 1)), engine.empty((1, 4))
    lstm_cell(engine, weights, one, one, one, engine.empty((1, 4)), gates, cell, hidden)
    i, f, o = 1 / (1 + np.exp(-np.array([1, -1, 2])))
    state = f + i * np.tanh(0.5)
    np.testing.assert_allclose(get(engine, cell)[0, 0], state, rtol=1e-6)
    np.testing.assert_allclose(get(engine, hidden)[0, 0], o * np.tanh(state), rtol=1e-6)


def test_gates_that_are_wide_open_or_shut_do_not_overflow(engine: Engine) -> None:
    sequence = Sequence(engine, (3, 5, 18), 1e6)
    sequence.forward()
    sequence.back()
    for array in sequence.results().values():
        assert np.isfinite(get(engine, array)).all()


def test_a_nan_stays(engine: Engine) -> None:
    sequence = Sequence(engine, (3, 5, 18))
    x = normal(4, STEPS * 3, 5)
    x[1, 0] = np.nan
    engine.upload(sequence.x, x)
    engine.wait()
    sequence.forward()
    sequence.back()
    spoiled = np.isnan(get(engine, sequence.hidden))
    assert spoiled[1:, 1].all()
    assert not spoiled[:, [0, 2]].any()
    assert np.isnan(get(engine, sequence.gradients.bias)).all()


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    def make(*shape: int) -> Array:
        return engine.empty(shape)

    weights = LstmWeights(make(3, 8), make(2, 8), make(8))
    state, gates, x = make(5, 2), make(5, 8), make(5, 3)
    with pytest.raises(KernelError, match=r"expected shape \[5, 8\]"):
        lstm_cell(engine, weights, x, state, state, make(5, 6), gates, make(5, 2), make(5, 2))
    with pytest.raises(KernelError, match=r"expected shape \[5, 2\]"):
        lstm_cell(engine, weights, x, state, state, gates, gates, make(5, 3), make(5, 2))
    with pytest.raises(KernelError, match=r"takes states \[B,H\]"):
        lstm_cell(engine, weights, x, state, make(10), gates, gates, state, state)
    with pytest.raises(KernelError, match="shapes do not fit the form nn"):
        lstm_cell(engine, weights, make(5, 4), state, state, gates, make(5, 8), state, state)
    with pytest.raises(KernelError, match=r"expected shape \[5, 2\]"):
        lstm_cell_gradient(
            engine, weights, state, (state, make(4, 2)), gates, state, state, gates, state, state
        )
