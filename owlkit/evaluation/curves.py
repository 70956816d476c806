"""Precision and recall of ranked detections.

Shapes: N detections, K classes, T = 10 overlap thresholds, R = 101 recalls, A = 4 area ranges,
M limits on the detections of one image and class. -1 stands wherever a class has no object to find.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owlkit.evaluation.matching import AREAS, THRESHOLDS, Cells, Matches

RECALLS = np.linspace(0.0, 1.0, 101)
"""Where precision is sampled [R]."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision by recall, and the highest recall, for every class.

    Attributes:
        precision: At each recall, with the most detections [T, R, K, A].
        scores: Of the detection that reaches the recall; 0 where none does [T, R, K, A].
        recall: With at most so many detections, for each limit [T, K, A, M].
    """

    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    recall: NDArray[np.float64]

    @staticmethod
    def undefined(classes: int, limits: int) -> "Curves":
        """Curves of -1, to be filled in."""
        sampled = (len(THRESHOLDS), len(RECALLS), classes, len(AREAS))
        final = (len(THRESHOLDS), classes, len(AREAS), limits)
        return Curves(np.full(sampled, -1.0), np.full(sampled, -1.0), np.full(final, -1.0))


def trace_curves(
    cells: Cells,
    matches: Matches,
    *,
    classes: int,
    limits: tuple[int | None, ...],
    unjudged: NDArray[np.bool_] | None = None,
) -> Curves:
    """Ranks the detections of each class over all images and follows precision and recall.

    Args:
        cells: Ordered rows.
        matches: What the detections took.
        classes: How many classes there are (K).
        limits: Detections of an image and class that count towards the recall (M), the last being
            that of the curves; None for all.
        unjudged: Detections that are not wrong where they took nothing [N]; None for none.

    Returns:
        The curves.
    """
    curves = Curves.undefined(classes, len(limits))
    object_rows = _rows_by_class(cells.objects.category, classes)
    # Stable, so that of equal scores the lower image id is first.
    by_score = np.argsort(-cells.found.scores, kind="stable")
    found_rows = [
        by_score[rows] for rows in _rows_by_class(cells.found.category[by_score], classes)
    ]
    for area, (low, high) in enumerate(AREAS.values()):
        counted = _within(cells.objects.areas, low, high) & ~cells.objects.crowd
        judged = _within(cells.found.areas, low, high)
        if unjudged is not None:
            judged &= ~unjudged
        for index in range(classes):
            positives = int(np.count_nonzero(counted[object_rows[index]]))
            if positives:
                rows = found_rows[index]
                taken, void = (_unpack(bits[rows, area]) for bits in (matches.taken, matches.void))
                right, wrong = taken & ~void, ~taken & judged[rows]
                at = (slice(None), slice(None), index, area)
                curves.precision[at], curves.scores[at] = _sample(
                    right, wrong, cells.found.scores[rows], positives
                )
                for place, limit in enumerate(limits):
                    within = slice(None) if limit is None else cells.rank[rows] < limit
                    curves.recall[:, index, area, place] = right[:, within].sum(1) / positives
    return curves


def _sample(
    right: NDArray[np.bool_],
    wrong: NDArray[np.bool_],
    scores: NDArray[np.float64],
    positives: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and score [T, R] at each recall, from verdicts [T, N] in ranked order."""
    precision = np.zeros((len(THRESHOLDS), len(RECALLS)))
    score = np.zeros_like(precision)
    hits = np.cumsum(right, axis=1).astype(np.float64)
    misses = np.cumsum(wrong, axis=1)
    recall = hits / positives
    # The addend, pycocotools' own, avoids 0/0. Precision never rises again with the recall.
    height = hits / (misses + hits + np.spacing(1))
    height = np.maximum.accumulate(height[:, ::-1], axis=1)[:, ::-1]
    for threshold in range(len(THRESHOLDS)):
        first = np.searchsorted(recall[threshold], RECALLS, side="left")
        first = first[first < len(scores)]
        precision[threshold, : len(first)] = height[threshold, first]
        score[threshold, : len(first)] = scores[first]
    return precision, score


def _unpack(bits: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """One row for each threshold [T, N]."""
    marks = np.arange(len(THRESHOLDS), dtype=bits.dtype)
    return ((bits >> marks[:, None]) & 1).astype(bool)


def _rows_by_class(category: NDArray[np.int64], classes: int) -> list[NDArray[np.int64]]:
    order = np.argsort(category, kind="stable")
    return np.split(order, np.cumsum(np.bincount(category, minlength=classes))[:-1])


def _within(areas: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    return (areas >= low) & (areas <= high)
