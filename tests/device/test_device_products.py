import itertools

import numpy as np
import pytest
from exchange import get, normal, put

from kernels import reference
from kernels.activations import ACTIVATIONS
from kernels.engine import Engine, Form
from kernels.errors import KernelError
from kernels.opencl import OpenCLEngine

FORMS: tuple[Form, ...] = ("nn", "tn", "nt")
SHAPES = [
    (1, 1, 1),
    (3, 17, 33),
    (17, 3, 129),
    (8, 48, 256),
    (33, 10, 64),
    (32, 64, 64),
    (129, 33, 17),
    (9, 50, 300),
    *(
        pytest.param(shape, marks=pytest.mark.heavy)
        for shape in ((65, 130, 513), (128, 500, 784), (784, 512, 32))
    ),
]


def operands(form: Form, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = normal(1, m, k), normal(2, k, n)
    return (a.T.copy() if form == "tn" else a), (b.T.copy() if form == "nt" else b)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_a_product_is_within_the_bound_of_its_sums(
    engine: Engine, form: Form, shape: tuple[int, int, int]
) -> None:
    m, n, k = shape
    a, b = operands(form, m, n, k)
    out = engine.empty((m, n))
    engine.matmul(put(engine, a), put(engine, b), out, form=form)
    exact, size = np.empty((m, n)), np.empty((m, n))
    reference.matmul(a.astype(float), b.astype(float), exact, form=form)
    reference.matmul(np.abs(a.astype(float)), np.abs(b.astype(float)), size, form=form)
    bound = (k + 1) * 2.0**-24 * size  # Higham, Accuracy and Stability, section 3.5
    assert (np.abs(get(engine, out) - exact) <= bound).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("activation", "derivative"),
    [
        *((name, None) for name in ACTIVATIONS),
        *(("identity", name) for name in ACTIVATIONS),
        ("tanh", "sigmoid"),
    ],
)
@pytest.mark.parametrize(
    "shape", [(5, 37, 20), pytest.param((40, 96, 300), marks=pytest.mark.heavy)], ids=str
)
def test_the_epilogue_agrees_with_its_twin(
    engine: Engine,
    form: Form,
    activation: str,
    derivative: str | None,
    shape: tuple[int, int, int],
) -> None:
    m, n, k = shape
    a, b = operands(form, m, n, k)
    a *= np.float32(0.2)
    bias, y = normal(3, n), np.tanh(normal(4, m, n))
    expected = np.empty((m, n))
    wide = [array.astype(float) for array in (a, b, bias, y)]
    reference.matmul(
        wide[0],
        wide[1],
        expected,
        form=form,
        bias=wide[2],
        activation=activation,
        derivative=None if derivative is None else (derivative, wide[3]),
    )
    out = engine.empty((m, n))
    engine.matmul(
        put(engine, a),
        put(engine, b),
        out,
        form=form,
        bias=put(engine, bias),
        activation=activation,
        derivative=None if derivative is None else (derivative, put(engine, y)),
    )
    np.testing.assert_allclose(get(engine, out), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_scale_and_residual_come_before_the_activation(engine: Engine, form: Form) -> None:
    m, n, k = 13, 37, 20
    a, b = operands(form, m, n, k)
    bias, residual, y = normal(3, n), normal(4, m, n), np.tanh(normal(5, m, n))
    expected = np.empty((m, n))
    wide = [array.astype(float) for array in (a, b, bias, residual, y)]
    reference.matmul(
        *wide[:2],
        expected,
        form=form,
        bias=wide[2],
        activation="tanh",
        derivative=("tanh", wide[4]),
        residual=wide[3],
        scale=0.25,
    )
    out = engine.empty((m, n))
    there = [put(engine, array) for array in (a, b, bias, residual, y)]
    engine.matmul(
        *there[:2],
        out,
        form=form,
        bias=there[2],
        activation="tanh",
        derivative=("tanh", there[4]),
        residual=there[3],
        scale=0.25,
    )
    np.testing.assert_allclose(get(engine, out), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("form", FORMS)
def test_a_row_depends_on_neither_the_number_of_rows_nor_its_place(
    opencl: OpenCLEngine, form: Form
) -> None:
    # The numpy engine does not promise this: its product is that of numpy's BLAS.
    n, k = 77, 600
    a, b = normal(1, 200, k), normal(2, k, n)
    right = put(opencl, b.T if form == "nt" else b)
    whole = None
    for first, m in ((0, 200), (0, 1), (5, 3), (64, 136), (7, 33), (71, 129)):
        part = a[first : first + m]
        out = opencl.empty((m, n))
        opencl.matmul(put(opencl, part.T if form == "tn" else part), right, out, form=form)
        result = get(opencl, out)
        whole = result if whole is None else whole
        np.testing.assert_array_equal(result, whole[first : first + m])


@pytest.mark.parametrize("form", FORMS)
def test_rows_at_the_edge_of_a_tile_are_those_of_a_whole_one(
    opencl: OpenCLEngine, form: Form
) -> None:
    n, k = 17, 300  # two blocks of K
    a, b = normal(1, 90, k), normal(2, k, n)
    right = put(opencl, b.T if form == "nt" else b)
    results = {}
    cpu = opencl.info.type == "cpu"  # GPUs have tiles of 64, whatever the number of rows
    for m in (90, *range(1, 18), *range(71, 82)) if cpu else (90, 1, 63, 65):
        out = opencl.empty((m, n))
        part = a[:m]
        opencl.matmul(put(opencl, part.T if form == "tn" else part), right, out, form=form)
        results[m] = get(opencl, out)
    for m, result in results.items():
        np.testing.assert_array_equal(result, results[90][:m])


@pytest.mark.heavy
def test_a_column_depends_on_neither_the_panel_nor_the_form(opencl: OpenCLEngine) -> None:
    m, k = 19, 700
    a, b = normal(1, m, k), normal(2, k, 130)
    results = {}
    for n, form in itertools.product((130, 97, 48, 33, 16, 10, 1), FORMS):
        right = b[:, :n]
        out = opencl.empty((m, n))
        opencl.matmul(
            put(opencl, a.T if form == "tn" else a),
            put(opencl, right.T if form == "nt" else right),
            out,
            form=form,
        )
        results[n, form] = get(opencl, out)
    for (n, _), result in results.items():
        np.testing.assert_array_equal(result, results[130, "nn"][:, :n])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "shape",
    [
        (3, 7, 20),
        (5, 37, 20),
        (9, 64, 33),
        pytest.param((90, 130, 300), marks=pytest.mark.heavy),
        pytest.param((7, 300, 600), marks=pytest.mark.heavy),
    ],
    ids=str,
)
def test_column_sums_are_those_of_b_in_their_order(
    engine: Engine, form: Form, shape: tuple[int, int, int]
) -> None:
    a, b = operands(form, *shape)
    m, n, _ = shape
    out, alone = engine.empty((m, n)), engine.empty((m, n))
    around = put(engine, np.full(n + 20, 7, np.float32))
    left, right = put(engine, a), put(engine, b)
    engine.matmul(left, right, out, form=form, column_sums=around.view(10, (n,)))
    engine.matmul(left, right, alone, form=form)
    found = get(engine, around)
    summed = np.zeros(n, np.float32)
    for row in b.T if form == "nt" else b:
        summed += row
    if engine.info.name == "numpy":
        np.testing.assert_allclose(found[10:-10], summed, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(found[10:-10], summed)
    np.testing.assert_array_equal(get(engine, alone), get(engine, out))
    assert (found[:10] == 7).all()
    assert (found[-10:] == 7).all()


def test_views_work_where_they_lie(engine: Engine) -> None:
    flat = normal(5, 3 + 20 * 30 + 30)
    store = put(engine, flat)
    weights, bias = store.view(3, (20, 30)), store.view(603, (30,))
    x, gradient = normal(6, 9, 20), engine.empty((flat.size,))
    out = engine.empty((9, 30))
    left = put(engine, x)
    engine.matmul(left, weights, out, bias=bias, activation="relu")
    expected = np.maximum(x @ flat[3:603].reshape(20, 30) + flat[603:], 0)
    np.testing.assert_allclose(get(engine, out), expected, rtol=1e-5, atol=1e-5)
    by_bias = gradient.view(603, (30,))
    engine.matmul(left, out, gradient.view(3, (20, 30)), form="tn", column_sums=by_bias)
    result = get(engine, gradient)
    np.testing.assert_allclose(result[3:603].reshape(20, 30), x.T @ expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result[603:], expected.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_a_nan_passes_through_relu(engine: Engine) -> None:
    a = np.array([[np.nan, 1], [1, 1]], np.float32)
    out = engine.empty((2, 20))
    engine.matmul(
        put(engine, a), put(engine, np.ones((2, 20)).astype(np.float32)), out, activation="relu"
    )
    result = get(engine, out)
    assert np.isnan(result[0]).all()
    assert (result[1] == 2).all()


def test_shapes_that_do_not_fit_are_named(engine: Engine) -> None:
    a, b, out = engine.empty((3, 4)), engine.empty((4, 5)), engine.empty((3, 5))
    with pytest.raises(KernelError, match=r"form nt: \[3, 4\] by \[4, 5\]"):
        engine.matmul(a, b, out, form="nt")
    with pytest.raises(KernelError, match="bias"):
        engine.matmul(a, b, out, bias=engine.empty((4,)))
    with pytest.raises(KernelError, match=r"column_sums \[4\]"):
        engine.matmul(a, b, out, column_sums=engine.empty((4,)))
    with pytest.raises(KernelError, match="a bias or column_sums"):
        engine.matmul(a, b, out, bias=engine.empty((5,)), column_sums=engine.empty((5,)))
    with pytest.raises(KernelError, match="unknown activation 'gelu'"):
        engine.matmul(a, b, out, activation="gelu")
    with pytest.raises(KernelError, match="leaves its array"):
        a.view(10, (3,))
    with pytest.raises(KernelError, match="not int32"):
        engine.matmul(a, engine.empty((4, 5), np.int32), out)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n", [9, 48])  # by single elements, and by vectors
def test_activations_bear_extremes_and_keep_a_nan(engine: Engine, activation: str, n: int) -> None:
    values = np.array([-1e4, -90, -1, -1e-4, 0, 1e-4, 1, 90, 1e4], np.float32)
    x = np.resize(values, (1, n))
    expected = x.astype(float)
    ACTIVATIONS[activation].apply(expected)
    out = engine.empty((1, n))
    one = np.ones((1, 1), np.float32)
    engine.matmul(put(engine, one), put(engine, x), out, activation=activation)
    np.testing.assert_allclose(get(engine, out), expected, rtol=2e-6, atol=1e-6)
    bad = np.full((1, n), np.nan, np.float32)
    engine.matmul(put(engine, one), put(engine, bad), out, activation=activation)
    assert np.isnan(get(engine, out)).all()
