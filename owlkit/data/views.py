"""The strong views of self-supervised learning: two of a picture are to be told as one."""

import os
import random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Without it, importing albumentations asks a server for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # type: ignore[import-untyped]

# SimCLR's numbers; a jitter of strength 1 multiplies brightness, contrast and saturation by up to
# 1 +- 0.8 and turns hue by up to 0.2 of the circle.
_CROP_AREA = (0.08, 1.0)
_CROP_ASPECT = (3 / 4, 4 / 3)
_FLIP = 0.5
_JITTER, _JITTERED = 0.8, 0.8
_GREY = 0.2
_BLUR_SIGMA, _BLURRED = (0.1, 2.0), 0.5
_BLUR_KERNEL = 0.1  # of the side


class ViewAugmentation:
    """SimCLR's augmentation: random crop, mirror, colours, grey, blur.

    Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations,
    https://arxiv.org/abs/2002.05709, appendix A; SLIP uses it for its image loss (Mu et al. 2021,
    https://arxiv.org/abs/2112.12750). Views may be mirrored whatever a caption says, because no
    text goes with them.

    Threads need one object each; processes get theirs by pickling.

    Args:
        size: Side of a view in pixels.
        strength: Factor of the colour jitter, in [0, 1].
    """

    def __init__(self, size: int, *, strength: float = 1.0) -> None:
        self.size = size
        self.strength = strength
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
            self._pipeline = A.Compose(self._steps())
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        view: NDArray[np.uint8] = self._pipeline(image=image)["image"]
        return view

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the pipeline behind; it is built again where it is needed."""
        return {**self.__dict__, "_pipeline": None}

    def _steps(self) -> list[A.BasicTransform]:
        change = _JITTER * self.strength
        kernel = max(3, round(self.size * _BLUR_KERNEL) // 2 * 2 + 1)  # kernels are odd
        return [
            A.RandomResizedCrop(
                (self.size, self.size),
                scale=_CROP_AREA,
                ratio=_CROP_ASPECT,
                interpolation=cv2.INTER_LINEAR,
                area_for_downscale="image",
            ),
            A.HorizontalFlip(p=_FLIP),
            A.ColorJitter(change, change, change, change / 4, p=_JITTERED),
            A.ToGray(p=_GREY),
            A.GaussianBlur((kernel, kernel), _BLUR_SIGMA, p=_BLURRED),
        ]
