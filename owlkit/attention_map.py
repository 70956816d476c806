"""Where a vision transformer looks in one image, and that as a map of the image itself.

Shapes: n heads; h, w cells of the patch grid; H, W pixels of the original image.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ImageError
from owlkit.geometry import ImageTransform

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention of the last block to the patches of one image.

    Attributes:
        heads: In [0, 1], float32 [n, h, w]. What a head leaves for other tokens is not in it.
        transform: Where the image lies in the model's input, of which the cells are equal parts.
    """

    heads: Floats = field(repr=False)
    transform: ImageTransform

    @property
    def mean(self) -> Floats:
        """Mean over the heads [h, w]."""
        mean: Floats = self.heads.mean(axis=0)
        return mean

    def on_image(self, *, head: int | None = None, smooth: bool = False) -> Floats:
        """A map of the whole original image, without the padding around it.

        Args:
            head: Which one, from 0; None takes the mean of all.
            smooth: Interpolate between the centres of the cells; otherwise each pixel has the value
                of the cell that its centre lies in.

        Returns:
            float32 [H, W], for :func:`owlkit.heatmaps.overlay`. Where a crop has cut the image off
            it is 0: the model has not looked there.

        Raises:
            ImageError: If there is no such head.
        """
        if head is not None and not 0 <= head < len(self.heads):
            raise ImageError(f"head: expected 0 to {len(self.heads) - 1}, found {head}")
        cells = self.mean if head is None else self.heads[head]
        return cells_on_image(cells, self.transform, smooth=smooth)


def cells_on_image(cells: Floats, where: ImageTransform, *, smooth: bool = False) -> Floats:
    """Lays what is known of each cell over the original image.

    Args:
        cells: One number for each cell [h, w].
        where: Where the image lies in the model's input, of which the cells are equal parts.
        smooth: See :meth:`AttentionMaps.on_image`.

    Returns:
        float32 [H, W]; 0 where a crop has cut the image off.
    """
    sides = zip(
        where.image_size, where.scale[::-1], where.offset[::-1], where.input_size, strict=True
    )
    # Centres of the pixels, in cells from the edge of the first one.
    rows, columns = (
        ((np.arange(length) + 0.5) * scale + offset) * count / full
        for (length, scale, offset, full), count in zip(sides, cells.shape, strict=True)
    )
    height, width = cells.shape
    down, across = _shares(rows, height, smooth=smooth), _shares(columns, width, smooth=smooth)
    # The smaller product first.
    found: Floats = down @ (cells @ across.T)
    return found


def _shares(places: NDArray[np.float64], count: int, *, smooth: bool) -> Floats:
    """How much of each of ``count`` cells lies at each place; nothing where there is no cell.

    Args:
        places: In cells from the edge of the first one [N].
        count: Of cells.
        smooth: Share a place between the cells with the two nearest centres.

    Returns:
        float32 [N, count].
    """
    numbers = np.arange(count)
    if smooth:
        centres = np.clip(places - 0.5, 0, count - 1)
        shares = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - numbers))
    else:
        shares = np.floor(places)[:, None] == numbers
    seen = (places >= 0) & (places < count)
    result: Floats = (shares * seen[:, None]).astype(np.float32)
    return result
