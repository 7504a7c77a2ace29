"""A model's file, and predictions from it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import nodes
from kernels.device.discovery import devices
from kernels.engine import open_engine
from nodes.data import DataConfig, Dataset, Schema, load_dataset
from nodes.errors import DataError, ModelError
from nodes.models import Model, ModelConfig
from nodes.models.forward import EngineForward
from nodes.training.learner import Learner
from nodes.training.result import write_model

RECIPE = json.dumps({"data": {"source": "iris"}})


def iris_text() -> str:
    rng = np.random.default_rng(3)
    rows = [(*rng.normal(size=3) * [1, 50, 0.01], "abc"[i % 3]) for i in range(60)]
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def network(schema: Schema, *activations: str) -> Model:
    layers = [{"units": 6, "activation": name} for name in activations]
    loss = "cross_entropy" if schema.task == "classification" else "mean_squared"
    config = ModelConfig.model_validate({"layers": [*layers, {}], "loss": loss})
    return Model(config, schema.shape, schema.outputs)


def written(folder: Path, schema: Schema, *activations: str) -> Path:
    path = folder / "model.safetensors"
    model = network(schema, *activations)
    weights = np.random.default_rng(5).normal(size=model.size).astype(np.float32)
    write_model(path, weights, model, schema, RECIPE)
    return path


@pytest.fixture
def standardised(tmp_path: Path) -> Dataset:
    path = tmp_path / "mine.csv"
    path.write_text(iris_text())
    return load_dataset(DataConfig(path=path, test=0.5))


def test_a_model_predicts_what_training_computed(tmp_path: Path, standardised: Dataset) -> None:
    path = written(tmp_path, standardised.schema, "relu", "tanh", "sigmoid")
    model = nodes.load(tmp_path)
    rows = [line.split(",") for line in iris_text().splitlines()]
    raw = np.array([row[:3] for row in rows], np.float64)
    names = [row[3] for row in rows]
    chances = model.predict(raw)
    assert (chances.dtype, chances.shape) == (np.float32, (60, 3))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-6)
    assert model.class_names == ("a", "b", "c")
    assert model.classes(raw).tolist() == [model.class_names[i] for i in chances.argmax(axis=1)]
    # The learner, on the rows that the data set prepared: one half of the file each.
    learner = Learner(open_engine("numpy"), model.model, 60)
    total = 0.0
    for x, y in (
        (standardised.train_x, standardised.train_y),
        (standardised.test_x, standardised.test_y),
    ):
        total += learner.evaluate(model.weights, x, y).loss_sum  # type: ignore[arg-type]
    picked = chances[np.arange(60), ["abc".index(name) for name in names]]
    assert -np.log(picked.astype(np.float64)).sum() == pytest.approx(total, rel=1e-5)
    assert model.schema == standardised.schema
    assert repr(model) == f"<TrainedModel {path}: 3 features, 3 classes, 129 parameters>"


def test_a_row_s_prediction_depends_on_no_other_row(tmp_path: Path) -> None:
    schema = load_dataset(DataConfig(source="digits")).schema
    model = nodes.load(written(tmp_path, schema, "relu"))
    x = np.random.default_rng(1).integers(0, 17, (1500, 8, 8)).astype(np.uint8)
    whole = model.predict(x)
    np.testing.assert_array_equal(model.predict(x[1400:1401].reshape(1, 64)), whole[1400:1401])
    np.testing.assert_array_equal(model.predict(x[:3].astype(np.float64).tolist()), whole[:3])
    assert model.predict(x[:0]).shape == (0, 10)
    assert model.classes(x).dtype == np.int64


@pytest.mark.parametrize("device", [str(info.index) for info in devices()])
def test_a_device_computes_the_same(tmp_path: Path, device: str) -> None:
    schema = load_dataset(DataConfig(source="digits")).schema
    model = nodes.load(written(tmp_path, schema, "relu", "tanh"))
    x = np.random.default_rng(1).integers(0, 17, (1500, 64))
    engine = open_engine(device)
    found = model.outputs(x, EngineForward(engine, model.model, model.weights))
    np.testing.assert_allclose(found, model.outputs(x), rtol=1e-5, atol=1e-5)
    engine.close()


def test_a_regression_gives_numbers(tmp_path: Path) -> None:
    schema = Schema("regression", (3,), 2)
    model = nodes.load(written(tmp_path, schema))
    x = np.random.default_rng(1).normal(size=(5, 3))
    tensors = load_file(tmp_path / "model.safetensors")
    wanted = x @ tensors["layers.0.weight"] + tensors["layers.0.bias"]
    np.testing.assert_allclose(model.predict(x), wanted, rtol=1e-5)
    assert model.class_names == ()
    with pytest.raises(ModelError, match="a regression has no classes"):
        model.classes(x)


def test_plain_safetensors_reads_all_that_it_takes(tmp_path: Path, standardised: Dataset) -> None:
    path = written(tmp_path, standardised.schema, "relu")
    with safe_open(path, "numpy") as file:
        facts = json.loads(file.metadata()["model"])
        t = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["recipe"]) == json.loads(RECIPE)
    raw = np.array([[0.3, -20.0, 0.004]])
    x = (raw - t["input.mean"]) * t["input.factor"]
    for index, layer in enumerate(facts["network"]["layers"]):
        x = x @ t[f"layers.{index}.weight"] + t[f"layers.{index}.bias"]
        x = np.maximum(x, 0) if layer["activation"] == "relu" else x
    chances = np.exp(x) / np.exp(x).sum()
    np.testing.assert_allclose(nodes.load(path).predict(raw), chances, rtol=1e-5)
    assert (facts["task"], facts["class_names"]) == ("classification", ["a", "b", "c"])


def test_loading_and_predicting_need_no_opencl(tmp_path: Path) -> None:
    path = written(tmp_path, Schema("classification", (4,), 3), "relu")
    code = (
        "import sys; import nodes; assert 'numpy' not in sys.modules; "
        f"model = nodes.load({str(path)!r}); model.predict([[1, 2, 3, 4]]); "
        "sys.exit('pyopencl' in sys.modules or 'sklearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (
            np.zeros((2, 3)),
            "the features are [2, 3], but the model takes [rows, 4] or [rows, 2, 2]",
        ),
        (np.zeros(4), "the features are [4], but"),
        (np.zeros((1, 4, 1)), "the features are [1, 4, 1], but"),
        ([[0, 1, np.nan, 2]], "row 0, feature 2: nan is not a finite float32"),
        ([[0, 1, 2, 3], [0, 1e39, 2, 3]], "row 1, feature 1: 1e+39 is not a finite float32"),
        ([["a", "b", "c", "d"]], "not numbers"),
        ([[1, 2], [3]], "the features are no array"),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path: Path, x: Any, says: str) -> None:
    model = nodes.load(written(tmp_path, Schema("classification", (2, 2), 3)))
    with pytest.raises(DataError) as caught:
        model.predict(x)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def changed(path: Path, metadata: dict[str, str | None], **tensors: Any) -> None:
    """Write a file anew with other tensors or metadata, as a tool would; None takes away."""
    with safe_open(path, "numpy") as file:
        facts = {**file.metadata(), **metadata}
    values = {**load_file(path), **tensors}
    save_file(
        {name: value for name, value in values.items() if value is not None},
        path,
        metadata={key: value for key, value in facts.items() if value is not None},
    )


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def card(path: Path, **values: Any) -> None:
    with safe_open(path, "numpy") as file:
        facts = json.loads(file.metadata()["model"])
    changed(path, {"model": json.dumps({**facts, **values}), "checksum": None})


WEIGHT = np.zeros((4, 3), np.float32)
CONVNET = {
    "input_shape": [1, 2, 2],
    "layers": [{"type": "conv2d", "filters": 1, "kernel_size": 9}, {}],
    "loss": "cross_entropy",
}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "damaged, or not a safetensors file"),
        (lambda path: path.write_text("x,y\n1,2\n"), "damaged, or not a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged, or not a safetensors"),
        (lambda path: flipped(path, -1), "damaged"),
        (lambda path: flipped(path, -40), "another checksum"),
        (lambda path: changed(path, {"recipe": "{}"}), "another checksum"),
        (lambda path: save_file({"w": WEIGHT}, path), "not a model of this version"),
        (lambda path: changed(path, {"format": "paramserver-model/1"}), "'paramserver-model/1'"),
        (lambda path: changed(path, {"model": None}), "metadata model: "),
        (lambda path: changed(path, {"model": "{}"}), "metadata model.task: "),
        (lambda path: card(path, scale="1"), "metadata model.scale"),
        (lambda path: card(path, class_names=["a"]), "1 names for 3 classes"),
        (lambda path: card(path, outputs=4), "another number"),
        (lambda path: card(path, task="regression"), "with the loss cross_entropy"),
        (lambda path: card(path, shape=[5]), "layers.0.weight is F32 [4, 3], not F32 [5, 3]"),
        (lambda path: card(path, network=CONVNET), "metadata model.layers.0: a window of 9 x 9"),
        (lambda path: changed(path, {}, **{"layers.0.bias": None}), "layers.0.bias is missing"),
        (lambda path: changed(path, {}, other=WEIGHT), "tensor other belongs to no layer"),
        (lambda path: changed(path, {}, **{"input.mean": WEIGHT[:, 0]}), "input.factor is missing"),
        (lambda path: changed(path, {}, **{"layers.0.weight": WEIGHT * np.nan}), "not finite"),
    ],
)
def test_a_file_that_is_no_whole_model_is_one_line(tmp_path: Path, damage: Any, says: str) -> None:
    path = written(tmp_path, Schema("classification", (4,), 3))
    damage(path)
    with pytest.raises(ModelError) as caught:
        nodes.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


def test_a_file_that_a_tool_changed_is_read_without_its_checksum(tmp_path: Path) -> None:
    path = written(tmp_path, Schema("classification", (4,), 3))
    changed(path, {"checksum": None}, **{"layers.0.weight": WEIGHT, "layers.0.bias": WEIGHT[0]})
    np.testing.assert_allclose(nodes.load(path).predict(np.ones((1, 4))), 1 / 3, rtol=1e-6)


def test_an_output_beyond_float32_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, Schema("regression", (4,), 3))
    changed(path, {"checksum": None}, **{"layers.0.weight": WEIGHT + 10})
    x = np.ones((1500, 4))
    x[1400] = 1e38
    with pytest.raises(ModelError, match="row 1400: the model's output for it is no finite"):
        nodes.load(path).predict(x)


def test_a_folder_without_a_model_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.safetensors in it: give the folder"):
        nodes.load(tmp_path)


def test_a_path_in_a_home_that_is_none_is_one_line() -> None:
    with pytest.raises(ModelError, match="its ~ stands for no home here: write the whole path"):
        nodes.load("~nobody-of-this-name/runs/one")


def test_a_model_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, Schema("classification", (4,), 3))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="No space left on device"):
        written(tmp_path, Schema("classification", (9,), 3))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]
