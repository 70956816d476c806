"""The random part of a picture that OWL-ViT is shown, and the boxes that survive the cut.

The crop is that of ``tf.image.stateless_sample_distorted_bounding_box`` with the whole picture as
the only object, as scenic's OWL-ViT calls it (https://github.com/google-research/scenic,
projects/owl_vit; Minderer et al. 2022, https://arxiv.org/abs/2205.06230). Two of its habits are
kept, because the published models grew up with them: a picture wider than the widest aspect always
loses its sides, and a crop narrower than the picture never reaches its last column, as one that is
lower never reaches its last row.
"""

import numpy as np
from numpy.typing import NDArray

_ATTEMPTS = 100
# Shares of area carry rounding errors of about 1e-16; this keeps a share of exactly the limit.
_ROUNDING = 1e-9


def sample_crop(
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    generator: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws a window: an aspect first, then a height among those that fit, then a place.

    Args:
        height: Height of the picture in pixels, at least 1.
        width: Width of the picture in pixels, at least 1.
        area: Least and most share of the picture's area, in (0, 1].
        aspect: Least and most width over height; rounding to whole pixels may overstep them.
        generator: Where the draws come from.

    Returns:
        xyxy in whole pixels; the whole picture if 100 attempts find nothing inside the limits.
    """
    for _ in range(_ATTEMPTS):
        ratio = float(generator.uniform(*aspect))
        size = _sample_size(height, width, area, ratio, generator)
        if size is not None:
            y0, x0 = (
                int(generator.integers(whole - part)) if part < whole else 0
                for part, whole in zip(size, (height, width), strict=True)
            )
            return x0, y0, x0 + size[1], y0 + size[0]
    return 0, 0, width, height


def _sample_size(
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: float,
    generator: np.random.Generator,
) -> tuple[int, int] | None:
    """Draws height and width of a window of one aspect; None if whole pixels allow none."""
    least, most = (share * height * width for share in area)
    lowest, highest = (round((limit / ratio) ** 0.5) for limit in (least, most))
    # The highest whose width still rounds to no more than the picture's.
    highest = min(highest, int((width + 0.5) / ratio), height)
    rows = int(generator.integers(lowest, highest + 1)) if lowest < highest else highest
    columns = round(rows * ratio)
    # Rounding to whole pixels may have overstepped the limits on area by a little.
    if rows * columns < least:
        rows += 1
        columns = round(rows * ratio)
    if rows * columns > most:
        rows -= 1
        columns = round(rows * ratio)
    fits = least <= rows * columns <= most and rows <= height and columns <= width
    return (rows, columns) if fits else None


def crop_boxes(
    boxes: NDArray[np.float64],
    window: tuple[float, float, float, float],
    *,
    min_remaining_area: float,
) -> NDArray[np.float64]:
    """Clips boxes to a window and drops those of which too little is left.

    Args:
        boxes: xyxy pixels, then any further columns [N, 4+].
        window: xyxy pixels in the frame of ``boxes``.
        min_remaining_area: Least share of a box's area, in [0, 1], that must be inside. A box with
            nothing inside goes at 0 too, and a box wholly inside stays at 1.

    Returns:
        The remaining boxes in their order, relative to the window's corner [M, 4+]; a copy.
    """
    x0, y0, x1, y1 = window
    clipped = boxes.copy()
    clipped[:, 0:4:2] = boxes[:, 0:4:2].clip(x0, x1) - x0
    clipped[:, 1:4:2] = boxes[:, 1:4:2].clip(y0, y1) - y0
    left = _area(clipped)
    keep: NDArray[np.bool_] = (left > 0) & (left >= (min_remaining_area - _ROUNDING) * _area(boxes))
    kept: NDArray[np.float64] = clipped[keep]
    return kept


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas [N] in square pixels; 0 for boxes with swapped corners."""
    sides: NDArray[np.float64] = (boxes[:, 2:4] - boxes[:, :2]).clip(0)
    return sides[:, 0] * sides[:, 1]
