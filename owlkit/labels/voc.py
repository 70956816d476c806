"""Detections as Pascal VOC annotations, an XML file for each image."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence

from owlkit.errors import DatasetError
from owlkit.labels.folder import Content
from owlkit.labels.image import LabelledImage
from owlkit.labels.names import unique_stems

VOC_FILES = ("Annotations", "ImageSets")

# What XML cannot hold, or changes: control characters, surrogates, line breaks.
_NOT_IN_XML = re.compile("[^\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHOWN = 5


def check_voc_names(file_names: Iterable[str], names: Iterable[str]) -> None:
    """Finds what cannot be said in XML, before there is anything to write.

    Args:
        file_names: Of the images.
        names: Of the classes.

    Raises:
        DatasetError: If there is a name with control characters, with bytes that are no text, or
            with spaces at an end.
    """
    for what, texts in (("image files", file_names), ("classes", names)):
        wrong = [text for text in texts if _NOT_IN_XML.search(text) or text != text.strip()]
        if wrong:
            shown = ", ".join(map(repr, wrong[:_SHOWN]))
            raise DatasetError(
                f"expected names of {what} that an XML file of VOC can hold, found {len(wrong)} "
                f"that it cannot: {shown}; rename them, or choose another format"
            )


def voc_files(
    images: Iterable[LabelledImage], names: Sequence[str]
) -> Iterator[tuple[str, Content]]:
    """Annotations as in Pascal VOC [0], with a ``<confidence>`` in every object.

    Corners are whole numbers, the first and the last pixel inside, counted from 1.

    - [0]: The PASCAL Visual Object Classes Challenge 2007, Development Kit,
      http://host.robots.ox.ac.uk/pascal/VOC/voc2007/

    Args:
        images: Gone over twice; names as :func:`check_voc_names` lets through.
        names: Of the classes by label.

    Yields:
        Names and contents: ``Annotations/NAME.xml``, whose ``<filename>`` is the image below the
        folder of the images, and ``ImageSets/Main/all.txt``.
    """
    stems = unique_stems(image.file_name for image in images)
    for image in images:
        yield f"Annotations/{stems[image.file_name]}.xml", [_page(image, names)]
    yield "ImageSets/Main/all.txt", [f"{stem}\n" for stem in stems.values()]


def _page(image: LabelledImage, names: Sequence[str]) -> str:
    root = ET.Element("annotation")
    _add(root, "filename", image.file_name)
    size = _add(root, "size")
    for key, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, key, str(value))
    _add(root, "segmented", "0")
    found = image.detections
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        item = _add(root, "object")
        _add(item, "name", names[label])
        _add(item, "pose", "Unspecified")
        _add(item, "truncated", "0")
        _add(item, "difficult", "0")
        _add(item, "confidence", f"{score:.6f}")
        corners = _add(item, "bndbox")
        columns = _pixels(box[0], box[2], image.width)
        rows = _pixels(box[1], box[3], image.height)
        for key, value in zip(
            ("xmin", "ymin", "xmax", "ymax"),
            (columns[0], rows[0], columns[1], rows[1]),
            strict=True,
        ):
            _add(corners, key, str(value))
    ET.indent(root, "\t")
    return ET.tostring(root, encoding="unicode") + "\n"


def _add(parent: ET.Element, tag: str, text: str | None = None) -> ET.Element:
    child = ET.SubElement(parent, tag)
    child.text = text
    return child


def _pixels(low: float, high: float, side: int) -> tuple[int, int]:
    """First and last pixel of an interval, from 1 to ``side``; at least one pixel."""
    first = min(max(round(float(low)), 0), side - 1) + 1
    return first, max(first, min(round(float(high)), side))
