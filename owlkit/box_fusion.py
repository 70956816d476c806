"""Weighted box fusion: overlapping boxes are averaged instead of dropped, with numpy alone.

Shapes: N boxes, K fused. Boxes are xyxy (x0, y0, x1, y1) in any unit. Like
`owlkit.suppression` it decides in float64.
"""

import numpy as np
from numpy.typing import ArrayLike

from owlkit.errors import BoxError
from owlkit.suppression import (
    Floats,
    Indices,
    box_iou,
    by_descending_score,
    check_iou_threshold,
    checked_scored_boxes,
    members_of_classes,
)

__all__ = ["fuse_boxes"]

# Weight of a box with score 0: enough to have a place, too little to move a box with a score.
_LEAST_WEIGHT = 1e-200


def fuse_boxes(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    iou_threshold: float = 0.55,
    *,
    class_agnostic: bool = False,
) -> tuple[Floats, Floats, Indices]:
    """Averages the overlapping boxes of each class: weighted box fusion [0] of one model.

    Boxes are taken by descending score (equal scores: lower index first). Each joins the cluster
    whose fused box it overlaps most (ties: the older cluster), if by strictly more than the
    threshold, and otherwise starts a new one. The fused box is the mean of its cluster's boxes
    weighted by their scores, its score their plain mean: what the paper's rescaling by
    min(T, N) / N leaves for N = 1 model and T boxes, and never above the best of them. (The
    paper's other form, T / N, would exceed 1.)

    - [0]: Weighted boxes fusion: Ensembling boxes from different object detection models, 2021,
      https://arxiv.org/abs/1910.13302

    Args:
        boxes: xyxy [N, 4], finite.
        scores: [N], finite, at least 0.
        classes: Class of each box [N], integers.
        iou_threshold: In [0, 1].
        class_agnostic: Whether boxes of different classes fuse too; the best box of a cluster then
            gives its class.

    Returns:
        Fused boxes [K, 4] and scores [K], float64, and classes [K], int64, by descending score
        (equal scores: the cluster with the better best box first).

    Raises:
        BoxError: On a wrong shape, different lengths, a non-finite or negative value, classes
            that are no integers or a threshold outside [0, 1].
    """
    boxes, scores = checked_scored_boxes(boxes, scores)
    check_iou_threshold(iou_threshold)
    if (scores < 0).any():
        row = int((scores < 0).argmax())
        raise BoxError(f"expected scores of at least 0, found {scores[row]} at index {row}")
    order = by_descending_score(scores)
    groups = members_of_classes(classes, order)
    fused, means = boxes.copy(), scores.copy()
    seeds = [order[:0]]
    for members in [order] if class_agnostic else groups:
        first, fused_boxes, mean_scores = _clusters(boxes[members], scores[members], iou_threshold)
        seeds.append(members[first])
        fused[seeds[-1]], means[seeds[-1]] = fused_boxes, mean_scores
    is_seed = np.zeros(len(boxes), dtype=bool)
    is_seed[np.concatenate(seeds)] = True
    kept = order[is_seed[order]]
    kept = kept[by_descending_score(means[kept])]
    return fused[kept], means[kept], np.asarray(classes)[kept].astype(np.int64)


def _clusters(
    boxes: Floats, scores: Floats, iou_threshold: float
) -> tuple[Indices, Floats, Floats]:
    """Clusters boxes that come by descending score.

    Returns:
        Of each cluster the row of its first box [K], its fused box [K, 4] and its score [K].
    """
    weights = np.maximum(scores, _LEAST_WEIGHT)
    fused, means, totals = np.empty_like(boxes), np.empty_like(scores), np.empty_like(scores)
    sizes, first = np.empty_like(scores), np.empty(len(boxes), dtype=np.int64)
    count = 0
    for row, box in enumerate(boxes):
        overlaps = box_iou(box[None], fused[:count])[0]
        best = int(overlaps.argmax()) if count else 0
        if count and overlaps[best] > iou_threshold:
            totals[best] += weights[row]
            sizes[best] += 1
            # Means that move by differences stay exactly where they are for equal boxes.
            fused[best] += (box - fused[best]) * (weights[row] / totals[best])
            means[best] += (scores[row] - means[best]) / sizes[best]
        else:
            fused[count], means[count], totals[count] = box, scores[row], weights[row]
            sizes[count], first[count] = 1, row
            count += 1
    return first[:count], fused[:count], means[:count]
