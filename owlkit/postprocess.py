"""From logits and boxes to detections, with numpy alone: thresholds, top-k, NMS, clipping.

Shapes: P patches (one box each), Q queries, N boxes or (box, query) pairs, K kept. Boxes are xyxy
(x0, y0, x1, y1).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owlkit.box_merging import merge_boxes
from owlkit.calibration import Calibration, QueryCalibrations
from owlkit.detections import Detections
from owlkit.errors import DetectionsError, QueryError
from owlkit.selection import Selection, Threshold, check_top_k, checked_threshold, passes
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

_LEAST_LOGIT = np.nextafter(np.float32(MASKED_LOGIT), np.float32(0))

# Logits looked at together: what is made of them, a few times their size, stays in the cache.
_BLOCK = 2**17

Indices = NDArray[np.int64]
Calibrations = Sequence[Calibration | None]


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
        clipped, scores, queries = merge_boxes(clipped, scores, queries, selection)
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
    limits = checked_threshold(threshold).astype(np.float32)
    patch_count, query_count = logits.shape
    if limits.ndim == 1 and len(limits) != query_count:
        raise QueryError(f"expected {query_count} thresholds, one per query, found {len(limits)}")
    check_top_k(top_k)
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
        pairs = pairs.take(np.flatnonzero(passes(pairs.scores, limit)))
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
