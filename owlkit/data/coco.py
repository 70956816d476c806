"""Data sets of boxes in COCO's or LVIS's format, read as downloaded and checked before training.

Shapes: N boxes of an image, A annotations and I images of the file, C classes.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owlkit.data.box_check import check_boxes
from owlkit.data.coco_json import CocoFile, ImageEntry, parse_coco
from owlkit.data.dataset_report import DatasetReport, Finding, Findings
from owlkit.data.image_check import LAYOUT, Check, find_images
from owlkit.data.linked_rows import LinkedRows, link_annotations
from owlkit.errors import DatasetError

Crowd = Literal["drop", "drop_class"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and what is known about it.

    Attributes:
        id: The image's number in the file.
        path: The picture.
        width: Of the upright picture, in pixels.
        height: Of the upright picture, in pixels.
        boxes: xyxy pixels, inside the image and of positive size, float32 [N, 4].
        labels: Index into the data set's names, int64 [N].
        absent: Classes that are known not to be in the image, ascending.
        unknown: Classes that must not be asked for as absent, ascending: not every instance is
            boxed, or what is annotated of them was dropped (crowds, faulty boxes).
    """

    id: int
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    absent: tuple[int, ...]
    unknown: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Images, their boxes, and the classes that these are labelled with.

    Attributes:
        names: Class names; labels are indices into them.
        category_ids: The file's id of each class, ascending.
        frequencies: LVIS's "r" (rare), "c" (common) or "f" (frequent) of each class, else None.
        images: In the order of the file.
        exhaustive: Whether a class without boxes, and not ``unknown``, is absent from an image.
        report: What was found wrong, and what was done about it.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    frequencies: tuple[str | None, ...]
    images: tuple[ImageRecord, ...]
    exhaustive: bool
    report: DatasetReport

    def class_counts(self) -> NDArray[np.int64]:
        """Number of boxes of each class, int64 [C]."""
        labels = [image.labels for image in self.images]
        return np.bincount(np.concatenate(labels), minlength=len(self.names))


class DatasetPaths(NamedTuple):
    """Where a data set is.

    Attributes:
        annotations: JSON file in COCO's or LVIS's format.
        images: Folder that its file names are relative to.
        settings: What errors call the two: the user's options or keys.
    """

    annotations: Path
    images: Path
    settings: tuple[str, str]


def read_coco(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    exhaustive: bool | None = None,
    crowd: Crowd = "drop",
    check: Check = "header",
    max_images: int | None = None,
    merge_repeated: bool = True,
    settings: tuple[str, str] = ("annotations", "images"),
) -> DetectionDataset:
    """Reads and checks a data set; what was wrong is logged and kept in its report.

    Single faulty images and boxes are dropped or clipped by the rules listed in
    :class:`~owlkit.data.dataset_report.Finding`. What makes the file as a whole doubtful stops:
    broken JSON, missing keys, wrong types, ambiguous ids, more than 1 % of the images dropped.

    Args:
        annotations: JSON file in COCO's or LVIS's format.
        images: Folder that file names are relative to. Where a name is not found there, the last
            two parts of ``coco_url`` (``train2017/000000000009.jpg``) are tried, then the last.
        exhaustive: Whether every instance of every class is boxed; None says no for files whose
            images list ``neg_category_ids``, else yes.
        crowd: What crowd regions do besides being no targets. ``drop``: a class that has nothing
            else in an image is unknown there. ``drop_class``: so is every class that has any, and
            its boxes are dropped.
        check: How closely the pictures are looked at; see
            :data:`~owlkit.data.image_check.Check`.
        max_images: Read the first so many images of the file only; None for all.
        merge_repeated: Whether images that name the same file, with the same size, become one with
            the boxes of all, under the first one's id. Each would else say that the objects of the
            others are absent. False keeps the file's images as they are, for measuring.
        settings: What errors call ``annotations`` and ``images``: the user's options or keys.

    Returns:
        The data set; images without boxes are kept.

    Raises:
        DatasetError: If the data set is missing or cannot be used; says what is wrong and where.
    """
    annotations, images = Path(annotations), Path(images)
    check_presence([DatasetPaths(annotations, images, settings)])
    file = parse_coco(annotations, setting=settings[0])
    findings = Findings()
    read = file.images[:max_images]
    found = find_images(images, read, check, setting=settings[1], findings=findings)
    paths = [*found, *[None] * (len(file.images) - len(read))]
    entries, paths, owners = _merge_repeated(file.images, paths, findings, merge=merge_repeated)
    file = replace(file, images=tuple(entries))
    rows = link_annotations(file, owners, findings)
    corners, usable = check_boxes(rows.boxes, rows.sizes(), findings, rows.describe)
    usable &= _without_crowds(rows, crowd, findings)
    records = _records(file, paths, rows, corners, usable, findings)
    report = DatasetReport.of(
        findings, source=str(annotations), images=len(records), boxes=int(usable.sum())
    )
    _logger.log(logging.WARNING if report.has_faults else logging.INFO, "%s", report)
    return DetectionDataset(
        names=file.names,
        category_ids=file.category_ids,
        frequencies=file.frequencies,
        images=records,
        exhaustive=not file.federated if exhaustive is None else exhaustive,
        report=report,
    )


def check_presence(data_sets: Iterable[DatasetPaths]) -> None:
    """Looks whether all files and folders are there; reads none.

    Raises:
        DatasetError: One for all that is absent; says what to download where.
    """
    faults = []
    for annotations, images, settings in data_sets:
        if not annotations.is_file():
            faults.append(
                f"expected boxes in COCO's or LVIS's JSON at {annotations} ({settings[0]}), "
                f"found {'a folder' if annotations.is_dir() else 'no such file'}"
            )
        if not images.is_dir():
            faults.append(
                f"expected the folder of the images of {annotations} at {images} ({settings[1]}), "
                f"found {'a file' if images.exists() else 'no such folder'}"
            )
    if faults:
        raise DatasetError(";\n".join(faults) + f". {LAYOUT}.")


def _merge_repeated(
    entries: Sequence[ImageEntry],
    paths: Sequence[Path | None],
    findings: Findings,
    *,
    merge: bool,
) -> tuple[list[ImageEntry], list[Path | None], NDArray[np.int64]]:
    """Counts images that are one file, and gives their share to the first of them.

    Returns:
        The images, those with others' shares with their lists of categories, too; the paths, None
        for those whose share went; and which image has the share of each, -1 where it has no path
        [I].
    """
    entries, left = list(entries), list(paths)
    owners = np.where([path is None for path in paths], -1, np.arange(len(paths)))
    first: dict[tuple[Path, int, int], int] = {}
    for position, (entry, path) in enumerate(zip(entries, paths, strict=True)):
        if path is None:
            continue
        number = first.setdefault((path, entry.width, entry.height), position)
        if number == position:
            continue
        owner = entries[number]
        findings.add(Finding.REPEATED_IMAGE, f"images {owner.id} and {entry.id}: {path}")
        if merge:
            left[position], owners[position] = None, number
            entries[number] = replace(
                owner,
                absent=owner.absent + entry.absent,
                not_exhaustive=owner.not_exhaustive + entry.not_exhaustive,
            )
    return entries, left, owners


def _without_crowds(rows: LinkedRows, crowd: Crowd, findings: Findings) -> NDArray[np.bool_]:
    """Which annotations may be targets by the rule on crowd regions [A]."""
    findings.add_rows(Finding.CROWD, rows.crowd, rows.describe)
    if crowd == "drop":
        return ~rows.crowd
    crowded = np.isin(rows.pair, rows.pair[rows.crowd])
    findings.add_rows(Finding.CROWDED_CLASS, crowded & ~rows.crowd, rows.describe)
    return ~crowded


def _records(
    file: CocoFile,
    paths: Sequence[Path | None],
    rows: LinkedRows,
    corners: NDArray[np.float32],
    usable: NDArray[np.bool_],
    findings: Findings,
) -> tuple[ImageRecord, ...]:
    """One record for each image that has a path."""
    order = np.flatnonzero(usable)
    order = order[np.argsort(rows.image[order], kind="stable")]
    boxes, labels = corners[order], rows.label[order]
    bounds = np.searchsorted(rows.image[order], np.arange(len(file.images) + 1))
    # Something of these classes is in the image, but no box says where.
    boxless = _classes_by_image(
        np.setdiff1d(rows.pair, rows.pair[usable]), number_of_classes=len(file.names)
    )
    index = {number: position for position, number in enumerate(file.category_ids)}
    records = []
    for position, (entry, path) in enumerate(zip(file.images, paths, strict=True)):
        if path is None:
            continue
        part = slice(bounds[position], bounds[position + 1])
        present = set(labels[part].tolist()) | boxless[position]
        unknown = boxless[position] | _indices(entry, entry.not_exhaustive, index, findings)
        absent = _indices(entry, entry.absent, index, findings)
        for label in sorted(absent & present):
            findings.add(Finding.CONTRADICTION, f"image {entry.id}: {file.names[label]}")
        records.append(
            ImageRecord(
                id=entry.id,
                path=path,
                width=entry.width,
                height=entry.height,
                boxes=boxes[part],
                labels=labels[part],
                absent=tuple(sorted(absent - present - unknown)),
                unknown=tuple(sorted(unknown)),
            )
        )
    return tuple(records)


def _classes_by_image(
    pairs: NDArray[np.int64], *, number_of_classes: int
) -> Mapping[int, set[int]]:
    classes: defaultdict[int, set[int]] = defaultdict(set)
    for pair in pairs.tolist():
        image, label = divmod(pair, number_of_classes)
        classes[image].add(label)
    return classes


def _indices(
    entry: ImageEntry, category_ids: Sequence[int], index: Mapping[int, int], findings: Findings
) -> set[int]:
    """Classes of an image's list of category ids."""
    for number in category_ids:
        if number not in index:
            findings.add(Finding.UNKNOWN_CATEGORY, f"image {entry.id}: category {number}")
    return {index[number] for number in category_ids if number in index}
