"""Annotated boxes become boxes inside their image, or are refused.

Shapes: A boxes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from owlkit.data.dataset_report import Finding, Findings

ROUNDING = 0.02
"""Pixels by which a box may stick out without being counted: annotations have two decimals."""


def check_boxes(
    boxes: NDArray[np.float64],
    sizes: NDArray[np.int64],
    findings: Findings,
    describe: Callable[[int], str],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clips boxes to their image and tells which are left.

    Args:
        boxes: x0, y0, width, height in pixels [A, 4]; any numbers.
        sizes: Width and height of each box's image in pixels [A, 2].
        findings: Where faults are counted.
        describe: Names a box for messages, by its row.

    Returns:
        xyxy pixels inside the image [A, 4], zeros where the box is refused; and where it is not
        [A].
    """
    finite = np.all(np.isfinite(boxes), axis=1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    with np.errstate(over="ignore"):
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = np.concatenate([sizes, sizes], axis=1)
    outside = ((corners[:, :2] >= sizes) | (corners[:, 2:] <= 0)).any(axis=1)
    clipped = np.clip(corners, 0, limits).astype(np.float32)
    # A box of a millionth of a pixel has a size in the file but none in 32 bits.
    flat = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    empty = (boxes[:, 2:] <= 0).any(axis=1) | (flat & ~outside)
    valid = finite & ~empty & ~outside
    sticks_out = np.any((corners < -ROUNDING) | (corners > limits + ROUNDING), axis=1)

    findings.add_rows(Finding.NOT_FINITE, ~finite, describe)
    findings.add_rows(Finding.EMPTY, finite & empty, describe)
    findings.add_rows(Finding.OUTSIDE, finite & ~empty & outside, describe)
    findings.add_rows(Finding.PARTLY_OUTSIDE, valid & sticks_out, describe)
    clipped[~valid] = 0
    return clipped, valid
