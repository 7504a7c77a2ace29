import pytest

from kernels.cut import CLASSES, Choice, Cut, Tile, best_cut, cuts, shape_class

TILES = (Tile(6, 16, 128), Tile(8, 48, 288))
SHAPES = [(1, 1), (32, 64), (33, 10), (512, 500), (2048, 2048), (5000, 3), (7, 20000)]


def fits(cut: Cut, m: int, n: int, tile: Tile) -> bool:
    """Say whether the kernels can compute a product that is cut so."""
    across, down = cut.grid(m, n)
    panels = cut.columns % (tile.panel if cut.columns > tile.panel else 16) == 0
    covered = across * cut.columns >= n and down * cut.rows >= m
    return panels and covered and 0 < cut.columns <= tile.group and cut.rows % tile.rows == 0


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("units", [1, 2, 64])
def test_every_cut_covers_the_product_in_whole_panels_and_tiles(tile: Tile, units: int) -> None:
    for m, n in SHAPES:
        found = cuts(m, n, units, tile)
        assert found
        assert all(fits(cut, m, n, tile) for cut in found)


@pytest.mark.parametrize("tile", TILES)
def test_any_choice_makes_a_cut_that_fits(tile: Tile) -> None:
    numbers = (-5, 0, 1, 16, 17, 96, 10**9)
    for m, n in SHAPES:
        for columns in numbers:
            for items in numbers:
                assert fits(Choice(columns, items).cut(m, n, 2, tile), m, n, tile)


def test_a_small_product_stays_whole_and_a_large_one_is_shared() -> None:
    tile = Tile(6, 16, 128)
    assert best_cut("nn", 32, 64, 64, 2, tile).grid(32, 64) == (1, 1)
    for units in (2, 16):
        across, down = best_cut("tn", 2048, 2048, 784, units, tile).grid(2048, 2048)
        assert across * down >= 2 * units


def test_one_unit_is_not_shared_with() -> None:
    assert best_cut("nt", 512, 128, 512, 1, Tile(6, 16, 128)).grid(512, 128) == (1, 1)


def test_a_class_stands_for_shapes_like_it() -> None:
    assert {shape_class(one.form, one.m, one.n, one.k) for one in CLASSES} == set(CLASSES)
    assert str(shape_class("tn", 784, 500, 32)) == "tn/512x512x64"
    assert str(shape_class("nn", 1, 10**6, 1)) == "nn/32x2048x64"
