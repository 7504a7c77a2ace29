import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.data.order import EPOCHS, SPLIT, hold_out, permutation, words


@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000), st.integers(0, 300))
@settings(max_examples=50)
def test_a_permutation_holds_every_position_once(seed: int, epoch: int, n: int) -> None:
    order = permutation(seed, epoch, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, permutation(seed, epoch, n))


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {
        tuple(permutation(seed, epoch, 50).tolist())
        for seed in (0, 1, 1 << 40)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 9


def test_the_order_is_the_same_on_every_machine() -> None:
    """Checkpoints and clusters of several machines rest on these very numbers."""
    assert permutation(7, 3, 10).tolist() == [0, 6, 9, 8, 4, 7, 2, 1, 3, 5]


def test_uses_and_indices_share_no_words() -> None:
    streams = [words(5, use, index, 64) for use in (EPOCHS, SPLIT) for index in (0, 1, 2**33)]
    assert len({word for stream in streams for word in stream.tolist()}) > 6 * 64 - 3


def test_a_stratified_split_takes_each_class_its_share() -> None:
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 50, 10])
    kept, held = hold_out(labels, 160, 0.2)
    assert np.bincount(labels[held]).tolist() == [20, 10, 2]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(160))
    again = hold_out(labels, 160, 0.2)
    np.testing.assert_array_equal(held, again[1])


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.3, 30)])
def test_a_plain_split(fraction: float, count: int) -> None:
    kept, held = hold_out(None, 100, fraction)
    assert (len(kept), len(held)) == (100 - count, count)
