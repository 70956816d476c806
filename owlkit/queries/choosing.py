"""Which patches of an encoded image stand for the examples on it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owlkit.backend import PatchArrays
from owlkit.geometry import ImageTransform
from owlkit.patch_choice import choose_patch
from owlkit.queries.combination import directions
from owlkit.queries.embeddings import EmbeddedExample, ExampleKey


def choose_examples(
    arrays: PatchArrays, transform: ImageTransform, keys: Sequence[ExampleKey]
) -> list[EmbeddedExample]:
    """What stands for each box on an image.

    Args:
        arrays: The encoded image.
        transform: How it was placed in the model input.
        keys: The boxes on it, in its pixels, and how to choose for each.

    Raises:
        QueryError: If a box or rule cannot be used; see
            :func:`owlkit.patch_choice.choose_patch`.
    """
    height, width = transform.image_size
    extent = transform.apply([[0, 0, width, height]])[0]
    return [_chosen(arrays, transform, extent, key) for key in keys]


def _chosen(
    arrays: PatchArrays, transform: ImageTransform, extent: NDArray[np.float32], key: ExampleKey
) -> EmbeddedExample:
    box = None if key.box is None else transform.apply([key.box])[0]
    choice = choose_patch(arrays, box, rule=key.choice, extent=extent)
    x0, y0, x1, y1 = transform.invert(arrays.boxes[choice.patch, None])[0].tolist()
    return EmbeddedExample(
        vector=directions(arrays.class_embeds[choice.patch]),
        patch=choice.patch,
        box=(x0, y0, x1, y1),
        # Rounding can lift the overlap of equal boxes above 1.
        iou=min(choice.iou, 1.0),
        objectness=_probability(choice.objectness),
    )


def _probability(logit: float | None) -> float | None:
    return None if logit is None else float(1 / (1 + np.exp(-np.float64(logit))))
