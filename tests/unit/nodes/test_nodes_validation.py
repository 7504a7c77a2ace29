"""Validation rows: which they are, and that a worker computes on them."""

from pathlib import Path

import numpy as np
import pytest

from kernels.engine import open_engine
from nodes.data import DataConfig, Dataset, load_dataset
from nodes.errors import DataError
from nodes.models import Model, ModelConfig
from nodes.training.compute import ModelCompute


def rows_of(*parts: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(map(tuple, np.concatenate(parts).tolist()))


def test_a_share_of_the_training_rows_is_held_out_by_class() -> None:
    plain = load_dataset(DataConfig(source="digits"))
    data = load_dataset(DataConfig(source="digits", validation=0.25))
    assert (len(data.train_x), len(data.validation_x), len(data.test_x)) == (1079, 359, 359)
    assert repr(data).startswith(
        "<Dataset digits: 1,079 training, 359 validation and 359 test rows"
    )
    assert rows_of(data.train_x, data.validation_x) == rows_of(plain.train_x)
    np.testing.assert_array_equal(data.test_x, plain.test_x)
    shares = np.bincount(data.validation_y) / np.bincount(plain.train_y)
    np.testing.assert_allclose(shares, 0.25, atol=0.005)
    assert len(plain.validation_x) == 0


def test_the_split_is_fixed_and_the_fingerprint_covers_it() -> None:
    first = load_dataset(DataConfig(source="digits", validation=0.25))
    again = load_dataset(DataConfig(source="digits", validation=0.25))
    np.testing.assert_array_equal(first.validation_x, again.validation_x)
    prints = {
        load_dataset(DataConfig(source="digits", validation=share)).fingerprint()
        for share in (0.0, 0.25, 0.3)
    }
    assert first.fingerprint() in prints
    assert len(prints) == 3


def test_validation_rows_take_no_part_in_the_mean(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("".join(f"{row**2},{row % 2}\n" for row in range(40)))
    data = load_dataset(DataConfig(path=path, validation=0.5))
    assert len(data.validation_x) == 16
    assert data.train_x.mean() == pytest.approx(0, abs=1e-6)
    assert abs(data.validation_x.mean()) > 1e-3


def npz(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    np.savez(path, x=x, y=y)


def csv(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    path.write_text("".join(f"{a},{b},{label}\n" for (a, b), label in zip(x, y, strict=True)))


@pytest.mark.parametrize("write", [npz, csv])
def test_validation_rows_from_a_file_of_their_own(tmp_path: Path, write: object) -> None:
    assert callable(write)
    paths = [tmp_path / f"{name}.{write.__name__}" for name in ("train", "validation")]
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 3
    write(paths[0], x, y)
    write(paths[1], x[:3], y[:3])
    config = DataConfig(path=paths[0], validation_path=paths[1], test=0.0)
    data = load_dataset(config)
    assert (len(data.train_x), len(data.validation_x)) == (20, 3)
    np.testing.assert_array_equal(data.validation_x, data.train_x[:3])
    np.testing.assert_array_equal(data.validation_y, [0, 1, 2])
    write(paths[1], x[:3], y[:3] + 2)
    with pytest.raises(DataError, match=r"validation\.\w+: (line 2|row 1): label '?3'? is"):
        load_dataset(config)


def test_a_share_that_holds_out_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.validation = 0\.001 holds out no row"):
        load_dataset(DataConfig(source="iris", validation=0.001))


def compute_on(data: Dataset, engine: str = "numpy") -> ModelCompute:
    config = ModelConfig.model_validate({"layers": [{"units": 8}, {}]})
    model = Model.for_dataset(config, data)
    return ModelCompute(open_engine(engine), model, data, seed=0, largest=4)


def test_a_worker_evaluates_the_split_it_is_asked_for() -> None:
    data = load_dataset(DataConfig(source="iris", validation=0.2))
    compute = compute_on(data)
    weights = compute.initial_weights(1)
    whole = compute.evaluate(weights, 0, 24, "validation")
    parts = [compute.evaluate(None, *span, "validation") for span in ((0, 7), (7, 24))]
    assert whole.loss_sum == pytest.approx(sum(part.loss_sum for part in parts), rel=1e-6)
    assert whole.correct == sum(part.correct for part in parts)
    assert compute.evaluate(None, 0, 24).loss_sum != pytest.approx(whole.loss_sum)
    swapped = Dataset(
        data.name, data.schema, data.train_x, data.train_y, data.test_x, data.test_y,
        data.validation_x, data.validation_y,
    )  # fmt: skip
    assert compute_on(swapped).evaluate(weights, 0, 24) == whole
