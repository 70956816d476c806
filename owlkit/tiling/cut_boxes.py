"""Boxes that an inner edge of a tile cut: dropped where the object is complete, else joined.

Shapes: N boxes. Boxes are xyxy (x0, y0, x1, y1) in pixels of the whole image, as are views.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from owlkit.suppression import intersections

# How near to an edge of its tile a box counts as cut by it, as a share of the tile's side: a model
# places the edges of boxes no better than that.
_NEAR_EDGE = 0.02
# Share of a cut box that must lie inside another box to be taken for a part of that object.
_INSIDE = 0.7
# A box may only stand for a cut one if it is not much less likely: a poor box that covers much of
# the image must not swallow good ones.
_SCORE_RATIO = 0.5
# IoU of the two spans, along their common edge, of what is taken for two pieces of one object.
_SAME_SPAN = 0.5
# Boxes compared with all others of their class at a time, so that memory stays flat.
_CHUNK = 256

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pieces:
    """What was found in all views of an image.

    Attributes:
        boxes: [N, 4].
        scores: [N].
        labels: [N].
        view: Number of the view that a box was found in, negative for joined boxes [N].
        spans: That view itself [N, 4].
        cut: Which sides of a box are cut off, in the order x0, y0, x1, y1 [N, 4].
    """

    boxes: Floats
    scores: NDArray[np.float32]
    labels: Indices
    view: Indices
    spans: Floats
    cut: Flags

    def __getitem__(self, rows: Flags | Indices) -> "Pieces":
        return Pieces(**{name: values[rows] for name, values in vars(self).items()})


def sides_cut(boxes: Floats, spans: Floats, image_size: tuple[int, int]) -> Flags:
    """Which sides of boxes lie at an edge of their view that is no edge of the image [N, 4]."""
    height, width = image_size
    inner = spans != np.array([0, 0, width, height])
    touches: Flags = inner & (np.abs(boxes - spans) <= _near(spans))
    return touches


def _near(spans: Floats) -> Floats:
    """How far a side may be from an edge of its view and still count as lying there [N, 4]."""
    sides = spans[..., 2:] - spans[..., :2]
    near = np.maximum(_NEAR_EDGE * sides, 1.0)
    return np.concatenate([near, near], axis=-1)


def complete(pieces: Pieces, *, class_agnostic: bool = False) -> Pieces:
    """Replaces boxes that are cut by something better where there is something better.

    1. A cut box goes if an uncut one of another view covers it.
    2. Cut boxes of neighbouring views that continue each other, as of an object larger than the
       overlap, become one box around both, with the better score.
    3. A cut box goes if a larger box of another view covers it. The rest stays.

    Args:
        pieces: Boxes of all views.
        class_agnostic: Whether boxes of other classes cover a box too.
    """
    is_cut = np.asarray(pieces.cut.any(axis=1))
    pieces = pieces[~_covered(pieces, is_cut, ~is_cut, class_agnostic=class_agnostic)]
    pieces = _joined(pieces)
    is_cut = np.asarray(pieces.cut.any(axis=1))
    everything = np.ones_like(is_cut)
    return pieces[~_covered(pieces, is_cut, everything, class_agnostic=class_agnostic)]


def _covered(pieces: Pieces, asked: Flags, covers: Flags, *, class_agnostic: bool) -> Flags:
    """Which of the asked boxes another view's larger box stands for [N]."""
    found = np.zeros(len(pieces.boxes), dtype=bool)
    areas = _areas(pieces.boxes)
    groups = np.zeros_like(pieces.labels) if class_agnostic else pieces.labels
    for group in np.unique(groups[asked]):
        others = np.flatnonzero(covers & (groups == group))
        for rows in _chunks(np.flatnonzero(asked & (groups == group))):
            inside = intersections(pieces.boxes[rows], pieces.boxes[others])
            stands = inside >= _INSIDE * areas[rows, None]
            stands &= areas[others] > areas[rows, None]
            stands &= pieces.view[others] != pieces.view[rows, None]
            stands &= pieces.scores[others] >= _SCORE_RATIO * pieces.scores[rows, None]
            found[rows] = stands.any(axis=1)
    return found


def _joined(pieces: Pieces) -> Pieces:
    """Pieces of one object as one box; what has no other piece stays as it is."""
    groups = np.arange(len(pieces.boxes))
    for first, second in _continuations(pieces):
        # Of the groups that meet, the lower number wins, whatever the order of the pairs.
        low, high = sorted((groups[first], groups[second]))
        groups[groups == high] = low
    numbers, counts = np.unique(groups, return_counts=True)
    unions = numbers[counts > 1]
    if not len(unions):
        return pieces
    alone = pieces[~np.isin(groups, unions)]
    joined = [
        _union(pieces[np.flatnonzero(groups == number)], -1 - row)
        for row, number in enumerate(unions)
    ]
    return Pieces(
        **{
            name: np.concatenate([values, *(vars(one)[name] for one in joined)])
            for name, values in vars(alone).items()
        }
    )


def _union(members: Pieces, view: int) -> Pieces:
    """One box around some, as if found in a view of that number."""
    low, high = members.boxes[:, :2].min(axis=0), members.boxes[:, 2:].max(axis=0)
    box = np.concatenate([low, high])
    # A side is no longer cut where any member shows how the object really ends.
    ends = np.abs(members.boxes - box) <= _near(members.spans)
    shown = (ends & ~members.cut).any(axis=0)
    return replace(
        members[np.array([0])],
        boxes=box[None],
        scores=members.scores.max(keepdims=True),
        view=np.array([view]),
        cut=~shown[None],
    )


def _continuations(pieces: Pieces) -> Iterator[tuple[int, int]]:
    """Pairs of cut boxes of one class where the second continues the first right or down.

    Both fill what their views show in common, from edge to edge, and agree along that edge: two
    objects side by side would end, or begin, within the overlap.
    """
    for label in np.unique(pieces.labels[pieces.cut.any(axis=1)]):
        for axis in (0, 1):
            of_class = pieces.labels == label
            ends = np.flatnonzero(of_class & pieces.cut[:, axis + 2])
            starts = np.flatnonzero(of_class & pieces.cut[:, axis])
            for rows in _chunks(ends):
                first, second = np.nonzero(_continues(pieces, rows, starts, axis))
                yield from zip(rows[first].tolist(), starts[second].tolist(), strict=True)


def _continues(pieces: Pieces, ends: Indices, starts: Indices, axis: int) -> Flags:
    a, b = pieces.boxes[ends][:, None], pieces.boxes[starts]
    seen_a, seen_b = pieces.spans[ends][:, None], pieces.spans[starts]
    near = _near(seen_b)[..., axis]
    found = (seen_b[..., axis] > seen_a[..., axis]) & (seen_b[..., axis] <= seen_a[..., axis + 2])
    found &= (a[..., axis] <= seen_b[..., axis] + near) & (
        b[..., axis + 2] >= seen_a[..., axis + 2] - near
    )
    low, high = 1 - axis, 3 - axis
    common = np.minimum(a[..., high], b[..., high]) - np.maximum(a[..., low], b[..., low])
    either = np.maximum(a[..., high], b[..., high]) - np.minimum(a[..., low], b[..., low])
    agrees: Flags = found & (common >= _SAME_SPAN * either)
    return agrees


def _areas(boxes: Floats) -> Floats:
    areas: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _chunks(rows: Indices) -> Iterator[Indices]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
