"""Parts of things: what is looked for inside the boxes of something else.

Shapes: N boxes. Boxes are xyxy (x0, y0, x1, y1) in pixels of the image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from owlkit.detections import Detections
from owlkit.errors import DetectionsError, QueryError
from owlkit.queries import QuerySet

DetectCrops = Callable[[list[NDArray[np.uint8]], QuerySet], list[Detections]]

_MOST_MARGIN = 10.0


def root_names(queries: QuerySet) -> tuple[str, ...]:
    """Names of the classes that are looked for in the whole image."""
    return tuple(one.name for one in queries.classes if one.parent is None)


def relabelled(found: Detections, queries: QuerySet) -> Detections:
    """Detections of some classes of a set, with their labels in the whole set.

    Raises:
        QueryError: If a name is none of its classes.
    """
    rows = {name: row for row, name in reversed(list(enumerate(queries.names)))}
    unknown = next((name for name in found.names if name not in rows), None)
    if unknown is not None:
        raise QueryError(f"expected names of the query set, found {unknown!r}")
    return replace(found, labels=np.array([rows[name] for name in found.names], dtype=np.int64))


def detect_parts(
    detect: DetectCrops,
    image: NDArray[np.uint8],
    found: Detections,
    queries: QuerySet,
    *,
    margin: float = 0.1,
) -> Detections:
    """Looks for parts inside what was found, for parts of those parts, and so on.

    Each box of a class with parts is cut out and enlarged by detecting in it as in an image of its
    own, so parts may be far smaller than in the whole image. A part counts if its centre lies in
    the box of its parent, to which it is clipped. Where parents overlap, each has its own parts.

    Args:
        detect: Detects the classes of a query set, which holds the parts of one class, in crops
            uint8 [h, w, 3] that are parts of `image`, not copies.
        image: uint8 [h, w, 3].
        found: What was found in it, by labels or names of `queries`; its own parents are kept.
        queries: All classes.
        margin: What is shown around a box, as a share of its width and height on each side, in
            [0, 10]. Detectors are trained on whole scenes, so surroundings help.

    Returns:
        All detections with their labels in `queries`, by descending score, and in ``parents`` the
        row of the box that each is a part of. Classes without parts cost nothing.

    Raises:
        QueryError: If the margin is out of its range, or a name is no class of `queries`.
        DetectionsError: If `detect` does not return one result for each crop.
    """
    if not 0 <= margin <= _MOST_MARGIN:
        raise QueryError(f"expected a margin in [0, {_MOST_MARGIN:g}], found {margin!r}")
    parts_of: dict[str, list[str]] = {}
    for one in queries.classes:
        if one.parent is not None:
            parts_of.setdefault(one.parent, []).append(one.name)
    parents = np.full(len(found), -1) if found.parents is None else found.parents
    everything = replace(relabelled(found, queries), parents=parents)
    first = 0
    while first < len(everything):
        level, first = range(first, len(everything)), len(everything)
        for name, parts in parts_of.items():
            rows = [row for row in level if everything.names[row] == name]
            if rows:
                found_parts = _detect_in(
                    detect, image, everything, rows, queries.subset(parts), margin
                )
                everything = _with_parts(everything, found_parts, queries)
    return everything[np.argsort(-everything.scores, kind="stable")]


def _detect_in(
    detect: DetectCrops,
    image: NDArray[np.uint8],
    whole: Detections,
    rows: Sequence[int],
    queries: QuerySet,
    margin: float,
) -> list[tuple[int, Detections]]:
    """What lies inside the boxes of some rows, with the row of each."""
    crops = [(row, _crop(whole.boxes[row], image.shape, margin)) for row in rows]
    # What shows no pixel has no parts.
    crops = [(row, crop) for row, crop in crops if crop[0] < crop[2] and crop[1] < crop[3]]
    if not crops:
        return []
    results = detect([image[y0:y1, x0:x1] for _, (x0, y0, x1, y1) in crops], queries)
    if len(results) != len(crops):
        raise DetectionsError(
            f"expected detections for each of {len(crops)} crops, found {len(results)}"
        )
    return [
        (row, _inside(whole.boxes[row], found, crop[:2]))
        for (row, crop), found in zip(crops, results, strict=True)
    ]


def _crop(
    box: NDArray[np.float32], shape: tuple[int, ...], margin: float
) -> tuple[int, int, int, int]:
    """The pixels of a box and its surroundings: x0, y0, x1, y1, the last two excluded."""
    height, width = shape[:2]
    x0, y0, x1, y1 = box.astype(np.float64)
    beside, above = margin * (x1 - x0), margin * (y1 - y0)
    if x0 == x1 or y0 == y1:
        return 0, 0, 0, 0
    return (
        max(math.floor(x0 - beside), 0),
        max(math.floor(y0 - above), 0),
        min(math.ceil(x1 + beside), width),
        min(math.ceil(y1 + above), height),
    )


def _inside(parent: NDArray[np.float32], found: Detections, corner: tuple[int, int]) -> Detections:
    """The detections of a crop that belong to its parent, in pixels of the image."""
    low, high = parent[:2], parent[2:]
    boxes = found.boxes + np.tile(np.array(corner, dtype=np.float32), 2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    belongs = ((centres >= low) & (centres <= high)).all(axis=1)
    clipped = boxes.clip(np.tile(low, 2), np.tile(high, 2))
    belongs &= (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
    return replace(found, boxes=clipped)[belongs]


def _with_parts(
    whole: Detections, parts: Sequence[tuple[int, Detections]], queries: QuerySet
) -> Detections:
    """The detections, and after them the parts of some of their rows."""
    assert whole.parents is not None
    new = [relabelled(found, queries) for _, found in parts]
    parents = [np.full(len(found), row) for row, found in parts]
    tracks = whole.track_ids
    if tracks is not None:
        tracks = np.concatenate([tracks, np.full(sum(map(len, new)), -1)])
    return replace(
        whole,
        boxes=np.concatenate([whole.boxes, *(one.boxes for one in new)]),
        scores=np.concatenate([whole.scores, *(one.scores for one in new)]),
        labels=np.concatenate([whole.labels, *(one.labels for one in new)]),
        names=whole.names + tuple(name for one in new for name in one.names),
        parents=np.concatenate([whole.parents, *parents]).astype(np.int64),
        track_ids=tracks,
    )
