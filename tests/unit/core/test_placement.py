"""Slices' bounds and the map."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramserver.placement import ClusterMap, Member, assign, parse_map, slice_bounds
from paramserver.spec import RunSpec, TableSpec

PEERS = tuple(Member(name=f"peer-{i}", incarnation=i, address=f"h:{i}") for i in range(3))


@given(st.integers(1, 1 << 33))
def test_bounds_cover_the_table_in_slices_of_the_promised_size(size: int) -> None:
    bounds = slice_bounds(size)
    assert bounds[0] == 0
    assert bounds[-1] == size
    lengths = [(b - a) * 4 for a, b in pairwise(bounds)]
    assert len(lengths) <= 4097
    assert all(length % 128 == 0 for length in lengths[:-1])
    assert len(set(lengths[:-1])) <= 1
    if size * 4 >= 16 * 4096:
        assert len(lengths) >= 16
    if len(lengths) > 1:
        assert lengths[0] >= 4096
    if size * 4 <= 4096 * 4 * 1024 * 1024:
        assert lengths[0] <= 4 * 1024 * 1024


def test_bounds_do_not_depend_on_anything_else() -> None:
    assert slice_bounds(4810) == (0, 1024, 2048, 3072, 4096, 4810)


@pytest.mark.parametrize("size", [0, -1])
def test_no_table_without_elements(size: int) -> None:
    with pytest.raises(ValueError, match="at least one element"):
        slice_bounds(size)


@given(st.integers(1, 500), st.integers(1, 40))
def test_slices_are_given_out_evenly_in_contiguous_blocks(count: int, members: int) -> None:
    owners = assign(count, members)
    assert len(owners) == count
    assert list(owners) == sorted(owners)
    held = [owners.count(member) for member in set(owners)]
    assert max(held) - min(held) <= 1
    assert len(set(owners)) == min(count, members)


def test_the_map_survives_json_and_names_primaries() -> None:
    spec = RunSpec(name="r", table=TableSpec(size=100_000), examples=10)
    placed = ClusterMap().with_run(spec, PEERS)
    again = parse_map(placed.model_dump_json())
    assert again == placed
    assert again.run_primary() == PEERS[0]
    held = [again.held_by(peer.name, peer.incarnation)["r/model"] for peer in PEERS]
    assert sorted(index for one in held for index in one) == list(
        range(len(slice_bounds(100_000)) - 1)
    )
    assert again.held_by("peer-0", 99) == {}
    assert again.without_run("r/model").tables == {}
    assert again.without_run("r/model").serial > again.serial
