"""What happens to a training picture: mirror, crop, colour, size; its boxes follow.

The steps are albumentations', except for the crop, which is scenic's. What differs from scenic's
OWL-ViT (https://github.com/google-research/scenic, projects/owl_vit) on purpose:

* Pictures are shrunk with an area filter and enlarged with a bilinear one. Scenic shrinks without
  antialiasing, by default of its library; owlkit's predictor does antialias, and training should
  look like use.
* Sizes are rounded to the nearest pixel rather than down.
"""

import os
import random
import re
from collections.abc import Iterable
from math import ceil, sqrt
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from owlkit.data.mosaic import Tile
from owlkit.data.random_crop import crop_boxes, sample_crop
from owlkit.errors import BoxError
from owlkit.geometry import Fit

# Without it, importing albumentations asks a server for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # type: ignore[import-untyped]
from albumentations.augmentations.crops.transforms import (  # type: ignore[import-untyped]
    BaseCrop,
)

# Where camelCase begins a new word.
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LEFT_OR_RIGHT = re.compile(
    r"(?<![^\W\d_])(turn|top|bottom|upper|lower)?(left|right)"
    r"(most|wards?|hand(ed|er)?|sided?|turn|arrow|arm|leg|foot)?(?![^\W\d_])",
    re.IGNORECASE,
)
# At strength 1, brightness, contrast and saturation are multiplied by 1 +- this, and hue moves by
# up to a quarter of it (1 is the whole circle). These are SimCLR's proportions (Chen et al. 2020,
# https://arxiv.org/abs/2002.05709) at half its strength, because a detector is asked for colours.
_JITTER = 0.4
# Longer over shorter side of an ordinary photograph.
_PHOTOGRAPH = 4 / 3


class Augmentation:
    """Flips, crops, recolours and resizes one picture and makes it fit, in this order.

    The arguments are those of the configuration's `data.augment`, and two of the model's
    preprocessing. Threads need one object each,
    because the draws of a call are kept in it; processes get theirs by pickling.

    Args:
        flip: Probability of a mirror image, in [0, 1].
        crop: Whether a random part is cut out, always.
        crop_area: Least and most share of the picture's area that a crop keeps, in (0, 1].
        crop_aspect: Least and most width over height of a crop.
        min_remaining_area: A box stays if at least this share of its area, in [0, 1], is inside
            the crop.
        colour_jitter: Strength of random brightness, contrast, saturation and hue, in [0, 1].
        fit: How what is left becomes a tile: ``pad`` keeps its aspect and fills up to the right and
            below, ``squash`` resizes both sides independently, ``crop`` covers the tile and cuts
            the centre. That cut, too, drops boxes by ``min_remaining_area``.
        pad_value: Grey level of what ``pad`` fills up, in [0, 1].
    """

    def __init__(
        self,
        *,
        flip: float = 0.5,
        crop: bool = True,
        crop_area: tuple[float, float] = (0.3, 1.0),
        crop_aspect: tuple[float, float] = (0.75, 1.33),
        min_remaining_area: float = 0.6,
        colour_jitter: float = 0.0,
        fit: Fit = "pad",
        pad_value: float = 0.5,
    ) -> None:
        self.flip = flip
        self.crop = crop
        self.crop_area = crop_area
        self.crop_aspect = crop_aspect
        self.min_remaining_area = min_remaining_area
        self.colour_jitter = colour_jitter
        self.fit = fit
        self.pad_value = pad_value
        self._pipelines: dict[tuple[int, int, bool], A.Compose] = {}

    def __call__(
        self,
        image: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        *,
        size: int | tuple[int, int],
        may_flip: bool,
        seed: int,
    ) -> Tile:
        """Makes a tile of a picture; equal arguments give equal tiles, in any order and process.

        Args:
            image: RGB, uint8 [H, W, 3].
            boxes: xyxy pixels of ``image`` [N, 4]. What lies outside the picture is cut off first
                and does not count as area.
            labels: Class of each box [N].
            size: Height and width of the tile in pixels; one number for both.
            may_flip: Whether the picture means the same in the mirror; see :func:`may_flip`.
            seed: Whole number of at least 0 that decides every draw. The crop does not depend on
                ``may_flip``.

        Returns:
            The tile; padded to the right of or below the picture where their aspects differ. Boxes
            keep their order. The image may share memory with ``image``.

        Raises:
            BoxError: If there is not one label per box, or boxes are not [N, 4].
        """
        if boxes.ndim != 2 or boxes.shape[1] != 4 or len(labels) != len(boxes):
            raise BoxError(
                f"expected boxes [N, 4] and labels [N]; "
                f"found shapes {list(boxes.shape)} and {list(labels.shape)}"
            )
        height, width = (size, size) if isinstance(size, int) else size
        pipeline = self._pipeline(height, width, may_flip)
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
        result = pipeline(image=image, bboxes=_to_rows(boxes, image.shape[0], image.shape[1]))
        rows = result["bboxes"]
        return Tile(
            image=result["image"],
            boxes=(rows[:, :4] * [width, height, width, height]).astype(np.float32),
            labels=np.asarray(labels, np.int64)[rows[:, 4:].ravel().astype(np.int64)],
        )

    def pixels_needed(self, size: int | tuple[int, int]) -> int:
        """Longer side of a photograph of which even the smallest crop need not be enlarged.

        Args:
            size: Height and width of the tile in pixels; one number for both.

        Returns:
            Pixels, for the ``at_least`` of :func:`owlkit.data.reading.read_rgb`; reckoned for a
            photograph of 4:3.
        """
        longer = size if isinstance(size, int) else max(size)
        pads = self.fit == "pad"  # else the shorter side, too, has to fill the tile
        if not self.crop:
            return longer if pads else ceil(longer * _PHOTOGRAPH)
        oblong = 1.0 if pads else max(self.crop_aspect[1], 1 / self.crop_aspect[0])
        return ceil(longer * sqrt(_PHOTOGRAPH * oblong / self.crop_area[0]))

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the pipelines behind; they are built again where they are needed."""
        return {**self.__dict__, "_pipelines": {}}

    def _pipeline(self, height: int, width: int, may_flip: bool) -> A.Compose:
        """The steps for one tile size, made once because albumentations checks every argument."""
        key = (height, width, may_flip)
        if key not in self._pipelines:
            # Without bbox_params: the steps take boxes as fractions of the picture, which is what
            # they get. Albumentations' own conversion rounds to float32, its checks take as long as
            # a small picture, and its min_visibility is applied again after padding, where a limit
            # of 1 drops every box.
            self._pipelines[key] = A.Compose(
                self._steps(height, width, may_flip), is_check_shapes=False
            )
        return self._pipelines[key]

    def _steps(self, height: int, width: int, may_flip: bool) -> list[A.BasicTransform]:
        steps: list[A.BasicTransform] = []
        if may_flip and self.flip > 0:
            steps.append(A.HorizontalFlip(p=self.flip))
        if self.crop:
            steps.append(_RandomCrop(self.crop_area, self.crop_aspect, self.min_remaining_area))
        if self.colour_jitter > 0:
            change = _JITTER * self.colour_jitter
            steps.append(A.ColorJitter(change, change, change, change / 4, p=1.0))
        return steps + self._fitting_steps(height, width)

    def _fitting_steps(self, height: int, width: int) -> list[A.BasicTransform]:
        filters: dict[str, Any] = {
            "interpolation": cv2.INTER_LINEAR,
            "area_for_downscale": "image",
        }
        if self.fit == "squash":
            return [A.Resize(height, width, **filters)]
        if self.fit == "crop":
            return [
                A.SmallestMaxSize(max_size_hw=(height, width), **filters),
                _CentreCrop(height, width, self.min_remaining_area),
            ]
        return [
            A.LongestMaxSize(max_size_hw=(height, width), **filters),
            A.PadIfNeeded(
                min_height=height,
                min_width=width,
                position="top_left",
                border_mode=cv2.BORDER_CONSTANT,
                fill=round(self.pad_value * 255),
            ),
        ]


def may_flip(names: Iterable[str]) -> bool:
    """Whether none of the labels says left or right, so that a mirror image stays true.

    Example:
        >>> may_flip(["copyright sign", "leftover pizza"])
        True
        >>> may_flip(["dog", "Left-handed glove"]), may_flip(["right_arm"])
        (False, False)
        >>> may_flip(["TurnLeft"]), may_flip(["rightward arrow"])
        (False, False)
    """
    return not any(_LEFT_OR_RIGHT.search(_HUMP.sub(" ", name)) for name in names)


class _Crop(BaseCrop):  # type: ignore[misc]
    """Cuts a window out, and drops the boxes of which too little is inside."""

    def __init__(self, min_remaining_area: float) -> None:
        super().__init__(p=1.0)
        self.min_remaining_area = min_remaining_area

    def apply_to_bboxes(
        self,
        bboxes: NDArray[np.float64],
        crop_coords: tuple[int, int, int, int],
        **params: Any,
    ) -> NDArray[np.float64]:
        """Clips and drops boxes given as fractions of the picture; makes them ones of the crop."""
        height, width = params["shape"][:2]
        x0, y0, x1, y1 = crop_coords
        pixels = bboxes * _scale(height, width)
        kept = crop_boxes(pixels, crop_coords, min_remaining_area=self.min_remaining_area)
        return kept / _scale(y1 - y0, x1 - x0)


class _RandomCrop(_Crop):
    """:func:`sample_crop` as a step of albumentations."""

    def __init__(
        self,
        area: tuple[float, float],
        aspect: tuple[float, float],
        min_remaining_area: float,
    ) -> None:
        super().__init__(min_remaining_area)
        self.area = area
        self.aspect = aspect

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draws the window."""
        height, width = params["shape"][:2]
        window = sample_crop(
            height, width, area=self.area, aspect=self.aspect, generator=self.random_generator
        )
        return {"crop_coords": window}


class _CentreCrop(_Crop):
    """The centre of a picture that is at least as large as the tile, as predictions crop it."""

    def __init__(self, height: int, width: int, min_remaining_area: float) -> None:
        super().__init__(min_remaining_area)
        self.height = height
        self.width = width

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Places the window."""
        height, width = params["shape"][:2]
        y0, x0 = round((height - self.height) / 2), round((width - self.width) / 2)
        return {"crop_coords": (x0, y0, x0 + self.width, y0 + self.height)}


def _to_rows(boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float64]:
    """Fractions of the picture, clipped to it, and their row in ``boxes`` [M, 5]."""
    rows = np.column_stack([boxes.astype(np.float64), np.arange(len(boxes))])
    inside = crop_boxes(rows, (0, 0, width, height), min_remaining_area=0.0)
    return inside / _scale(height, width)


def _scale(height: int, width: int) -> NDArray[np.float64]:
    """Pixels of a whole picture along each column of a row."""
    return np.array([width, height, width, height, 1], np.float64)
