"""Random views of a picture for self-supervised learning: how one is made, in what order.

:mod:`owlkit.data.view_recipes` has the published numbers.
"""

import os
import random
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError

# Without it, importing albumentations asks a server for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # type: ignore[import-untyped]

_INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
# Longer over shorter side of an ordinary photograph.
_PHOTOGRAPH = 4 / 3
# Grey level from which on solarizing inverts; the step takes it as a share of the highest.
_SOLARIZE_FROM = 128 / 255


@dataclass(frozen=True)
class ViewRecipe:
    """What happens to a picture, in this order; all shares are probabilities in [0, 1].

    Attributes:
        size: Side of the view in pixels.
        area: Least and most share of the picture's area that the crop keeps, in (0, 1].
        aspect: Least and most width over height of the crop, which becomes a square.
        flip: How often the view is mirrored.
        jitter: Most change of brightness, contrast, saturation (factors of 1 +- this) and hue (1 is
            the whole circle; at most 0.5).
        jittered: How often the colours change.
        grey: How often the view is grey.
        blur: How often it is blurred.
        blur_sigma: Least and most standard deviation of the Gaussian in pixels.
        blur_kernel: Side of the Gaussian's window in pixels, odd; 0 makes it as large as sigma
            needs.
        solarize: How often grey levels of 128 and more are inverted.
        interpolation: Filter that enlarges; an area filter shrinks.

    Raises:
        ConfigError: If a number is outside its range.
    """

    size: int
    area: tuple[float, float] = (0.4, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jittered: float = 0.8
    grey: float = 0.2
    blur: float = 1.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 0
    solarize: float = 0.0
    interpolation: Literal["linear", "cubic"] = "cubic"

    def __post_init__(self) -> None:
        shares = (self.flip, self.jittered, self.grey, self.blur, self.solarize)
        if (
            self.size < 1
            or not 0 < self.area[0] <= self.area[1] <= 1
            or not 0 < self.aspect[0] <= self.aspect[1]
            or not 0 <= min(shares) <= max(shares) <= 1
        ):
            raise ConfigError(
                "view: expected a size above 0, area 0 < least <= most <= 1, aspect 0 < least <= "
                f"most and probabilities in [0, 1]; found {self}"
            )

    @property
    def pixels_needed(self) -> int:
        """Longer side of a 4:3 photograph of which even the smallest crop need not be enlarged."""
        oblong = max(self.aspect[1], 1 / self.aspect[0])
        return ceil(self.size * sqrt(_PHOTOGRAPH * oblong / self.area[0]))


class ViewAugmentation:
    """Makes views by one recipe.

    Views may be mirrored whatever a caption says, because no text goes with them. Threads need one
    object each; processes get theirs by pickling.

    Args:
        recipe: What happens to a picture.
    """

    def __init__(self, recipe: ViewRecipe) -> None:
        self.recipe = recipe
        self._pipeline: A.Compose | None = None

    def __call__(self, image: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
        """Makes one view; equal arguments give equal views.

        Args:
            image: RGB, uint8 [H, W, 3].
            seed: Whole number of at least 0 that decides every draw.

        Returns:
            RGB, uint8 [size, size, 3].
        """
        if self._pipeline is None:
            # Made once, because albumentations checks every argument.
            self._pipeline = A.Compose(self._steps(), is_check_shapes=False)
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        view: NDArray[np.uint8] = self._pipeline(image=image)["image"]
        return view

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the pipeline behind; it is built again where it is needed."""
        return {**self.__dict__, "_pipeline": None}

    def _steps(self) -> list[A.BasicTransform]:
        recipe = self.recipe
        steps: list[A.BasicTransform] = [
            A.RandomResizedCrop(
                (recipe.size, recipe.size),
                scale=recipe.area,
                ratio=recipe.aspect,
                interpolation=_INTERPOLATIONS[recipe.interpolation],
                area_for_downscale="image",
            ),
            A.HorizontalFlip(p=recipe.flip),
            A.ColorJitter(*recipe.jitter, p=recipe.jittered),
            A.ToGray(p=recipe.grey),
            A.GaussianBlur(
                (recipe.blur_kernel, recipe.blur_kernel), recipe.blur_sigma, recipe.blur
            ),
            A.Solarize((_SOLARIZE_FROM, _SOLARIZE_FROM), p=recipe.solarize),
        ]
        # A step that never happens would still cost its draw and checks, which is felt in 32 px.
        return [step for step in steps if step.p > 0]
