"""Preparation is one function, in training and in prediction."""

import numpy as np
import pytest

from nodes.data import Transform

PIXELS = np.arange(256, dtype=np.uint8).reshape(64, 4)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64])
def test_pixels_are_scaled_the_same_whatever_their_type(kind: type[np.generic]) -> None:
    transform = Transform(scale=1 / 255)
    found = transform.apply(PIXELS.astype(kind))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, transform.apply(PIXELS))
    np.testing.assert_array_equal(found, PIXELS.astype(np.float32) * np.float32(1 / 255))


def test_standardising_keeps_what_float32_cannot(rng: np.random.Generator) -> None:
    x = rng.normal(size=(100, 3)) + np.array([0, 1e9, 5])
    x[:, 2] = 5
    transform = Transform.standardising(x)
    found = transform.apply(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.std(axis=0), [1, 1, 0], atol=1e-5)
    np.testing.assert_array_equal(found, ((x - transform.mean) * transform.factor).astype("f4"))
    out = np.empty((7, 3), np.float32)
    assert transform.apply(x[:7], out) is out
    np.testing.assert_array_equal(out, found[:7])


def test_equal_means_the_same_preparation(rng: np.random.Generator) -> None:
    x = rng.normal(size=(10, 3))
    assert Transform.standardising(x) == Transform.standardising(x.copy())
    assert Transform.standardising(x) != Transform.standardising(x * 2)
    assert Transform.standardising(x) != Transform()
    assert Transform(scale=0.5) != Transform()
