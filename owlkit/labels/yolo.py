"""Detections as YOLO labels, a text file for each image."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from owlkit.detections import Detections
from owlkit.labels.folder import Content, Link
from owlkit.labels.image import LabelledImage
from owlkit.labels.names import unique_stems

YOLO_FILES = ("labels", "labels_with_confidence", "images", "images.txt", "data.yaml")

_HEADER = """\
# Made by owlkit annotate. `train` and `val` name the same images: split them before training.
# labels_with_confidence holds the same rows with a sixth column, which trainers refuse.
train: images.txt
val: images.txt
"""


def yolo_files(
    images: Iterable[LabelledImage], names: Sequence[str]
) -> Iterator[tuple[str, Content]]:
    """Labels in the format that Ultralytics trains on [0].

    - [0]: https://docs.ultralytics.com/datasets/detect/

    Args:
        images: Gone over twice. Of those that know their path, ``images`` holds a link, because
            trainers look for labels beside a folder of that name; the files themselves stay as and
            where they are.
        names: Of the classes by label.

    Yields:
        Names and contents: ``labels/NAME.txt`` with rows of class, centre x, centre y, width and
        height, in fractions of the image; ``labels_with_confidence/NAME.txt`` with the score as
        a sixth column; ``images/NAME.SUFFIX``, ``images.txt`` and ``data.yaml``.
    """
    stems = unique_stems(image.file_name for image in images)
    listed = []
    for image in images:
        stem = stems[image.file_name]
        yield f"labels/{stem}.txt", _rows(image)
        yield f"labels_with_confidence/{stem}.txt", _rows(image, scores=True)
        picture = f"images/{stem}{PurePosixPath(image.file_name).suffix}"
        listed.append(f"./{picture}\n")
        if image.path is not None:
            yield picture, Link(image.path)
    yield "images.txt", listed
    classes = (f"  {label}: {_quoted(name)}\n" for label, name in enumerate(names))
    yield "data.yaml", [_HEADER, f"nc: {len(names)}\n", "names:\n", *classes]


def _rows(image: LabelledImage, *, scores: bool = False) -> Iterator[str]:
    found: Detections = image.detections
    corners = found.boxes.astype(np.float64) / ([image.width, image.height] * 2)
    corners = corners.clip(0, 1)
    centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    columns = np.concatenate([centres, sizes, found.scores[:, None]], axis=1)
    for label, row in zip(found.labels, columns if scores else columns[:, :4], strict=True):
        yield " ".join([str(label), *(f"{value:.6f}" for value in row)]) + "\n"


def _quoted(text: str) -> str:
    """A string as YAML 1.1 writes it in double quotes."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"
