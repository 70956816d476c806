"""Non-maximum suppression (NMS) with numpy alone.

Shapes: N and M boxes, K kept. Boxes are xyxy (x0, y0, x1, y1) in any unit. The functions return
the same indices as those of the same name in `owlkit.ops`; like them they decide in float64: in
float32 an IoU of 3/10 compares as larger than a threshold of 0.3, although it is equal.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import BoxError

# Boxes compared with all others at once. Larger blocks save Python steps but waste comparisons on
# boxes that a neighbour in the block is about to drop; 16 was the fastest from 300 to 20,000 boxes.
_BLOCK = 16

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


def box_iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Intersection over union of every box in ``a`` with every box in ``b``.

    Args:
        a: xyxy [N, 4].
        b: xyxy [M, 4], in the unit of ``a``.

    Returns:
        IoU [N, M] in [0, 1], float64; 0 where both boxes are empty (a box with x1 < x0 or y1 < y0
        counts as empty).

    Raises:
        BoxError: If a shape is not [N, 4].
    """
    return _iou(_checked_boxes("a", a), _checked_boxes("b", b))


def nms(boxes: ArrayLike, scores: ArrayLike, iou_threshold: float) -> Indices:
    """Keeps the best of every group of overlapping boxes, whatever their class.

    Boxes are taken by descending score (equal scores: lower index first), and a box is dropped
    if its IoU with one already kept is strictly above the threshold.

    Args:
        boxes: xyxy [N, 4], finite.
        scores: [N], finite; need not be probabilities.
        iou_threshold: In [0, 1].

    Returns:
        Kept indices [K], int64, by descending score.

    Raises:
        BoxError: On a wrong shape, different lengths, a non-finite value or a threshold outside
            [0, 1].
    """
    boxes, scores = checked_scored_boxes(boxes, scores)
    check_iou_threshold(iou_threshold)
    return _greedy(boxes, by_descending_score(scores), iou_threshold)


def batched_nms(
    boxes: ArrayLike, scores: ArrayLike, classes: ArrayLike, iou_threshold: float
) -> Indices:
    """:func:`nms` inside each class: boxes of different classes never suppress each other.

    Args:
        boxes: xyxy [N, 4], finite.
        scores: [N], finite.
        classes: Class of each box [N], integers.
        iou_threshold: In [0, 1].

    Returns:
        Kept indices [K] of all classes, int64, by descending score (equal scores: lower index
        first).

    Raises:
        BoxError: As :func:`nms`, and if ``classes`` is not [N] integers.
    """
    boxes, scores = checked_scored_boxes(boxes, scores)
    check_iou_threshold(iou_threshold)
    keep = np.zeros(len(boxes), dtype=bool)
    order = by_descending_score(scores)
    for members in members_of_classes(classes, order):
        keep[_greedy(boxes, members, iou_threshold) if len(members) > 1 else members] = True
    return order[keep[order]]


def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    classes: ArrayLike | None = None,
) -> tuple[Indices, Floats]:
    """Lowers the scores of overlapping boxes instead of dropping them: Soft-NMS [0].

    Picks the largest current score again and again (equal scores: lower index first), and after
    each pick multiplies the scores that remain by a factor: ``linear`` by 1 - IoU where the IoU
    is above ``iou_threshold``, ``gaussian`` by exp(-IoU^2 / sigma) everywhere.

    - [0]: Soft-NMS - Improving Object Detection With One Line of Code, 2017,
      https://arxiv.org/abs/1704.04503

    Args:
        boxes: xyxy [N, 4], finite.
        scores: [N], finite.
        method: How a score decays.
        iou_threshold: Overlap that ``linear`` leaves alone, in [0, 1].
        sigma: Width of the ``gaussian`` decay, positive.
        score_threshold: Boxes are kept while their decayed score is strictly above, at least 0.
        classes: Integers [N]; if given, only boxes of the same class lower each other's score.

    Returns:
        Kept indices [K], int64, in the order of the picks (by descending decayed score), and
        their decayed scores [K], float64.

    Raises:
        BoxError: On a wrong shape, different lengths, a non-finite value, an unknown method or a
            setting out of its range.
    """
    boxes, decayed = checked_scored_boxes(boxes, scores)
    check_decay(method, iou_threshold, sigma, score_threshold)
    everything = np.arange(len(boxes))
    groups = [everything] if classes is None else members_of_classes(classes, everything)
    decay = partial(_decay, method=method, iou_threshold=iou_threshold, sigma=sigma)
    for members in groups:
        decayed[members] = _soft_pick(boxes[members], decayed[members], decay, score_threshold)
    kept = np.flatnonzero(decayed > score_threshold)
    kept = kept[by_descending_score(decayed[kept])]
    return kept, decayed[kept]


def by_descending_score(scores: NDArray[Any], *, top_k: int | None = None) -> Indices:
    """Sorts scores [N] without sorting more of them than needed.

    Args:
        scores: [N], free of NaN.
        top_k: At most so many indices, at least 1; None for all.

    Returns:
        Indices [K], int64, by descending score; equal scores: lower index first.
    """
    if top_k is None or top_k >= len(scores):
        return np.argsort(-scores, kind="stable")
    last = np.partition(scores, -top_k)[-top_k]
    better = np.flatnonzero(scores > last)
    ties = np.flatnonzero(scores == last)[: top_k - len(better)]
    return np.concatenate([better[np.argsort(-scores[better], kind="stable")], ties])


def _greedy(boxes: Floats, order: Indices, iou_threshold: float) -> Indices:
    """The indices of ``order`` that no earlier survivor overlaps by more than the threshold."""
    kept: list[Indices] = [order[:0]]
    while len(order):
        candidates = boxes[order]
        fits = _iou(candidates[:_BLOCK], candidates) <= iou_threshold
        alive = np.ones(len(order), dtype=bool)
        for row, fit in enumerate(fits):
            if alive[row]:
                alive[row + 1 :] &= fit[row + 1 :]
        survivors = order[:_BLOCK][alive[:_BLOCK]]
        order = order[_BLOCK:][alive[_BLOCK:]]
        kept.append(survivors)
    return np.concatenate(kept)


def _soft_pick(
    boxes: Floats, scores: Floats, decay: Callable[[Floats], Floats], score_threshold: float
) -> Floats:
    """Scores [N] at the moment each box was picked; 0 for boxes that fell to the threshold."""
    remaining, final = scores.copy(), np.zeros_like(scores)
    for _ in range(len(scores)):
        best = remaining.argmax()
        if remaining[best] <= score_threshold:
            break
        final[best] = remaining[best]
        remaining *= decay(_iou(boxes[best, None], boxes)[0])
        remaining[best] = 0
    return final


def _decay(iou: Floats, *, method: str, iou_threshold: float, sigma: float) -> Floats:
    """Factor in [0, 1] by which a picked box lowers the scores of boxes with this IoU [N]."""
    if method == "gaussian":
        factor: Floats = np.exp(-(iou * iou) / sigma)
        return factor
    return np.where(iou > iou_threshold, 1 - iou, 1)


def _iou(a: Floats, b: Floats) -> Floats:
    """IoU [N, M] of float64 boxes."""
    intersection = intersections(a, b)
    union = _area(a)[:, None] + _area(b) - intersection
    empty = union < np.finfo(np.float64).tiny
    iou: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=~empty)
    return iou


def intersections(a: Floats, b: Floats) -> Floats:
    """Area that each box of ``a`` [N, 4] shares with each of ``b`` [M, 4], float64 [N, M]."""
    # One coordinate at a time: several times faster than arrays whose last dimension is 2.
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    areas: Floats = np.maximum(width, 0) * np.maximum(height, 0)
    return areas


def _area(boxes: Floats) -> Floats:
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def members_of_classes(classes: ArrayLike, order: Indices) -> list[Indices]:
    """Splits ``order`` into the indices of each class, keeping their order."""
    classes = np.asarray(classes)
    if classes.shape != order.shape:
        raise BoxError(f"expected classes of shape [{len(order)}], found {list(classes.shape)}")
    if classes.dtype.kind not in "iub" and classes.size:
        raise BoxError(f"expected integer classes, found {classes.dtype}")
    by_class = order[np.argsort(classes[order], kind="stable")]
    starts = np.flatnonzero(np.diff(classes[by_class])) + 1
    return np.split(by_class, starts)


def _checked_boxes(name: str, boxes: ArrayLike) -> Floats:
    checked = np.asarray(boxes, dtype=np.float64)
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise BoxError(f"expected {name} of shape [N, 4], found {list(checked.shape)}")
    return checked


def checked_scored_boxes(boxes: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64; the scores as a copy that may be written to."""
    checked, values = _checked_boxes("boxes", boxes), np.array(scores, dtype=np.float64)
    if values.shape != (len(checked),):
        raise BoxError(f"expected scores of shape [{len(checked)}], found {list(values.shape)}")
    for name, found in (("scores", values), ("boxes", checked)):
        bad = np.argwhere(~np.isfinite(found))
        if len(bad):
            index = tuple(bad[0])
            raise BoxError(f"expected finite {name}, found {found[index]} at index {index[0]}")
    return checked, values


def check_iou_threshold(iou_threshold: float) -> None:
    """Raises BoxError unless the threshold is in [0, 1]."""
    if not 0 <= iou_threshold <= 1:
        raise BoxError(f"expected iou_threshold in [0, 1], found {iou_threshold}")


def check_decay(method: str, iou_threshold: float, sigma: float, score_threshold: float) -> None:
    """Raises BoxError for settings that :func:`soft_nms` cannot use."""
    if method not in ("linear", "gaussian"):
        raise BoxError(f"expected method 'linear' or 'gaussian', found {method!r}")
    check_iou_threshold(iou_threshold)
    if not (sigma > 0 and math.isfinite(sigma)):
        raise BoxError(f"expected a positive sigma, found {sigma}")
    if not (score_threshold >= 0 and math.isfinite(score_threshold)):
        raise BoxError(f"expected score_threshold >= 0, found {score_threshold}")
