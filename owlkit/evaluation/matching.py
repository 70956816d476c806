"""Greedy matching of detections to objects, as COCO and LVIS define it, for all images at once.

Shapes: G objects, N detections, T = 10 overlap thresholds, A = 4 area ranges. A *cell* is one
category in one image; objects and detections meet only within their cell.

The definition [0] walks through the detections of a cell by descending score, once for each
threshold and area range. Here all cells take a step at the same time and the thresholds are the
bits of one integer, so that no step is left that depends on their numbers. Results are the same to
the bit: which object a detection may take next does not depend on another cell or threshold.

- [0]: Microsoft COCO: Common Objects in Context, 2014, https://arxiv.org/abs/1405.0312
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from owlkit.evaluation.inputs import Found, Objects, Problem

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps (IoU) from which a detection counts as right [T]."""

AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Lowest and highest area in square pixels, both inclusive (A)."""

# Nothing demands more than an overlap of 1, which rounding may miss.
_LIMITS = np.minimum(THRESHOLDS, 1 - 1e-10)
_PAIRS_AT_ONCE = 2_000_000
Bits = np.uint16  # bit t stands for THRESHOLDS[t]


@dataclass(frozen=True, eq=False)
class Cells:
    """Objects and detections, ordered by cell, and within a cell as they take their turn.

    Attributes:
        objects: Sorted by image and category.
        object_cell: The cell of each [G], ascending.
        found: Sorted by image, category and descending score; equal scores in the given order.
        found_cell: The cell of each [N], ascending.
        rank: Place of each among the detections of its cell [N], from 0.
    """

    objects: Objects
    object_cell: NDArray[np.int64]
    found: Found
    found_cell: NDArray[np.int64]
    rank: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matches:
    """Which detections took an object; bit t of an integer is for ``THRESHOLDS[t]``.

    Attributes:
        taken: Took any object [N, A].
        void: Took an object that does not count: a crowd, or one outside the area range [N, A].
    """

    taken: NDArray[np.uint16]
    void: NDArray[np.uint16]


def make_cells(
    problem: Problem, *, max_detections: int | None, class_agnostic: bool = False
) -> Cells:
    """Sorts both sides into cells.

    Args:
        problem: Ground truth and detections.
        max_detections: The best so many of each cell are kept; None keeps all.
        class_agnostic: Whether a cell is a whole image. Of equal scores the lower category is
            then first, and all rows are of category 0 afterwards.

    Returns:
        The cells.
    """
    objects, found = problem.objects, problem.found
    categories = 1 if class_agnostic else len(problem.categories)

    def cell_of(rows: Objects | Found) -> NDArray[np.int64]:
        return rows.image * categories + (0 if class_agnostic else rows.category)

    # Both sorts are stable, so the given order decides on equal scores and equal overlaps.
    objects = objects.take(np.lexsort((objects.category, cell_of(objects))))
    found = found.take(np.lexsort((found.category, -found.scores, cell_of(found))))
    rank = place_in_run(cell_of(found))
    if max_detections is not None:
        kept = rank < max_detections
        found, rank = found.take(kept), rank[kept]
    object_cell, found_cell = cell_of(objects), cell_of(found)
    if class_agnostic:
        objects = replace(objects, category=np.zeros_like(objects.category))
        found = replace(found, category=np.zeros_like(found.category))
    return Cells(objects, object_cell, found, found_cell, rank)


def match_cells(cells: Cells) -> Matches:
    """Gives each detection, best first, the free object that it overlaps most.

    An object that does not count (a crowd, or one whose area is outside the range) is taken only
    if no other is left; a crowd stays free. Of equal overlaps the later object is taken.

    Args:
        cells: Ordered rows, of :func:`make_cells`.

    Returns:
        What was taken, for each threshold and area range.
    """
    found, objects, overlap = _candidates(cells)
    # By detection; of one detection the largest overlap first, then the later object.
    order = np.lexsort((-objects, -overlap, found))
    found, objects, overlap = found[order], objects[order], overlap[order]
    reached = ((1 << np.searchsorted(_LIMITS, overlap, side="right")) - 1).astype(Bits)
    turn = place_in_run(cells.found_cell[found])
    steps = np.split(np.argsort(turn, kind="stable"), np.cumsum(np.bincount(turn))[:-1])
    shape = (len(cells.rank), len(AREAS))
    matches = Matches(np.zeros(shape, Bits), np.zeros(shape, Bits))
    for column, (low, high) in enumerate(AREAS.values()):
        areas = cells.objects.areas
        uncounted = cells.objects.crowd | (areas < low) | (areas > high)
        # Objects that count come first; each detection's pairs stay where its pairs are.
        preferred = np.argsort(found * 2 + uncounted[objects], kind="stable")
        pairs = (found[preferred], objects[preferred], reached[preferred])
        taken, void = matches.taken[:, column], matches.void[:, column]
        _take_turns(steps, pairs, cells.objects.crowd, uncounted, taken, void)
    return matches


def _take_turns(
    steps: list[NDArray[np.int64]],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]],
    crowd: NDArray[np.bool_],
    uncounted: NDArray[np.bool_],
    taken: NDArray[np.uint16],
    void: NDArray[np.uint16],
) -> None:
    """Fills ``taken`` and ``void`` [N] for one area range.

    Each step holds at most one pair of a cell, so no row is written twice within a step.
    """
    gone = np.zeros(len(crowd), Bits)
    for step in steps:
        found, objects, reached = (column[step] for column in pairs)
        new = reached & ~gone[objects] & ~taken[found]
        taken[found] |= new
        gone[objects] |= np.where(crowd[objects], Bits(0), new)
        void[found] |= np.where(uncounted[objects], new, Bits(0))


def _candidates(
    cells: Cells,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """All pairs of one cell that overlap enough for the lowest threshold.

    Returns:
        Detection, object and overlap of each pair.
    """
    first = np.searchsorted(cells.object_cell, cells.found_cell, side="left")
    count = np.searchsorted(cells.object_cell, cells.found_cell, side="right") - first
    ends = np.cumsum(count)
    total = int(count.sum())
    # In pieces, so that memory does not grow with crowded images.
    starts = np.searchsorted(ends, np.arange(0, max(total, 1), _PAIRS_AT_ONCE))
    pieces = []
    for start, stop in zip(starts, [*starts[1:], len(count)], strict=True):
        found = np.repeat(np.arange(start, stop), count[start:stop])
        objects = first[found] + place_in_run(found)
        overlap = _overlap(cells.found, found, cells.objects, objects)
        enough = overlap >= _LIMITS[0]
        pieces.append((found[enough], objects[enough], overlap[enough]))
    found, objects, overlap = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return found, objects, overlap


def _overlap(
    found: Found, found_rows: NDArray[np.int64], objects: Objects, object_rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Intersection over union of row pairs; over the detection's area alone for a crowd."""
    a, b = found.boxes[found_rows], objects.boxes[object_rows]
    inner = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    touching = (inner > 0).all(axis=1)
    intersection = inner[:, 0] * inner[:, 1]
    found_area, object_area = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    # The sum is taken in this order, as in pycocotools: another order rounds differently.
    union = np.where(
        objects.crowd[object_rows], found_area, found_area + object_area - intersection
    )
    overlap = np.zeros(len(a))
    np.divide(intersection, union, out=overlap, where=touching)
    return overlap


def place_in_run(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many equal values stand before each, in an ascending list."""
    return np.arange(len(values)) - np.searchsorted(values, values, side="left")
