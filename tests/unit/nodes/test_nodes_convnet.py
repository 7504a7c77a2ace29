"""Networks of convolution and pooling: their shapes, gradients and files."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from float64_engine import exact_learner
from pydantic import ValidationError

from kernels.device.discovery import devices
from kernels.engine import Engine, open_engine
from nodes.data import DataConfig, load_dataset
from nodes.errors import ModelError
from nodes.models import Model, ModelConfig
from nodes.models.forward import EngineForward, HostForward
from nodes.training.learner import Learner

LAYERS: list[dict[str, Any]] = [
    {"type": "conv2d", "filters": 3, "kernel_size": 3, "padding": 1, "activation": "tanh"},
    {"type": "max_pool2d", "kernel_size": 2},
    {"type": "conv2d", "filters": 4, "kernel_size": [2, 3], "stride": 2, "activation": "sigmoid"},
    {"type": "avg_pool2d", "kernel_size": 2, "stride": 1, "padding": 1},
    {"units": 5, "activation": "tanh"},
    {},
]
SHAPE, ROWS = (2, 9, 10), 5


def model(layers: list[dict[str, Any]] = LAYERS, **keys: object) -> Model:
    return Model(ModelConfig.model_validate({"layers": layers, **keys}), SHAPE, 4)


def minibatch(rng: np.random.Generator) -> tuple[Any, Any]:
    x = rng.standard_normal((ROWS, 180)).astype(np.float32)
    return x, rng.integers(0, 4, ROWS).astype(np.int32)


def weights_of(which: Model, rng: np.random.Generator) -> np.ndarray:
    return which.initial_weights(1) + rng.standard_normal(which.size).astype(np.float32) * 0.1


@pytest.fixture(params=[*(str(info.index) for info in devices()), "numpy"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    opened = open_engine(request.param)
    yield opened
    opened.close()


def test_shapes_follow_from_layer_to_layer() -> None:
    which = model()
    assert [layer.outputs for layer in which.layers] == [
        (3, 9, 10), (3, 4, 5), (4, 2, 2), (4, 3, 3), (5,), (4,),
    ]  # fmt: skip
    assert [(tensor.name, tensor.shape) for tensor in which.layout[:4]] == [
        ("layers.0.weight", (3, 2, 3, 3)),
        ("layers.0.bias", (3,)),
        ("layers.2.weight", (4, 3, 2, 3)),
        ("layers.2.bias", (4,)),
    ]
    assert repr(which) == (
        "<Model 2x9x10-3x9x10-3x4x5-4x2x2-4x3x3-5-4: 342 parameters, cross_entropy>"
    )


def test_first_weights_of_a_convolution_have_the_variance_of_its_fans() -> None:
    layers = [{"type": "conv2d", "filters": 64, "kernel_size": 3}, {}]
    which = Model(ModelConfig.model_validate({"layers": layers, "init": "he"}), (16, 8, 8), 2)
    weight = which.layout[0]
    first = which.initial_weights(3)[: weight.size]
    assert abs(first).max() <= (6 / (16 * 9)) ** 0.5
    assert first.std() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("kind", ["global_max_pool2d", "global_avg_pool2d"])
def test_global_pooling_takes_whole_planes(kind: str) -> None:
    which = model([LAYERS[0], {"type": kind}, {}])
    assert [layer.outputs for layer in which.layers] == [(3, 9, 10), (3, 1, 1), (4,)]


def test_the_gradient_is_the_loss_s_derivative(rng: np.random.Generator) -> None:
    which = model()
    learner = exact_learner(which, ROWS)
    x, y = minibatch(rng)
    weights = weights_of(which, rng).astype(np.float64)
    gradient = np.empty(which.size)
    learner.gradient(weights, x, y, gradient)
    for index in rng.choice(which.size, 120, replace=False):
        sides = []
        for sign in (1, -1):
            moved = weights.copy()
            moved[index] += sign * 1e-6
            sides.append(learner.evaluate(moved, x, y).loss_sum)
        slope = (sides[0] - sides[1]) / 2e-6
        assert gradient[index] == pytest.approx(slope, abs=1e-6 * np.abs(gradient).max())


def test_every_device_computes_what_float64_does(engine: Engine, rng: np.random.Generator) -> None:
    which = model()
    x, y = minibatch(rng)
    weights = weights_of(which, rng)
    precise, found = np.empty(which.size), np.empty(which.size, np.float32)
    wanted = exact_learner(which, ROWS).gradient(weights.astype(np.float64), x, y, precise)
    learner = Learner(engine, which, ROWS)
    result = learner.gradient(weights, x, y, found)
    np.testing.assert_allclose(found, precise, atol=1e-5 * np.abs(precise).max())
    assert result.loss_sum == pytest.approx(wanted.loss_sum, rel=1e-5)
    again = np.empty_like(found)
    learner.gradient(None, x, y, again)
    np.testing.assert_array_equal(found, again)


def test_a_trained_model_predicts_the_same_on_a_device(
    engine: Engine, rng: np.random.Generator
) -> None:
    which = model()
    weights, (x, _) = weights_of(which, rng), minibatch(rng)
    on_host = HostForward(which, weights)(x)
    np.testing.assert_allclose(EngineForward(engine, which, weights)(x), on_host, atol=1e-5)


def test_grey_images_are_one_channel_and_flat_features_need_a_shape() -> None:
    layers = [{"type": "conv2d", "filters": 2, "kernel_size": 3}, {}]
    config = ModelConfig.model_validate({"layers": layers})
    digits = load_dataset(DataConfig(source="digits"))
    assert Model.for_dataset(config, digits).layers[0].inputs == (1, 8, 8)
    with pytest.raises(
        ModelError, match=r"model\.layers\.0: conv2d takes .* set model.input_shape"
    ):
        Model(config, (64,), 3)
    seen = ModelConfig.model_validate({"layers": layers, "input_shape": [1, 8, 8]})
    assert Model(seen, (64,), 3).layers[0].outputs == (2, 6, 6)
    with pytest.raises(ModelError, match=r"model\.input_shape: \[1, 8, 8\] are 64 numbers"):
        Model(seen, (63,), 3)


def test_layers_that_do_not_fit_each_other_are_refused() -> None:
    after_dense = [{"units": 3}, {"type": "max_pool2d", "kernel_size": 2}, {}]
    with pytest.raises(ModelError, match=r"model\.layers\.1: .* put it before the dense layers"):
        model(after_dense)
    with pytest.raises(ModelError, match=r"model\.layers\.0: a window of 11 x 11 does not fit"):
        model([{"type": "conv2d", "filters": 1, "kernel_size": 11}, {}])


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"type": "conv2d", "kernel_size": 3}, "missing: a layer of type conv2d needs it"),
        ({"type": "conv2d", "filters": 3}, "missing: a layer of type conv2d needs it"),
        ({"type": "max_pool2d"}, "missing: a layer of type max_pool2d needs it"),
        ({"type": "conv2d", "filters": 3, "kernel_size": 3, "units": 2}, "is not for a layer of"),
        ({"type": "max_pool2d", "kernel_size": 2, "activation": "relu"}, "is not for a layer of"),
        ({"type": "avg_pool2d", "kernel_size": 2, "padding": 2}, "at most half of kernel_size"),
        ({"type": "conv2d", "filters": 3, "kernel_size": [3, 0]}, "greater than 0"),
        ({"type": "conv2d", "filters": 3, "kernel_size": [3, 3, 3]}, "two \\(vertical, horizontal"),
        ({"type": "conv9d"}, "'dense', 'conv2d'"),
    ],
)
def test_layers_that_make_no_sense_are_refused(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelConfig.model_validate({"layers": [layer, {}]})


def test_large_examples_are_computed_a_few_at_a_time() -> None:
    layers = [{"type": "conv2d", "filters": 32, "kernel_size": 3}, {}]
    large = Model(ModelConfig.model_validate({"layers": layers}), (3, 224, 224), 10)
    assert large.rows_at_once(1024) == (1 << 25) // (3 * 224 * 224 + 32 * 222 * 222 + 10)
    assert model().rows_at_once(1024) == 1024


def test_the_last_layer_is_dense() -> None:
    with pytest.raises(ValidationError, match=r"the last layer must be dense"):
        ModelConfig.model_validate({"layers": [{"type": "global_avg_pool2d"}]})
