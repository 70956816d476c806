"""Examples of classes, drawn from labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owlkit.data.coco import ImageRecord
from owlkit.errors import DatasetError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class DrawnExample:
    """A labelled box.

    Attributes:
        path: Of its image.
        box: xyxy in pixels.
    """

    path: Path
    box: Box


def draw_examples(
    records: Sequence[ImageRecord], labels: Sequence[int], count: int, *, seed: int
) -> dict[int, list[DrawnExample]]:
    """Draws examples of each class, of several on one image at most one if there are enough images.

    The first so many of a larger draw with the same seed are the smaller draw.

    Args:
        records: Labelled images.
        labels: Classes to draw for.
        count: Examples of each, at least 1.
        seed: Another one draws others.

    Raises:
        DatasetError: If a class has fewer boxes than that.
    """
    boxes: dict[int, list[tuple[int, DrawnExample]]] = {label: [] for label in labels}
    for number, record in enumerate(records):
        for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
            if label in boxes:
                x0, y0, x1, y1 = box
                boxes[label].append((number, DrawnExample(record.path, (x0, y0, x1, y1))))
    for label, found in boxes.items():
        if len(found) < count:
            raise DatasetError(
                f"expected {count} boxes of class {label} to draw examples from, found {len(found)}"
            )
    return {label: _draw(found, count, (seed, label)) for label, found in boxes.items()}


def _draw(
    found: Sequence[tuple[int, DrawnExample]], count: int, seed: tuple[int, int]
) -> list[DrawnExample]:
    order = np.random.default_rng(seed).permutation(len(found))
    seen: set[int] = set()
    first: list[DrawnExample] = []
    later: list[DrawnExample] = []
    for row in order:
        image, example = found[row]
        (later if image in seen else first).append(example)
        seen.add(image)
    return [*first, *later][:count]
