import numpy as np
import pytest
from exchange import get, normal, put

from kernels import reference
from kernels.engine import Engine
from kernels.errors import DeviceError, KernelError
from kernels.opencl import OpenCLEngine
from kernels.windows import Window

Shape = tuple[int, int, int, int]

# For vectors of 16 over filters and channels: numbers that are no multiple of 16 or of 8, more than a
# panel of 64, small planes that are taken together, images in parts, and each way back.
WIDE: list[tuple[Shape, int, Window]] = [
    ((5, 16, 4, 5), 17, Window((3, 3), padding=(1, 1))),
    ((3, 17, 9, 9), 31, Window((3, 3), (2, 2), (1, 1))),
    ((2, 20, 9, 8), 24, Window((2, 3), (1, 1), (0, 2), (2, 2))),
    ((1, 70, 6, 7), 84, Window((3, 1), padding=(1, 0))),
    ((2, 96, 5, 5), 8, Window((1, 1), (2, 3))),
    ((2, 64, 41, 40), 24, Window((3, 2), padding=(1, 0))),
]
# B, C, H, W, then filters and window: LeNet's layers, and every edge: padding, strides that do and do
# not divide, dilation, rows that are no multiple of eight, windows as large as the plane.
CASES: list[tuple[Shape, int, Window]] = [
    ((1, 1, 1, 1), 1, Window((1, 1))),
    ((5, 1, 28, 28), 20, Window((5, 5))),
    ((3, 20, 12, 12), 50, Window((5, 5))),
    ((2, 8, 16, 16), 13, Window((3, 3), padding=(1, 1))),
    ((2, 3, 11, 13), 7, Window((3, 2), (2, 3), (1, 2))),
    ((3, 7, 9, 10), 4, Window((2, 3), (1, 1), (0, 0), (2, 2))),
    ((1, 2, 19, 18), 6, Window((3, 3), (2, 1), (2, 2), (3, 2))),
    ((2, 5, 4, 6), 9, Window((4, 6))),
    ((4, 6, 5, 16), 3, Window((1, 1), (2, 2))),
    ((64, 4, 7, 7), 3, Window((4, 4))),
    *WIDE,
]


HEAVY = [*CASES[1:4], CASES[9], WIDE[-1]]


def out_shape(shape: Shape, filters: int, window: Window) -> Shape:
    return (shape[0], filters, *window.over((shape[2], shape[3])))


@pytest.mark.parametrize(
    ("shape", "filters", "window"),
    [pytest.param(*case, marks=pytest.mark.heavy) if case in HEAVY else case for case in CASES],
    ids=str,
)
def test_convolution_and_its_gradients(
    engine: Engine, shape: Shape, filters: int, window: Window
) -> None:
    x, w = normal(1, *shape), normal(2, filters, shape[1], *window.size)
    bias, delta = normal(3, filters), normal(4, *out_shape(shape, filters, window))
    x_there, w_there, delta_there = put(engine, x), put(engine, w), put(engine, delta)
    out, by_x, by_w, by_bias = (engine.empty(a.shape) for a in (delta, x, w, bias))
    engine.convolve(x_there, w_there, out, window, bias=put(engine, bias), activation="tanh")
    engine.convolve_input(delta_there, w_there, by_x, window, derivative=("relu", x_there))
    engine.convolve_weights(x_there, delta_there, by_w, window, filter_sums=by_bias)
    alone = engine.empty(w.shape)
    engine.convolve_weights(x_there, delta_there, alone, window)
    np.testing.assert_array_equal(get(engine, alone), get(engine, by_w))

    xs, ws, deltas = x.astype(float), w.astype(float), delta.astype(float)
    expected, wanted_x, wanted_w = np.empty(delta.shape), np.empty(shape), np.empty(w.shape)
    wanted_bias = np.empty(filters)
    reference.convolve(xs, ws, expected, window, bias=bias.astype(float), activation="tanh")
    reference.convolve_input(deltas, ws, wanted_x, window, derivative=("relu", xs))
    reference.convolve_weights(xs, deltas, wanted_w, window, filter_sums=wanted_bias)
    np.testing.assert_array_equal(wanted_bias, deltas.sum(axis=(0, 2, 3)))
    np.testing.assert_allclose(get(engine, out), expected, rtol=1e-4, atol=2e-5)
    for found, wanted in ((by_x, wanted_x), (by_w, wanted_w), (by_bias, wanted_bias)):
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(get(engine, found), wanted, rtol=1e-4, atol=1e-5 * scale + 1e-6)


@pytest.mark.parametrize(("shape", "filters", "window"), CASES[3:7], ids=str)
def test_gradients_are_those_of_finite_differences(
    shape: Shape, filters: int, window: Window
) -> None:
    source = np.random.default_rng(5)
    x = source.standard_normal(shape)
    w = source.standard_normal((filters, shape[1], *window.size))
    small = out_shape(shape, filters, window)
    by = source.standard_normal(small)

    def objective(x: np.ndarray, w: np.ndarray) -> float:
        out = np.empty(small)
        reference.convolve(x, w, out, window)
        return float((out * by).sum())

    by_x, by_w = np.empty(shape), np.empty(w.shape)
    reference.convolve_input(by, w, by_x, window)
    reference.convolve_weights(x, by, by_w, window)
    for number in range(12):
        place = tuple(source.integers(0, side) for side in shape)
        step = np.zeros(shape)
        step[place] = 1e-5
        slope = (objective(x + step, w) - objective(x - step, w)) / 2e-5
        assert by_x[place] == pytest.approx(slope, rel=1e-6, abs=1e-6), number
        place = tuple(source.integers(0, side) for side in w.shape)
        step = np.zeros(w.shape)
        step[place] = 1e-5
        slope = (objective(x, w + step) - objective(x, w - step)) / 2e-5
        assert by_w[place] == pytest.approx(slope, rel=1e-6, abs=1e-6), number


@pytest.mark.heavy
@pytest.mark.parametrize(("channels", "filters"), [(4, 7), (24, 40)])
@pytest.mark.parametrize("window", [Window((3, 3)), Window((3, 3), (2, 2), (1, 1))], ids=str)
def test_an_image_s_result_does_not_depend_on_its_company(
    opencl: OpenCLEngine, channels: int, filters: int, window: Window
) -> None:
    x, w = normal(1, 9, channels, 14, 14), normal(2, filters, channels, 3, 3)
    small = (filters, *window.over((14, 14)))
    delta = normal(3, 9, *small)
    weights, whole, by_whole = put(opencl, w), opencl.empty((9, *small)), opencl.empty(x.shape)
    opencl.convolve(put(opencl, x), weights, whole, window)
    opencl.convolve_input(put(opencl, delta), weights, by_whole, window)
    one, by_one = opencl.empty((1, *small)), opencl.empty((1, *x.shape[1:]))
    opencl.convolve(put(opencl, x[4:5]), weights, one, window)
    opencl.convolve_input(put(opencl, delta[4:5]), weights, by_one, window)
    np.testing.assert_array_equal(get(opencl, whole)[4:5], get(opencl, one))
    np.testing.assert_array_equal(get(opencl, by_whole)[4:5], get(opencl, by_one))


def test_views_inside_larger_arrays_are_left_alone_around(engine: Engine) -> None:
    window = Window((3, 3), padding=(1, 1))
    x, w, delta = normal(1, 2, 3, 5, 5), normal(2, 4, 3, 3, 3), normal(3, 2, 4, 5, 5)
    sizes = [delta.size, x.size, w.size, 4]
    outs = [put(engine, np.full(size + 20, 7, np.float32)) for size in sizes]
    shapes = (delta.shape, x.shape, w.shape, (4,))
    views = [out.view(10, shape) for out, shape in zip(outs, shapes, strict=True)]
    x_there, w_there, delta_there = put(engine, x), put(engine, w), put(engine, delta)
    engine.convolve(x_there, w_there, views[0], window)
    engine.convolve_input(delta_there, w_there, views[1], window)
    engine.convolve_weights(x_there, delta_there, views[2], window, filter_sums=views[3])
    for out, size in zip(outs, sizes, strict=True):
        host = get(engine, out)
        assert (host[:10] == 7).all()
        assert (host[size + 10 :] == 7).all()
        assert not (host[10 : size + 10] == 7).any()


@pytest.mark.heavy
def test_a_refused_workspace_leaves_the_one_there_was(opencl: OpenCLEngine) -> None:
    window = Window((3, 3), padding=(1, 1))
    engine = OpenCLEngine(opencl.info, 4 << 20)
    w = put(engine, normal(2, 3, 3, 3, 3))

    def convolve(batch: int) -> np.ndarray:
        x = put(engine, np.ones((batch, 3, 32, 32), np.float32))
        out = engine.empty((batch, 3, 32, 32))
        engine.convolve(x, w, out, window)
        return get(engine, out)

    small = convolve(4)
    with pytest.raises(DeviceError, match=r"device\.memory"):
        convolve(140)
    np.testing.assert_array_equal(convolve(20)[:4], small)


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    x, w, out = engine.empty((2, 3, 8, 8)), engine.empty((4, 3, 3, 3)), engine.empty((2, 4, 6, 6))
    with pytest.raises(KernelError, match=r"expected shape \[2, 4, 8, 8\]"):
        engine.convolve(x, w, out, Window((3, 3), padding=(1, 1)))
    with pytest.raises(KernelError, match=r"takes x\[B,C,H,W\]"):
        engine.convolve(x, w, engine.empty((2, 4)), Window((3, 3)))
    with pytest.raises(KernelError, match=r"expected shape \[4\]"):
        engine.convolve(x, w, out, Window((3, 3)), bias=engine.empty((3,)))
    with pytest.raises(KernelError, match=r"expected shape \[4\]"):
        engine.convolve_weights(x, out, w, Window((3, 3)), filter_sums=engine.empty((3,)))
    with pytest.raises(KernelError, match="does not fit into planes of 8 x 8"):
        engine.convolve_weights(x, out, w, Window((9, 3)))
    with pytest.raises(KernelError, match="float32"):
        engine.convolve_input(out, w, engine.empty((2, 3, 8, 8), np.int32), Window((3, 3)))
