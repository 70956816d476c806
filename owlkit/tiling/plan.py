"""Which parts of a large image a detector looks at, one after the other."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from owlkit.errors import ImageError, QueryError

View = tuple[int, int, int, int]
"""A part of an image: x0, y0, x1, y1 in whole pixels, x1 and y1 excluded."""

_MOST_OVERLAP = 0.9


@dataclass(frozen=True)
class Tiling:
    """How a large image is cut into overlapping tiles, each seen as sharply as a small image.

    Slicing as in SAHI (Slicing Aided Hyper Inference, 2022, https://arxiv.org/abs/2202.06934).

    Attributes:
        size: Height and width of a tile in pixels, or one number for both; None for the size of the
            model's input, at which no detail is lost.
        overlap: Share of a tile, in each direction, that the next one shows again, in [0, 0.9].
            Objects up to that size are complete in some tile.
        whole: Whether the whole image is one more view, for objects larger than a tile.

    Raises:
        QueryError: If a value is out of its range.
    """

    size: int | tuple[int, int] | None = None
    overlap: float = 0.25
    whole: bool = True

    def __post_init__(self) -> None:
        if self.size is not None:
            _sides(self.size)
        number = isinstance(self.overlap, int | float) and not isinstance(self.overlap, bool)
        if not number or not 0 <= self.overlap <= _MOST_OVERLAP:
            raise QueryError(
                f"expected a tile overlap in [0, {_MOST_OVERLAP}], found {self.overlap!r}"
            )

    def plan(self, image_size: tuple[int, int], input_size: tuple[int, int]) -> list[View]:
        """The views of an image.

        Tiles row by row, all of one size and none larger than the image, that together show every
        pixel: the last of a row or column is shifted inwards. The whole image comes last, unless a
        single tile shows it already.

        Args:
            image_size: Height and width of the image in pixels.
            input_size: Height and width of the model's input in pixels.

        Raises:
            ImageError: If the image has no pixels.
        """
        if min(image_size) < 1:
            raise ImageError(f"expected an image of at least 1x1 pixels; found {image_size}")
        rows, columns = (
            _spans(length, side, self.overlap)
            for length, side in zip(
                image_size, _sides(input_size if self.size is None else self.size), strict=True
            )
        )
        views = [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]
        if self.whole and len(views) > 1:
            views.append((0, 0, image_size[1], image_size[0]))
        return views


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """First and last pixel (excluded) of the tiles along one axis of `length` pixels."""
    side = min(side, length)
    stride = max(side - math.ceil(side * overlap), 1)
    last = length - side
    return [(start, start + side) for start in (*range(0, last, stride), last)]


def _sides(size: object) -> tuple[int, int]:
    """Height and width of a tile."""
    values = (
        tuple(size) if isinstance(size, Iterable) and not isinstance(size, str) else (size,) * 2
    )
    try:
        sides = tuple(-1 if isinstance(side, bool) else operator.index(side) for side in values)
    except TypeError:
        sides = ()
    if len(sides) != 2 or min(sides) < 1:
        raise QueryError(
            "expected the size of a tile in pixels, one positive integer or (height, width), "
            f"found {size!r}"
        )
    return sides[0], sides[1]
