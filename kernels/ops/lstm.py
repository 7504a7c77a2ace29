"""A cell of long short-term memory, forward and backward, one time step at a time.

Sources: Hochreiter and Schmidhuber 1997, "Long short-term memory"; the forget gate, Gers,
Schmidhuber and Cummins 2000, "Learning to forget". Gates stand in PyTorch's order: input i, forget
f, candidate g, output o.

    i, f, o = sigmoid(...), g = tanh(...) of x W + h U + b
    c' = f c + i g        h' = o tanh(c')

Weights' gradients are sums over time: keep every step's inputs and gate gradients one after the
other, and let `lstm_weight_gradients` make them in one product of all steps' rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.checks import check_same, check_type
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation

GRAIN = 512
"""Elements of the state that are worth a work-item."""


@dataclass(frozen=True)
class LstmWeights:
    """A cell's weights, or their gradients: I inputs, H hidden units."""

    by_input: Array
    """W[I,4H]."""
    by_hidden: Array
    """U[H,4H]."""
    bias: Array
    """b[4H]."""


def lstm_cell(
    engine: Engine,
    weights: LstmWeights,
    x: Array,
    hidden: Array,
    cell: Array,
    recurrent: Array,
    gates: Array,
    new_cell: Array,
    new_hidden: Array,
) -> None:
    """Compute a step's state new_hidden[B,H], new_cell[B,H] from x[B,I], hidden[B,H], cell[B,H].

    `gates[B,4H]` is what the way back needs, with both cells; `recurrent[B,4H]` is a workspace.
    """
    batch, units = _check_state("lstm_cell", cell)
    check_same("lstm_cell", *((array, cell.shape) for array in (hidden, new_cell, new_hidden)))
    check_same("lstm_cell", *((array, (batch, 4 * units)) for array in (recurrent, gates)))
    engine.matmul(x, weights.by_input, gates, bias=weights.bias)
    engine.matmul(hidden, weights.by_hidden, recurrent)
    arrays = (gates, recurrent, cell, new_cell, new_hidden)
    for array in arrays:
        check_type("lstm_cell", array, np.float32)
    engine.run(LSTM_CELL, arrays, (units,), items=cell.size, grain=GRAIN)


def lstm_cell_gradient(
    engine: Engine,
    weights: LstmWeights,
    by_new_hidden: Array,
    following: tuple[Array, Array] | None,
    gates: Array,
    cell: Array,
    new_cell: Array,
    by_gates: Array,
    by_hidden: Array,
    by_cell: Array,
) -> None:
    """Compute the gradients by the state that a step began from, and by its gates' sums.

    Args:
        engine: where to compute.
        weights: of the cell.
        by_new_hidden: [B,H], the gradient by new_hidden from what lies above this step.
        following: the by_hidden and by_cell of the step after, which add to this one's; None in the
            last step. They may be the arrays that are written.
        gates: [B,4H], from `lstm_cell`.
        cell: [B,H], that of before.
        new_cell: [B,H].
        by_gates: [B,4H], written: what `lstm_weight_gradients` takes. The gradient by x is its
            product with W transposed (`matmul`, "nt"), for all steps at once.
        by_hidden: [B,H], written: the gradient by the hidden state of before.
        by_cell: [B,H], written: that by the cell of before.
    """
    what = "lstm_cell_gradient"
    batch, units = _check_state(what, cell)
    last = following is None
    states = (by_new_hidden, new_cell, by_hidden, by_cell, *(following or ()))
    check_same(what, *((array, cell.shape) for array in states))
    check_same(what, *((array, (batch, 4 * units)) for array in (gates, by_gates)))
    for array in (*states, gates, by_gates):
        check_type(what, array, np.float32)
    next_hidden, next_cell = following or (None, None)
    arrays = (by_new_hidden, next_hidden, next_cell, gates, cell, new_cell, by_gates, by_cell)
    numbers = (units, int(last))
    engine.run(LSTM_CELL_BACK, arrays, numbers, items=cell.size, grain=GRAIN)
    engine.matmul(by_gates, weights.by_hidden, by_hidden, form="nt")


def lstm_weight_gradients(
    engine: Engine, x: Array, hidden: Array, by_gates: Array, gradients: LstmWeights
) -> None:
    """Compute the weights' gradients over all rows of one step or of several, T B in all.

    Takes x[TB,I], the hidden state that each step began from [TB,H], and by_gates[TB,4H].
    """
    engine.matmul(x, by_gates, gradients.by_input, form="tn", column_sums=gradients.bias)
    engine.matmul(hidden, by_gates, gradients.by_hidden, form="tn")


def _check_state(what: str, cell: Array) -> tuple[int, int]:
    if len(cell.shape) != 2 or 0 in cell.shape:
        raise KernelError(f"{what} takes states [B,H], got {list(cell.shape)}")
    check_type(what, cell, np.float32)
    batch, units = cell.shape
    return batch, units


def lstm_cell_twin(
    gates: np.ndarray,
    recurrent: np.ndarray,
    cell: np.ndarray,
    new_cell: np.ndarray,
    new_hidden: np.ndarray,
    units: int,
) -> None:
    """Activate the gates and move the state."""
    gates += recurrent
    _, _, candidate, _ = parts = np.split(gates, 4, axis=1)
    np.tanh(candidate, out=candidate)
    for part in (parts[0], parts[1], parts[3]):
        part[...] = 0.5 * np.tanh(0.5 * part) + 0.5  # the sigmoid, which so cannot overflow
    np.add(parts[1] * cell, parts[0] * candidate, out=new_cell)
    np.multiply(parts[3], np.tanh(new_cell), out=new_hidden)


def lstm_cell_back_twin(
    by_new_hidden: np.ndarray,
    by_next_hidden: np.ndarray | None,
    by_next_cell: np.ndarray | None,
    gates: np.ndarray,
    cell: np.ndarray,
    new_cell: np.ndarray,
    by_gates: np.ndarray,
    by_cell: np.ndarray,
    units: int,
    last: int,
) -> None:
    """Compute the gradients by the gates' sums and by the cell of before."""
    input_gate, forget, candidate, output = np.split(gates, 4, axis=1)
    state = np.tanh(new_cell)
    given = by_new_hidden if by_next_hidden is None else by_new_hidden + by_next_hidden
    by_state = given * output * (1 - state * state)
    if by_next_cell is not None:
        by_state += by_next_cell
    parts = (
        by_state * candidate * input_gate * (1 - input_gate),
        by_state * cell * forget * (1 - forget),
        by_state * input_gate * (1 - candidate * candidate),
        given * state * output * (1 - output),
    )
    np.concatenate(parts, axis=1, out=by_gates)
    np.multiply(by_state, forget, out=by_cell)


LSTM_CELL = Operation("lstm_cell", "lstm.cl", 5, (np.uint64,), lstm_cell_twin)
LSTM_CELL_BACK = Operation(
    "lstm_cell_back", "lstm.cl", 8, (np.uint64, np.int32), lstm_cell_back_twin
)
