import numpy as np
import pytest

from owlkit.data.mosaic import Tile, assemble, tile_sizes
from owlkit.errors import DatasetError


def random_tiles(size, side, seed=0):
    generator = np.random.default_rng(seed)
    tiles = []
    for number, (height, width) in enumerate(tile_sizes(size, side)):
        count = number % 3  # some tiles have no boxes
        corners = generator.uniform(0, min(height, width), (count, 2, 2))
        tiles.append(
            Tile(
                generator.integers(0, 256, (height, width, 3), np.uint8),
                np.sort(corners, axis=1).reshape(count, 4).astype(np.float32),
                generator.integers(0, 9, count),
            )
        )
    return tiles


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [36, 60, 61, 64, 768])
def test_sizes_fill_the_mosaic(size, side):
    sizes = tile_sizes(size, side)
    assert len(sizes) == side * side
    rows = [height for height, _ in sizes[::side]]
    assert sizes == [(height, width) for height in rows for width in rows]
    assert sum(rows) == size
    assert max(rows) - min(rows) <= 1
    for number in range(side + 1):
        assert abs(sum(rows[:number]) - number * size / side) <= 0.5


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [60, 64])
def test_mosaic_is_rows_of_tiles(size, side):
    tiles = random_tiles(size, side)
    mosaic = assemble(tiles, size)
    rows = [tiles[start : start + side] for start in range(0, len(tiles), side)]
    joined = np.vstack([np.hstack([tile.image for tile in row]) for row in rows])
    np.testing.assert_array_equal(mosaic.image, joined)

    boxes, y = [], 0
    for row in rows:
        x = 0
        for tile in row:
            for x0, y0, x1, y1 in tile.boxes.tolist():
                boxes.append([x0 + x, y0 + y, x1 + x, y1 + y])
            x += tile.image.shape[1]
        y += row[0].image.shape[0]
    np.testing.assert_allclose(mosaic.boxes, np.reshape(boxes, (-1, 4)), rtol=1e-6)
    assert mosaic.labels.tolist() == [label for tile in tiles for label in tile.labels]
    assert mosaic.image.dtype == np.uint8
    assert mosaic.boxes.dtype == np.float32
    assert mosaic.labels.dtype == np.int64


def test_a_single_tile_is_not_copied():
    (tile,) = random_tiles(8, 1)
    assert assemble([tile], 8) is tile


@pytest.mark.parametrize("count", [0, 2, 3, 8])
def test_the_number_of_tiles_must_be_square(count):
    with pytest.raises(DatasetError, match=f"found {count}"):
        assemble(random_tiles(30, 3)[:count], 30)


def test_a_tile_of_the_wrong_size_is_named():
    tiles = random_tiles(31, 2)  # 16, 15
    with pytest.raises(DatasetError, match=r"tile 0 .*\[16, 16, 3\]; found \[15, 15, 3\]"):
        assemble(tiles[::-1], 31)


@pytest.mark.parametrize("side", [0, 9])
def test_every_tile_has_pixels(side):
    with pytest.raises(DatasetError, match=f"1 to 8 tiles a side; found {side}"):
        tile_sizes(8, side)
