"""Carry arrays to an engine and back."""

import numpy as np

from kernels.engine import Array, Engine


def put(engine: Engine, host: np.ndarray) -> Array:
    array = engine.empty(host.shape, host.dtype.type)
    engine.upload(array, np.ascontiguousarray(host))
    engine.wait()
    return array


def get(engine: Engine, array: Array) -> np.ndarray:
    host = np.empty(array.shape, array.dtype)
    engine.download(array, host)
    engine.wait()
    return host


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
