"""Mosaics: one training picture made of several, so that objects come in more sizes.

OWL-ViT tiles 1, 4 or 9 pictures, OWLv2 up to 36 (Minderer et al. 2022,
https://arxiv.org/abs/2205.06230; 2023, https://arxiv.org/abs/2306.09683).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import DatasetError


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture ready for the model, or ready to be part of a mosaic.

    Attributes:
        image: RGB, uint8 [H, W, 3].
        boxes: xyxy pixels of ``image``, float32 [N, 4].
        labels: Class of each box, int64 [N].
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def tile_sizes(size: int, side: int) -> list[tuple[int, int]]:
    """Sizes of the tiles of a mosaic, row by row.

    Where ``size`` is not a multiple of ``side``, edges lie at the nearest pixel, and tiles differ
    by at most one.

    Args:
        size: Height and width of the mosaic in pixels, at least ``side``.
        side: Tiles along each side.

    Returns:
        Height and width in pixels of each of the ``side * side`` tiles.

    Raises:
        DatasetError: If some tile would have no pixels.

    Example:
        >>> tile_sizes(5, 2)
        [(2, 2), (2, 3), (3, 2), (3, 3)]
    """
    if not 1 <= side <= size:
        raise DatasetError(
            f"a mosaic of {size} pixels expects 1 to {size} tiles a side; found {side}"
        )
    edges = _edges(size, side)
    lengths = [end - start for start, end in pairwise(edges)]
    return [(height, width) for height in lengths for width in lengths]


def assemble(tiles: Sequence[Tile], size: int) -> Tile:
    """Joins tiles to one square picture.

    Args:
        tiles: Row by row; a square number of them, each of the size that :func:`tile_sizes` says.
        size: Height and width of the result in pixels.

    Returns:
        The mosaic; boxes and labels in the order of the tiles. A single tile comes back as it is.

    Raises:
        DatasetError: If the number of tiles is no square, or a tile has another size.
    """
    side = isqrt(len(tiles))
    if not tiles or side * side != len(tiles):
        raise DatasetError(f"a mosaic expects 1, 4, 9, ... tiles; found {len(tiles)}")
    for number, (tile, expected) in enumerate(zip(tiles, tile_sizes(size, side), strict=True)):
        if tile.image.shape != (*expected, 3):
            raise DatasetError(
                f"tile {number} of a mosaic of {size} pixels: expected an image of shape "
                f"{[*expected, 3]}; found {list(tile.image.shape)}"
            )
    if side == 1:
        return tiles[0]
    edges = _edges(size, side)
    image = np.empty((size, size, 3), np.uint8)
    boxes = []
    for number, tile in enumerate(tiles):
        row, column = divmod(number, side)
        y, x = edges[row], edges[column]
        image[y : edges[row + 1], x : edges[column + 1]] = tile.image
        boxes.append(tile.boxes + np.array([x, y, x, y], np.float32))
    return Tile(image, np.concatenate(boxes), np.concatenate([tile.labels for tile in tiles]))


def _edges(size: int, side: int) -> list[int]:
    """Where tiles begin and end along one side: ``side + 1`` pixels from 0 to ``size``."""
    return [round(number * size / side) for number in range(side + 1)]
