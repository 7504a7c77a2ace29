import numpy as np
import pytest
from pydantic import ValidationError

from nodes.data import DataConfig, load_dataset
from nodes.errors import ModelError
from nodes.models import Model, ModelConfig


def config(*units: int | None, **keys: object) -> ModelConfig:
    layers = [{} if width is None else {"units": width} for width in units]
    return ModelConfig.model_validate({"layers": layers, **keys})


def test_parameters_lie_packed_in_order() -> None:
    model = Model(config(5, None), shape=(3,), outputs=2)
    assert [(t.name, t.offset, t.shape) for t in model.layout] == [
        ("layers.0.weight", 0, (3, 5)),
        ("layers.0.bias", 15, (5,)),
        ("layers.1.weight", 20, (5, 2)),
        ("layers.1.bias", 30, (2,)),
    ]
    assert model.size == 32
    assert [layer.activation for layer in model.layers] == ["relu", "identity"]
    assert repr(model) == "<Model 3-5-2: 32 parameters, cross_entropy>"


@pytest.mark.parametrize(("init", "bound"), [("glorot", (6 / 300) ** 0.5), ("he", 0.06**0.5)])
def test_first_weights_are_uniform_and_biases_zero(init: str, bound: float) -> None:
    model = Model(config(200, None, init=init), shape=(100,), outputs=10)
    weights = model.initial_weights(3)
    assert weights.dtype == np.float32
    first = weights[: 100 * 200]
    assert abs(first).max() <= np.float32(bound)
    assert first.min() < -0.99 * bound
    assert first.max() > 0.99 * bound
    assert first.std() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not weights[100 * 200 : 100 * 200 + 200].any()


def test_first_weights_follow_the_seed_alone() -> None:
    model = Model(config(8, None), shape=(4,), outputs=3)
    again = Model(config(8, 3), shape=(4,), outputs=3)
    np.testing.assert_array_equal(model.initial_weights(7), again.initial_weights(7))
    assert not np.array_equal(model.initial_weights(7), model.initial_weights(8))
    pair = Model(config(4, None), shape=(4,), outputs=4).initial_weights(0)
    assert not np.array_equal(pair[:16], pair[20:36])


def test_the_last_layer_must_fit_the_data() -> None:
    with pytest.raises(ModelError, match=r"model\.layers\.1\.units: is 9, but the data has 10"):
        Model(config(5, 9), shape=(3,), outputs=10)


def test_the_loss_must_fit_the_task() -> None:
    digits = load_dataset(DataConfig(source="digits"))
    assert Model.for_dataset(config(64, None), digits).size == 64 * 64 + 64 + 640 + 10
    with pytest.raises(ModelError, match=r'model\.loss: is "mean_squared"'):
        Model.for_dataset(config(64, None, loss="mean_squared"), digits)


@pytest.mark.parametrize(
    "values",
    [
        {"layers": []},
        {"layers": [{}, {"units": 3}]},
        {"layers": [{"units": 0}]},
        {"layers": [{"units": 3, "activation": "softmax"}]},
        {"layers": [{"units": 3, "activation": "relu"}]},
        {"layers": [{"units": 3}], "loss": "hinge"},
        {"layers": [{"units": 3}], "optimiser": "adam"},
    ],
)
def test_models_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig.model_validate(values)
