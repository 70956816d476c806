"""Where a vision transformer looks, and the objects that this finds without being taught any [0].

Shapes: h, w cells of the patch grid; N objects.

- [0]: DINO, 2021, https://arxiv.org/abs/2104.14294, figures 1, 3 and 4; the masks are those of
  https://github.com/facebookresearch/dino, visualize_attention.py
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from owlkit.attention_map import AttentionMaps
from owlkit.detections import Detections
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError
from owlkit.evaluation.features import evaluating
from owlkit.geometry import ImageTransform, Preprocessing

# Patches along the side of a square image, unless a size is given: twice as many as the model is
# used to show more of the shapes, beyond so many the time grows and not the picture.
_MOST_PATCHES = 60


def read_attention(
    tower: VisionTower,
    preprocessing: Preprocessing,
    image: NDArray[np.uint8],
    *,
    size: int | None = None,
) -> AttentionMaps:
    """Shows an image to a tower, whole and in its own aspect ratio, and notes where it looks.

    Args:
        tower: A vision transformer; used where it is, in evaluation mode.
        preprocessing: Its colours and kernel are used, not its size and fit.
        image: uint8 [H, W, 3].
        size: Side in pixels of a square image; others get as many pixels, with both sides rounded
            to whole patches. None for twice the native size, at most 60 patches.

    Raises:
        TokenError: If the tower is no vision transformer.
        ConfigError: If the size is less than a patch.
        ImageError: If the image cannot be used.
    """
    patch = tower.patch_size
    side = min(2 * max(tower.grid), _MOST_PATCHES) * patch if size is None else size
    if side < patch:
        raise ConfigError(f"size: expected at least {patch}, a patch, found {side}")
    fitted = fitted_size((image.shape[0], image.shape[1]), side, patch)
    pixels, transform = replace(preprocessing, size=fitted, fit="squash")(image)
    device = next(tower.parameters()).device
    with torch.inference_mode(), evaluating(tower):
        maps = tower.attention_maps(torch.from_numpy(pixels)[None].to(device))[0]
    return AttentionMaps(maps.float().cpu().numpy(), transform)


def fitted_size(image_size: tuple[int, int], side: int, patch: int) -> tuple[int, int]:
    """Height and width in whole patches, of an image's aspect ratio and of ``side`` squared pixels.

    Args:
        image_size: Height and width, at least 1 each.
        side: Of the square with as many pixels.
        patch: Side of a patch.
    """
    scale = side / (image_size[0] * image_size[1]) ** 0.5
    height, width = (max(1, round(length * scale / patch)) * patch for length in image_size)
    return height, width


def mass_mask(maps: NDArray[np.float32], mass: float) -> NDArray[np.bool_]:
    """The fewest cells of each map that hold this share of it.

    Args:
        maps: Values of at least 0 [..., h, w].
        mass: Share of each map's sum, above 0 and at most 1.

    Returns:
        bool [..., h, w]; at least one cell each.

    Raises:
        ConfigError: If the share is out of range.
    """
    if not 0 < mass <= 1:
        raise ConfigError(f"mass: expected a share above 0 and at most 1, found {mass}")
    cells = maps.reshape(-1, maps.shape[-2] * maps.shape[-1]).astype(np.float64)
    order = np.argsort(-cells, axis=1, kind="stable")
    descending = np.take_along_axis(cells, order, axis=1)
    # A cell is needed as long as the larger ones do not hold the share.
    larger = np.cumsum(descending, axis=1) - descending
    needed = larger < mass * descending.sum(axis=1, keepdims=True)
    needed[:, 0] = True
    mask: NDArray[np.bool_] = np.zeros(needed.shape, dtype=bool)
    np.put_along_axis(mask, order, needed, axis=1)
    return mask.reshape(maps.shape)


def find_objects(
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    transform: ImageTransform,
    *,
    min_area: float = 0.01,
) -> Detections:
    """A box around each connected part of a mask, the largest part first.

    Args:
        values: The map that the mask is of, at least 0 [h, w].
        mask: Cells that belong to objects [h, w]; cells are connected by their sides.
        transform: Where the image lies in the model's input.
        min_area: Least share of the grid's cells that a part has, in [0, 1].

    Returns:
        Boxes in pixels of the original image, named ``object``; the score is the share of the whole
        map that a part holds.
    """
    parts, count = ndimage.label(mask)
    numbers = np.arange(1, count + 1)
    areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    mass = np.bincount(parts.ravel(), weights=values.ravel(), minlength=count + 1)[1:]
    total = float(values.sum()) or 1.0
    height, width = mask.shape
    boxes, scores = [], []
    places = ndimage.find_objects(parts)
    for number in numbers[np.argsort(-areas, kind="stable")]:
        if areas[number - 1] < min_area * mask.size:
            continue
        rows, columns = places[number - 1]
        corners = (columns.start, rows.start, columns.stop, rows.stop)
        boxes.append(np.array(corners) / (width, height, width, height))
        scores.append(min(1.0, float(mass[number - 1]) / total))
    return Detections(
        boxes=transform.invert(np.array(boxes).reshape(-1, 4)),
        scores=np.array(scores, dtype=np.float32),
        labels=np.zeros(len(scores), dtype=np.int64),
        names=("object",) * len(scores),
        image_size=transform.image_size,
    )
