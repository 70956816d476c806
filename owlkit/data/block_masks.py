"""Which patches are hidden from the student: rectangles that add up to a share of the picture.

Shapes: n pictures, h and w the height and width of the patch grid, P = h * w patches.

From BEiT (Bao et al. 2021, https://arxiv.org/abs/2106.08254) by way of iBOT and DINOv2 (Oquab et
al. 2023, https://arxiv.org/abs/2304.07193; https://github.com/facebookresearch/dinov2,
data/masking.py and collate.py).
"""

from dataclasses import dataclass
from math import exp, floor, log, sqrt

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError

_TRIES = 10


@dataclass(frozen=True)
class BlockMasks:
    """Draws masks.

    Attributes:
        patch_size: Side of a patch in pixels.
        probability: Share of the pictures that are masked at all, in [0, 1].
        ratio: Least and most share of the patches that is hidden in those, in [0, 1]. The shares of
            a batch are spread evenly over this range, one in each of as many cells as there are
            masked pictures.
        min_patches: Least patches a rectangle aims at.
        aspect: Least and most height over width of a rectangle.

    Raises:
        ConfigError: If a number is outside its range.
    """

    patch_size: int
    probability: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)
    min_patches: int = 4
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        if (
            min(self.patch_size, self.min_patches) < 1
            or not 0 <= self.probability <= 1
            or not 0 <= self.ratio[0] <= self.ratio[1] <= 1
            or not 0 < self.aspect[0] <= self.aspect[1]
        ):
            raise ConfigError(
                "masks: expected patches of at least 1, a probability and ratios least <= most in "
                f"[0, 1] and aspects 0 < least <= most; found {self}"
            )

    def grid(self, size: int) -> tuple[int, int]:
        """The patch grid of square crops.

        Args:
            size: Their side in pixels.

        Raises:
            ConfigError: If patches do not fill it.
        """
        if size % self.patch_size:
            raise ConfigError(
                f"global crops: expected a multiple of the patch size {self.patch_size}, found "
                f"{size}"
            )
        return size // self.patch_size, size // self.patch_size

    def __call__(
        self, count: int, grid: tuple[int, int], generator: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Draws the masks of a batch.

        Args:
            count: Number of pictures n.
            grid: Height and width of the patch grid.
            generator: Of all draws.

        Returns:
            True where a patch is hidden [n, P]; so in ``floor(probability * n)`` pictures. A mask
            may miss its share by a few patches, and in grids of few patches be empty.
        """
        masks = np.zeros((count, *grid), dtype=np.bool_)
        chosen = generator.permutation(count)[: floor(self.probability * count)]
        cells = np.linspace(*self.ratio, len(chosen) + 1)
        shares = generator.uniform(cells[:-1], cells[1:])
        for picture, share in zip(chosen, shares, strict=True):
            self._fill(masks[picture], int(masks[picture].size * share), generator)
        return masks.reshape(count, -1)

    def _fill(self, mask: NDArray[np.bool_], target: int, generator: np.random.Generator) -> None:
        """Hides rectangles until ``target`` patches are hidden or no further one fits."""
        hidden = 0
        while hidden < target:
            added = self._add_block(mask, target - hidden, generator)
            if not added:
                break
            hidden += added

    def _add_block(self, mask: NDArray[np.bool_], most: int, generator: np.random.Generator) -> int:
        """Hides a rectangle that adds 1 to ``most`` patches; returns how many, 0 if none fitted."""
        height, width = mask.shape
        low, high = map(log, self.aspect)
        for draw in generator.random((_TRIES, 4)).tolist():
            area = self.min_patches + (most - self.min_patches) * draw[0]
            aspect = exp(low + (high - low) * draw[1])
            rows, columns = round(sqrt(area * aspect)), round(sqrt(area / aspect))
            if rows >= height or columns >= width:
                continue
            top = int(draw[2] * (height - rows + 1))
            left = int(draw[3] * (width - columns + 1))
            block = mask[top : top + rows, left : left + columns]
            added = rows * columns - int(np.count_nonzero(block))
            if 0 < added <= most:
                block[...] = True
                return added
        return 0
