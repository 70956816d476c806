"""Instances that several labels describe: overlapping boxes become one box with all labels.

Shapes: N boxes, Q queries.
"""

import numpy as np
from numpy.typing import NDArray

EPS = 1e-6
"""Added to the union of two boxes, in the unit of the boxes squared; scenic's value for [0, 1]."""


def merge_overlapping(
    boxes: NDArray[np.float32],
    labels: NDArray[np.bool_],
    *,
    iou: float,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Merges boxes until no two of them overlap by ``iou`` or more.

    While there are such boxes, the two that overlap most are made one, which has the labels of both
    and is either of the two with equal probability. Without this, a model that is trained on
    several vocabularies at once has to find "dog" and "puppy" with two boxes (OWL-ViT [0],
    appendix; its best threshold was 0.9).

    - [0]: Simple Open-Vocabulary Object Detection, 2022, https://arxiv.org/abs/2205.06230

    Args:
        boxes: xyxy [N, 4] as fractions of the image; the unit matters for boxes of almost no area.
        labels: True where a box is an instance of a query [N, Q].
        iou: Least overlap of boxes that are merged, above 0.
        generator: Draws which box of a pair stays.

    Returns:
        Boxes [K, 4] and labels [K, Q] of the K <= N that are left, in their order.
    """
    overlaps = _overlaps(boxes.astype(np.float64))
    if overlaps.max(initial=0.0) < iou:
        return boxes, labels
    labels = labels.copy()
    left = np.ones(len(boxes), dtype=bool)
    while overlaps.max() >= iou:
        pair = divmod(int(overlaps.argmax()), len(boxes))
        stays, goes = pair if generator.random() < 0.5 else pair[::-1]
        labels[stays] |= labels[goes]
        left[goes] = False
        overlaps[goes] = overlaps[:, goes] = 0.0
    return boxes[left], labels[left]


def _overlaps(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of each box with those after it [N, N]; 0 on and below the diagonal."""
    x0, y0, x1, y1 = boxes.T
    width = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    height = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    intersection = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    area = (x1 - x0) * (y1 - y0)
    union = area[:, None] + area - intersection
    overlaps: NDArray[np.float64] = np.triu(intersection / (union + EPS), k=1)
    return overlaps
