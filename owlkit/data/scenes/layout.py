"""Which objects a scene has, and where they lie.

Training scenes come in groups of eight with the same number of objects in the same colours, so that
colours alone do not tell a batch's captions apart. Along a group each object runs through all eight
shapes. That makes every pair equally frequent, the novel quarter included; a group's novel pairs
are kept to half of its scenes, which leaves about 60 % of the training scenes without any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owlkit.data.scenes.shapes import Contour, area, draw, extent, place
from owlkit.data.scenes.tiers import Tier
from owlkit.data.scenes.vocabulary import BASE, COLOURS, NOVEL, SHAPES, shape_of
from owlkit.errors import DatasetError

GROUP = len(SHAPES)
_WITH_NOVEL = GROUP // 2  # scenes of a group that may hold novel pairs
_TRIES = 40  # for one object, before the scene is begun again
_RESTARTS = 250


@dataclass(frozen=True, eq=False)
class PlacedObject:
    """One object of a scene, as if it were alone.

    Attributes:
        label: Index into ``CLASS_NAMES``.
        outline: Tight box of its outline, xyxy pixels [4]; may reach out of the image.
        outline_area: Square pixels, outside the image too.
        coverage: How much of each pixel it covers [size, size], in [0, 1].
        box: Tight box of what is in the image, xyxy pixels [4].
    """

    label: int
    outline: NDArray[np.float64]
    outline_area: float
    coverage: NDArray[np.float32]
    box: NDArray[np.float32]

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the image that hold the box."""
        x0, y0, x1, y1 = self.box
        return slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))


def choose_group(rng: np.random.Generator, objects: tuple[int, int]) -> NDArray[np.int64]:
    """Draws the labels of a group of training scenes.

    Args:
        rng: The group's random numbers.
        objects: Least and greatest number of objects.

    Returns:
        [8, N] labels; a column has one colour and all shapes, a colour is in at most two columns,
        no scene has a label twice.
    """
    count = rng.integers(*objects, endpoint=True)
    colours = rng.permutation(np.repeat(np.arange(len(COLOURS)), 2))[:count]
    with_novel = rng.permutation(GROUP)[:_WITH_NOVEL]
    columns: list[NDArray[np.int64]] = []
    while len(columns) < count:
        column = _run_through_shapes(rng, int(colours[len(columns)]), with_novel)
        if not any((column == other).any() for other in columns):
            columns.append(column)
    return np.stack(columns, axis=1)


def _run_through_shapes(
    rng: np.random.Generator, colour: int, with_novel: NDArray[np.int64]
) -> NDArray[np.int64]:
    """All labels of a colour in random order, the novel ones at some of the given places [8]."""
    own = range(colour * len(SHAPES), (colour + 1) * len(SHAPES))
    novel = [label for label in own if label in NOVEL]
    base = [label for label in own if label in BASE]
    places = rng.permutation(with_novel)[: len(novel)]
    column = np.empty(GROUP, np.int64)
    column[places] = novel
    column[np.setdiff1d(np.arange(GROUP), places)] = rng.permutation(base)
    return column


def choose_validation(rng: np.random.Generator, objects: tuple[int, int]) -> NDArray[np.int64]:
    """Draws the distinct labels [N] of one scene; each is base or novel with equal probability."""
    count = rng.integers(*objects, endpoint=True)
    novel = rng.binomial(count, 0.5)
    labels = np.concatenate(
        [rng.permutation(NOVEL)[:novel], rng.permutation(BASE)[: count - novel]]
    )
    return rng.permutation(labels)


def arrange(rng: np.random.Generator, labels: Sequence[int], tier: Tier) -> list[PlacedObject]:
    """Finds a place, size and turn for each object; a later one lies in front of an earlier one.

    An object that would hide too much of another, or be too far outside the image, is drawn anew,
    size included, so that every object of a scene can be recognised and is labelled.

    Raises:
        DatasetError: If the tier asks for more than fits into its images.
    """
    for _ in range(_RESTARTS):
        placed = _try_to_arrange(rng, labels, tier)
        if placed is not None:
            return placed
    raise DatasetError(
        f"expected room for {len(labels)} objects of radius {tier.radius} in {tier.size} x "
        f"{tier.size} pixels, found none in {_RESTARTS} attempts"
    )


def _try_to_arrange(
    rng: np.random.Generator, labels: Sequence[int], tier: Tier
) -> list[PlacedObject] | None:
    placed: list[PlacedObject] = []
    showing = np.zeros((0, tier.size, tier.size), np.float32)  # of each object, by pixel
    for label in labels:
        for _ in range(_TRIES):
            contours = _draw_outline(rng, shape_of(label), tier)
            outline = extent(contours)
            if not _has_room(outline, placed, tier):
                continue
            one = PlacedObject(label, outline, area(contours), *draw(contours, tier.size))
            left = np.concatenate([showing * (1 - one.coverage), one.coverage[None]])
            areas = np.array([other.outline_area for other in [*placed, one]])
            if (left.sum(axis=(1, 2)) >= (1 - tier.hidden) * areas).all():
                placed.append(one)
                showing = left
                break
        else:
            return None
    return placed


def _draw_outline(rng: np.random.Generator, shape: str, tier: Tier) -> tuple[Contour, ...]:
    radius = float(np.exp(rng.uniform(*np.log(tier.radius))))
    x, y = rng.uniform(0, tier.size, 2)
    return place(
        shape,
        centre=(x, y),
        radius=radius,
        turn=np.deg2rad(rng.uniform(-tier.turn, tier.turn)),
        mirrored=bool(rng.random() < 0.5),
    )


def _has_room(box: NDArray[np.float64], placed: Sequence[PlacedObject], tier: Tier) -> bool:
    """Whether a box is far enough inside the image and shares little with the others."""
    if _box_area(box.clip(0, tier.size)) < (1 - tier.hidden) * _box_area(box):
        return False
    for other in placed:
        shared = np.concatenate(
            [np.maximum(box, other.outline)[:2], np.minimum(box, other.outline)[2:]]
        )
        if _box_area(shared) > tier.shared * min(_box_area(box), _box_area(other.outline)):
            return False
    return True


def _box_area(box: NDArray[np.float64]) -> float:
    width, height = box[2:] - box[:2]
    return float(max(width, 0) * max(height, 0))
