"""Operations that are taken down once and enqueued again."""

import gc

import numpy as np
import pytest
from exchange import get, normal, put

from kernels import reference
from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops import reductions, vectors


def test_a_replay_does_what_the_operations_do_over_what_the_arrays_hold_then(
    engine: Engine,
) -> None:
    a, b, bias = put(engine, normal(1, 37, 65)), put(engine, normal(2, 65, 19)), normal(3, 19)
    offsets, out, sums = put(engine, bias), engine.empty((37, 19)), engine.empty((19,))
    workspace = reductions.workspace(engine, 19)
    vectors.fill(engine, out, 7.0)
    with engine.recording() as replay:
        engine.matmul(a, b, out, bias=offsets, activation="relu")
        reductions.column_sum(engine, out, sums)
        vectors.clip_norm(engine, sums, 0.5, workspace)
    assert (get(engine, out) == 7.0).all()  # nothing was done
    for seed in (1, 11, 12):
        left, right = normal(seed, 37, 65), normal(2, 65, 19)
        engine.upload(a, left)
        engine.wait()
        replay()
        once = get(engine, out), get(engine, sums)
        engine.matmul(a, b, out, bias=offsets, activation="relu")
        reductions.column_sum(engine, out, sums)
        vectors.clip_norm(engine, sums, 0.5, workspace)
        np.testing.assert_array_equal(once[0], get(engine, out))
        np.testing.assert_array_equal(once[1], get(engine, sums))
        wanted = np.empty((37, 19), np.float32)
        reference.matmul(left, right, wanted, bias=bias, activation="relu")
        np.testing.assert_allclose(once[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.heavy
def test_a_replay_keeps_its_workspace_when_others_need_a_larger_one(engine: Engine) -> None:
    a, b = put(engine, normal(1, 40, 24)), put(engine, normal(2, 40, 16))
    out = engine.empty((24, 16))
    with engine.recording() as replay:
        engine.matmul(a, b, out, form="tn")
    replay()
    before = get(engine, out)
    for size in (100, 300, 700):  # "tn" packs A into a workspace that grows
        large = put(engine, normal(size, size, size))
        engine.matmul(large, large, engine.empty((size, size)), form="tn")
    engine.wait()
    gc.collect()
    vectors.fill(engine, out, 0.0)
    replay()
    np.testing.assert_array_equal(get(engine, out), before)


def test_what_does_not_go_into_a_recording_is_refused(engine: Engine) -> None:
    a, host = engine.empty((4,)), np.zeros(4, np.float32)
    with engine.recording():
        for ask in (
            lambda: engine.upload(a, host),
            lambda: engine.download(a, host),
            engine.wait,
            engine.recording().__enter__,
        ):
            with pytest.raises(KernelError, match="recorded|one recording"):
                ask()
    engine.upload(a, host)
    engine.wait()
