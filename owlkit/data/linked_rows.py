"""Annotations joined to the images and classes that they speak of.

Shapes: I images of the file, A annotations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owlkit.data.box_check import check_boxes
from owlkit.data.coco_json import CocoFile, ImageEntry
from owlkit.data.dataset_report import Finding, Findings


@dataclass(frozen=True, eq=False)
class LinkedRows:
    """Annotations of known classes in images that are left.

    Attributes:
        position: In the file's list of annotations, int64 [A].
        ids: The file's annotation ids, int64 [A].
        image: Index into the file's images, int64 [A].
        label: Index into the file's names, int64 [A].
        pair: Number of the image and class together, int64 [A].
        boxes: As in the file: x0, y0, width, height, float64 [A, 4].
        crowd: Whether it is a crowd region [A].
        entries: The file's images.
    """

    position: NDArray[np.int64]
    ids: NDArray[np.int64]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    pair: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    entries: Sequence[ImageEntry]

    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each annotation's image [A, 2]."""
        sizes = [(entry.width, entry.height) for entry in self.entries]
        return np.array(sizes, np.int64)[self.image]

    def describe(self, row: int) -> str:
        """One annotation for messages."""
        image = self.entries[self.image[row]]
        name = "".join(f"{name}, " for name in image.file_names[:1])
        return (
            f"annotation {self.ids[row]}: bbox {self.boxes[row].tolist()}, image {image.id} "
            f"({name}{image.width}x{image.height})"
        )


def link_annotations(file: CocoFile, owners: NDArray[np.int64], findings: Findings) -> LinkedRows:
    """Joins annotations to images and classes; what is linked to nothing is counted and left out.

    Args:
        file: The parsed file.
        owners: For each image of the file, which one its annotations go to: itself, one that is the
            same picture, or -1 where they are left out [I].
        findings: Where faults are counted.
    """
    table = file.annotations
    image = _positions(table.image_ids, [entry.id for entry in file.images])
    label = _positions(table.category_ids, file.category_ids)

    def describe(row: int) -> str:
        return (
            f"annotation {table.ids[row]}: image {table.image_ids[row]}, "
            f"category {table.category_ids[row]}"
        )

    findings.add_rows(Finding.UNKNOWN_IMAGE, image < 0, describe)
    findings.add_rows(Finding.UNKNOWN_CATEGORY, (image >= 0) & (label < 0), describe)
    repeated = np.ones(len(table.ids), np.bool_)
    repeated[np.unique(table.ids, return_index=True)[1]] = False
    findings.add_rows(Finding.DUPLICATE_ANNOTATION, repeated, describe)

    # Position -1 looks at the last image, which the first condition has ruled out.
    linked = np.flatnonzero((image >= 0) & (label >= 0) & (owners[image] >= 0))
    image, label = owners[image[linked]], label[linked]
    return LinkedRows(
        position=linked,
        ids=table.ids[linked],
        image=image,
        label=label,
        pair=image * len(file.names) + label,
        boxes=table.boxes[linked],
        crowd=table.crowd[linked],
        entries=file.images,
    )


def usable_annotations(file: CocoFile, findings: Findings) -> NDArray[np.int64]:
    """Positions of the annotations of listed images and classes whose boxes can be used [A].

    What is left out, and counted in ``findings``, is what reading for training leaves out, too.
    """
    rows = link_annotations(file, np.arange(len(file.images)), findings)
    _, usable = check_boxes(rows.boxes, rows.sizes(), findings, rows.describe)
    return rows.position[usable]


def _positions(values: NDArray[np.int64], ids: Sequence[int]) -> NDArray[np.int64]:
    """Index of each value in the list of ids, -1 where it is not listed."""
    index = {number: position for position, number in enumerate(ids)}
    return np.array([index.get(value, -1) for value in values.tolist()], np.int64)
