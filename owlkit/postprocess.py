"""From logits and boxes to detections, with numpy alone: thresholds, top-k, NMS, clipping.

Shapes: P patches (one box each), Q queries, N boxes or (box, query) pairs, K kept. Boxes are xyxy
(x0, y0, x1, y1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from owlkit.detections import Detections
from owlkit.errors import DetectionsError, QueryError
from owlkit.suppression import batched_nms, box_iou, by_descending_score, nms, soft_nms

__all__ = [
    "MASKED_LOGIT",
    "Selection",
    "batched_nms",
    "box_iou",
    "nms",
    "postprocess",
    "select_pairs",
    "soft_nms",
]

# Logits at or below this belong to padded queries, which no threshold may let through.
MASKED_LOGIT = -1e6

_DEFAULT_SOFT_IOU = 0.3

Indices = NDArray[np.int64]
Threshold = float | Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Selection:
    """Which of all (box, query) pairs become detections.

    Attributes:
        threshold: Scores must be strictly above; in [0, 1]. One number, or one for each query.
        nms_iou: Of two boxes that overlap by more than this IoU only the better one stays; in
            [0, 1]. None switches NMS off.
        class_agnostic: Whether boxes of different queries suppress each other too.
        soft_nms: Lower the scores of overlapping boxes instead of dropping them ("linear" or
            "gaussian"). ``nms_iou`` is then the overlap that "linear" leaves alone (None: 0.3).
        top_k: At most so many detections, the best ones; None for all.
        one_label_per_box: Only the best query of each box takes part, as in the processors of
            `transformers`. Otherwise a box may be found by several queries.

    Raises:
        QueryError: If a value is out of its range.
    """

    threshold: Threshold = 0.1
    nms_iou: float | None = None
    class_agnostic: bool = False
    soft_nms: Literal["linear", "gaussian"] | None = None
    top_k: int | None = None
    one_label_per_box: bool = False

    def __post_init__(self) -> None:
        limits = _checked_threshold(self.threshold).tolist()
        # A tuple, because a frozen object that holds an array can be neither compared nor hashed.
        object.__setattr__(
            self, "threshold", tuple(limits) if isinstance(limits, list) else float(limits)
        )
        _check_nms_iou(self.nms_iou)
        if self.soft_nms not in (None, "linear", "gaussian"):
            raise QueryError(f"expected soft_nms 'linear' or 'gaussian', found {self.soft_nms!r}")
        _check_top_k(self.top_k)


def postprocess(
    logits: NDArray[Any],
    boxes: NDArray[Any],
    *,
    names: Sequence[str],
    image_size: tuple[int, int],
    selection: Selection | None = None,
    source: object = None,
) -> Detections:
    """Turns one image's raw predictions into detections.

    Args:
        logits: [P, Q]; -1e6 or less where a query is padding.
        boxes: xyxy in pixels of the original image [P, 4]; may reach outside, and are clipped
            before they are compared with each other. What then has no area, as a box that lies
            wholly in the padding, is dropped.
        names: Q strings, one per query.
        image_size: Height and width of the original image.
        selection: What to keep; None for the defaults.
        source: The image as the user gave it, kept for `Detections.plot`.

    Returns:
        Detections by descending score.

    Raises:
        DetectionsError: If logits and boxes do not fit together or are not finite.
        QueryError: If there are not Q names, or not Q thresholds where several were given.
    """
    selection = Selection() if selection is None else selection
    logits, boxes = _checked_logits(logits), np.asarray(boxes, dtype=np.float32)
    if boxes.shape != (len(logits), 4):
        raise DetectionsError(f"expected boxes [{len(logits)}, 4], found {list(boxes.shape)}")
    if len(names) != logits.shape[1]:
        raise QueryError(f"expected {logits.shape[1]} names, one per query, found {len(names)}")
    height, width = image_size
    clipped = np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))
    visible = (clipped[:, :2] != clipped[:, 2:]).all(axis=1)
    logits, clipped = logits[visible], clipped[visible]
    suppress = selection.nms_iou is not None or selection.soft_nms is not None
    scores, patches, queries = select_pairs(
        logits,
        threshold=selection.threshold,
        top_k=None if suppress else selection.top_k,
        one_label_per_box=selection.one_label_per_box,
    )
    clipped = clipped[patches]
    if suppress:
        kept, scores = _suppressed(clipped, scores, queries, selection)
        kept, scores = kept[: selection.top_k], scores[: selection.top_k]
        clipped, queries = clipped[kept], queries[kept]
    return Detections(
        boxes=clipped,
        scores=scores,
        labels=queries,
        names=tuple(names[query] for query in queries),
        image_size=image_size,
        source=source,
    )


def select_pairs(
    logits: NDArray[Any],
    *,
    threshold: Threshold,
    top_k: int | None = None,
    one_label_per_box: bool = False,
) -> tuple[NDArray[np.float32], Indices, Indices]:
    """Finds the (patch, query) pairs whose score, the sigmoid of the logit, passes the threshold.

    Scores and thresholds are compared as float32 numbers, so that a returned score used as the
    threshold drops its own pair. Threshold 0 lets every pair through that is not masked, even where
    the score rounds to 0; threshold 1 none.

    Args:
        logits: [P, Q]; -1e6 or less where a query is padding.
        threshold: Scores must be strictly above; in [0, 1]. One number or Q.
        top_k: Return at most so many pairs, the best ones.
        one_label_per_box: Only the best query of each patch takes part (ties: the first).

    Returns:
        Scores [N] float32, patches [N] int64 and queries [N] int64, by descending score; equal
        scores by ascending patch, then query.

    Raises:
        DetectionsError: If the logits are not a matrix or hold NaN.
        QueryError: If a threshold is outside [0, 1], there are not Q of them, or top_k < 1.
    """
    logits = _checked_logits(logits)
    limits = _checked_threshold(threshold).astype(np.float32)
    query_count = logits.shape[1]
    if limits.ndim == 1 and len(limits) != query_count:
        raise QueryError(f"expected {query_count} thresholds, one per query, found {len(limits)}")
    _check_top_k(top_k)
    flat = _above(logits, _logit_limits(limits), one_label_per_box=one_label_per_box)
    patches, queries = flat // max(query_count, 1), flat % max(query_count, 1)
    scores = _sigmoid(logits.ravel()[flat])
    limit = np.broadcast_to(limits, query_count)[queries]
    passed = np.flatnonzero((scores > limit) | (limit == 0))
    best = passed[by_descending_score(scores[passed], top_k=top_k)]
    return scores[best], patches[best], queries[best]


def _suppressed(
    boxes: NDArray[Any], scores: NDArray[Any], queries: Indices, selection: Selection
) -> tuple[Indices, NDArray[np.float32]]:
    """Indices [K] that survive (soft-)NMS and their scores, by descending score."""
    classes = np.zeros_like(queries) if selection.class_agnostic else queries
    if selection.soft_nms is None:
        assert selection.nms_iou is not None
        kept = batched_nms(boxes, scores, classes, selection.nms_iou)
        return kept, scores[kept]
    limits = np.asarray(selection.threshold, dtype=np.float32)
    kept, decayed = soft_nms(
        boxes,
        scores,
        method=selection.soft_nms,
        iou_threshold=_DEFAULT_SOFT_IOU if selection.nms_iou is None else selection.nms_iou,
        score_threshold=float(limits.min(initial=1)),
        classes=classes,
    )
    lowered = decayed.astype(np.float32)
    passed = lowered > (limits if limits.ndim == 0 else limits[queries[kept]])
    return kept[passed], lowered[passed]


def _logit_limits(limits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits below which no score can pass, just low enough to be safe from rounding."""
    exact = limits.astype(np.float64)
    with np.errstate(divide="ignore"):
        cut = np.log(exact) - np.log1p(-exact)
    below = np.nextafter(cut.astype(np.float32), np.float32(-np.inf))
    return np.maximum(below, np.float32(MASKED_LOGIT))


def _above(
    logits: NDArray[np.float32], cut: NDArray[np.float32], *, one_label_per_box: bool
) -> Indices:
    """Ascending flat positions p * Q + q of the logits above ``cut`` (one number or [Q])."""
    passed = logits > cut
    if one_label_per_box and logits.size:
        best = np.zeros_like(passed)
        np.put_along_axis(best, logits.argmax(axis=1, keepdims=True), True, axis=1)
        passed &= best
    return np.flatnonzero(passed)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def _checked_logits(logits: NDArray[Any]) -> NDArray[np.float32]:
    checked = np.asarray(logits, dtype=np.float32)
    if checked.ndim != 2:
        raise DetectionsError(f"expected logits of shape [P, Q], found {list(checked.shape)}")
    # The minimum is NaN if any value is, and far cheaper than a mask of the whole matrix.
    if checked.size and np.isnan(checked.min()):
        patch, query = np.argwhere(np.isnan(checked))[0]
        raise DetectionsError(f"expected logits without NaN, found one at [{patch}, {query}]")
    return checked


def _checked_threshold(threshold: Threshold) -> NDArray[np.float64]:
    """The threshold as an array of no or one dimension."""
    try:
        checked = np.asarray(threshold, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise QueryError(f"expected a threshold in [0, 1], found {threshold!r}") from error
    if checked.ndim > 1:
        raise QueryError(
            f"expected one threshold, or one per query, found shape {list(checked.shape)}"
        )
    outside = checked[~((checked >= 0) & (checked <= 1))]
    if outside.size:
        raise QueryError(f"expected a threshold in [0, 1], found {outside.flat[0]}")
    return checked


def _check_nms_iou(nms_iou: float | None) -> None:
    try:
        fits = nms_iou is None or bool(0 <= nms_iou <= 1)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise QueryError(f"expected nms_iou in [0, 1] or None, found {nms_iou!r}")


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and not (isinstance(top_k, int | np.integer) and top_k >= 1):
        raise QueryError(f"expected top_k to be an integer of at least 1 or None, found {top_k!r}")
