"""From logits and boxes to detections, with numpy alone: thresholds, top-k, NMS, clipping.

Shapes: P patches (one box each), Q queries, N boxes or (box, query) pairs, K kept. Boxes are xyxy
(x0, y0, x1, y1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owlkit.box_fusion import fuse_boxes
from owlkit.calibration import Calibration, QueryCalibrations
from owlkit.detections import Detections
from owlkit.errors import DetectionsError, QueryError
from owlkit.suppression import batched_nms, box_iou, by_descending_score, nms, soft_nms

__all__ = [
    "MASKED_LOGIT",
    "Selection",
    "batched_nms",
    "box_iou",
    "fuse_boxes",
    "nms",
    "postprocess",
    "select_pairs",
    "soft_nms",
]

# Logits at or below this belong to padded queries, which no threshold may let through.
MASKED_LOGIT = -1e6

_LEAST_LOGIT = np.nextafter(np.float32(MASKED_LOGIT), np.float32(0))

_DEFAULT_SOFT_IOU = 0.3
_DEFAULT_FUSION_IOU = 0.55

# Logits looked at together: what is made of them, a few times their size, stays in the cache.
_BLOCK = 2**17

Indices = NDArray[np.int64]
Threshold = float | Sequence[float] | NDArray[np.floating[Any]]
Calibrations = Sequence[Calibration | None]


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
        box_fusion: Average overlapping boxes instead of dropping them; see
            :func:`owlkit.box_fusion.fuse_boxes`. ``nms_iou`` is then the overlap that joins boxes
            (None: 0.55); excludes ``soft_nms``.

    Raises:
        QueryError: If a value is out of its range or two contradict each other.
    """

    threshold: Threshold = 0.1
    nms_iou: float | None = None
    class_agnostic: bool = False
    soft_nms: Literal["linear", "gaussian"] | None = None
    top_k: int | None = None
    one_label_per_box: bool = False
    box_fusion: bool = False

    def __post_init__(self) -> None:
        limits = _checked_threshold(self.threshold).tolist()
        # A tuple, because a frozen object that holds an array can be neither compared nor hashed.
        object.__setattr__(
            self, "threshold", tuple(limits) if isinstance(limits, list) else float(limits)
        )
        _check_nms_iou(self.nms_iou)
        if self.soft_nms not in (None, "linear", "gaussian"):
            raise QueryError(f"expected soft_nms 'linear' or 'gaussian', found {self.soft_nms!r}")
        if self.box_fusion and self.soft_nms is not None:
            raise QueryError(
                f"expected soft_nms or box_fusion, found both ({self.soft_nms!r} and "
                f"{self.box_fusion!r})"
            )
        _check_top_k(self.top_k)


def postprocess(
    logits: NDArray[Any],
    boxes: NDArray[Any],
    *,
    names: Sequence[str],
    image_size: tuple[int, int],
    selection: Selection | None = None,
    calibrations: Calibrations | None = None,
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
        selection: What to keep; None for the defaults. Thresholds are compared with the calibrated
            scores.
        calibrations: How the logits of each query become scores, Q of them, None for the sigmoid;
            None for the sigmoid everywhere. One object for all queries is the fastest.
        source: The image as the user gave it, kept for `Detections.plot`.

    Returns:
        Detections by descending score.

    Raises:
        DetectionsError: If logits and boxes do not fit together or are not finite.
        QueryError: If there are not Q names, or not Q thresholds or calibrations where several
            were given.
    """
    selection = Selection() if selection is None else selection
    logits, boxes = _checked_logits(logits), np.asarray(boxes, dtype=np.float32)
    if boxes.shape != (len(logits), 4):
        raise DetectionsError(f"expected boxes [{len(logits)}, 4], found {list(boxes.shape)}")
    if len(names) != logits.shape[1]:
        raise QueryError(f"expected {logits.shape[1]} names, one per query, found {len(names)}")
    height, width = image_size
    clipped = np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))
    merge = selection.nms_iou is not None or selection.soft_nms is not None or selection.box_fusion
    scores, patches, queries = select_pairs(
        logits,
        threshold=selection.threshold,
        top_k=None if merge else selection.top_k,
        one_label_per_box=selection.one_label_per_box,
        calibrations=calibrations,
        visible=(clipped[:, :2] != clipped[:, 2:]).all(axis=1),
    )
    clipped = clipped[patches]
    if merge:
        merged = _fused if selection.box_fusion else _suppressed
        clipped, scores, queries = merged(clipped, scores, queries, selection)
    best = slice(selection.top_k)
    clipped, scores, queries = clipped[best], scores[best], queries[best]
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
    calibrations: Calibrations | None = None,
    visible: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], Indices, Indices]:
    """Finds the (patch, query) pairs whose score passes the threshold.

    The score is the sigmoid of the logit, or what the query's calibration makes of the logit.
    Scores and thresholds are compared as float32 numbers, so that a returned score used as the
    threshold drops its own pair. Threshold 0 lets every pair through that is not masked, even where
    the score rounds to 0; threshold 1 none. The logits are neither copied nor changed.

    Args:
        logits: [P, Q]; -1e6 or less where a query is padding.
        threshold: Scores must be strictly above; in [0, 1]. One number or Q.
        top_k: Return at most so many pairs, the best ones.
        one_label_per_box: Only the query with the best score takes part for each patch (ties: the
            first; among calibrated scores the one with the largest logit).
        calibrations: One for each query, None for the sigmoid; None for the sigmoid everywhere.
        visible: Which patches take part [P]; None for all.

    Returns:
        Scores [N] float32, patches [N] int64 and queries [N] int64, by descending score; equal
        scores by ascending patch, then query. With calibrations, which may give many logits one
        score, equal scores by descending logit first.

    Raises:
        DetectionsError: If the logits are not a matrix or hold NaN, or ``visible`` does not fit.
        QueryError: If a threshold is outside [0, 1], there are not Q of them or not Q
            calibrations, or top_k < 1.
    """
    logits = _checked_logits(logits)
    limits = _checked_threshold(threshold).astype(np.float32)
    patch_count, query_count = logits.shape
    if limits.ndim == 1 and len(limits) != query_count:
        raise QueryError(f"expected {query_count} thresholds, one per query, found {len(limits)}")
    _check_top_k(top_k)
    calibration = QueryCalibrations(calibrations, query_count)
    # The best query of a box may miss its own threshold, and then no other query steps in: all that
    # pass the lowest threshold compete.
    lowest = limits.min(initial=1) if one_label_per_box and not calibration.shared else limits
    cuts = _logit_cuts(np.asarray(lowest), calibration)
    rows = _rows_above(logits, cuts.min(initial=np.inf))
    if visible is not None:
        rows = rows[_checked_visible(visible, patch_count)[rows]]
    parts = [_Pairs.none()]
    step = max(1, _BLOCK // max(query_count, 1))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        pairs = _pairs_above(logits[block], cuts, calibration, one_label_per_box=one_label_per_box)
        limit = np.broadcast_to(limits, query_count)[pairs.queries]
        pairs = pairs.take(np.flatnonzero((pairs.scores > limit) | (limit == 0)))
        parts.append(pairs._replace(patches=block[pairs.patches]))
        if top_k is not None:
            parts = [_best(parts, calibration, top_k)]
            cuts = _raised(cuts, parts[0], calibration, top_k)
    best = _best(parts, calibration, top_k)
    return best.scores, best.patches, best.queries


class _Pairs(NamedTuple):
    """(patch, query) pairs: four arrays of equal length."""

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    patches: Indices
    queries: Indices

    @classmethod
    def none(cls) -> "_Pairs":
        reals, integers = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
        return cls(reals, reals, integers, integers)

    def take(self, rows: Indices) -> "_Pairs":
        return _Pairs(self.scores[rows], self.logits[rows], self.patches[rows], self.queries[rows])


def _logit_cuts(limits: NDArray[np.float32], calibration: QueryCalibrations) -> NDArray[np.float32]:
    """Logits below which no score passes limits [Q] or one limit; 0 is passed by all unmasked."""
    least = np.where(limits == 0, -np.inf, calibration.least_logits(limits))
    return np.maximum(least, _LEAST_LOGIT)


def _rows_above(logits: NDArray[np.float32], cut: np.float32) -> Indices:
    """Rows of [P, Q] that hold a logit of at least ``cut``; checks that none is NaN."""
    if not logits.size:
        return np.zeros(0, dtype=np.int64)
    # A maximum is NaN if any value is. One pass over the matrix answers both questions.
    largest = logits.max(axis=1)
    if np.isnan(largest).any():
        patch = int(np.isnan(largest).argmax())
        query = int(np.isnan(logits[patch]).argmax())
        raise DetectionsError(f"expected logits without NaN, found one at [{patch}, {query}]")
    return np.flatnonzero(largest >= cut)


def _pairs_above(
    logits: NDArray[np.float32],
    cuts: NDArray[np.float32],
    calibration: QueryCalibrations,
    *,
    one_label_per_box: bool,
) -> _Pairs:
    """The pairs with logits of at least ``cuts`` (one number or [Q]), in ascending order."""
    if one_label_per_box and calibration.shared:
        patches, queries = np.arange(len(logits)), np.argmax(logits, axis=1)
        passed = logits[patches, queries] >= np.broadcast_to(cuts, logits.shape[1])[queries]
        patches, queries = patches[passed], queries[passed]
    else:
        patches, queries = np.divmod(np.flatnonzero(logits >= cuts), logits.shape[1])
    values = logits[patches, queries]
    pairs = _Pairs(calibration.probabilities(values, queries), values, patches, queries)
    if one_label_per_box and not calibration.shared:
        order = np.lexsort((-pairs.logits, -pairs.scores, patches))
        pairs = pairs.take(order[np.diff(patches[order], prepend=-1) > 0])
    return pairs


def _raised(
    cuts: NDArray[np.float32], best: _Pairs, calibration: QueryCalibrations, top_k: int
) -> NDArray[np.float32]:
    """Cuts below which no further pair can be among the best ``top_k``, given those so far."""
    if len(best.scores) < top_k or not calibration.shared:
        return cuts
    # A pair with an equal score may still win by its logit.
    below = np.nextafter(best.scores[-1], np.float32(0))
    return np.maximum(cuts, _logit_cuts(np.asarray(below), calibration))


def _best(parts: list[_Pairs], calibration: QueryCalibrations, top_k: int | None) -> _Pairs:
    """The pairs of all parts by descending score, at most ``top_k``."""
    pairs = _Pairs(*map(np.concatenate, zip(*parts, strict=True)))
    if not calibration.plain:
        pairs = pairs.take(np.argsort(-pairs.logits, kind="stable"))
    return pairs.take(by_descending_score(pairs.scores, top_k=top_k))


def _suppressed(
    boxes: NDArray[Any], scores: NDArray[Any], queries: Indices, selection: Selection
) -> tuple[NDArray[np.float32], NDArray[np.float32], Indices]:
    """Boxes, scores and queries that survive (soft-)NMS, by descending score."""
    classes = np.zeros_like(queries) if selection.class_agnostic else queries
    if selection.soft_nms is None:
        assert selection.nms_iou is not None
        kept = batched_nms(boxes, scores, classes, selection.nms_iou)
        return boxes[kept], scores[kept], queries[kept]
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
    kept, lowered = kept[passed], lowered[passed]
    return boxes[kept], lowered, queries[kept]


def _fused(
    boxes: NDArray[Any], scores: NDArray[Any], queries: Indices, selection: Selection
) -> tuple[NDArray[np.float32], NDArray[np.float32], Indices]:
    """The boxes of clusters, their scores and queries, by descending score."""
    mean_boxes, means, labels = fuse_boxes(
        boxes,
        scores,
        queries,
        _DEFAULT_FUSION_IOU if selection.nms_iou is None else selection.nms_iou,
        class_agnostic=selection.class_agnostic,
    )
    fused, lowered = mean_boxes.astype(np.float32), means.astype(np.float32)
    limits = np.asarray(selection.threshold, dtype=np.float32)
    # The mean of several queries' scores may miss the threshold of the one that gives the label.
    limits = limits if limits.ndim == 0 else limits[labels]
    passed = (lowered > limits) | (limits == 0)
    return fused[passed], lowered[passed], labels[passed]


def _checked_logits(logits: NDArray[Any]) -> NDArray[np.float32]:
    checked = np.asarray(logits, dtype=np.float32)
    if checked.ndim != 2:
        raise DetectionsError(f"expected logits of shape [P, Q], found {list(checked.shape)}")
    return checked


def _checked_visible(visible: NDArray[np.bool_], patch_count: int) -> NDArray[np.bool_]:
    if visible.shape != (patch_count,) or visible.dtype != bool:
        raise DetectionsError(
            f"expected visible as {patch_count} booleans, found {visible.dtype} of shape "
            f"{list(visible.shape)}"
        )
    return visible


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
