"""Detections as a COCO annotation file, written piece by piece."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from owlkit.labels.image import LabelledImage

COCO_FILE = "annotations.json"


def coco_files(
    images: Iterable[LabelledImage], names: Sequence[str]
) -> Iterator[tuple[str, Iterator[str]]]:
    """One file in COCO's format [0], whose annotations keep their scores.

    - [0]: COCO data format, https://cocodataset.org/#format-data

    Args:
        images: Gone over twice, in the order of their ids, which count from 1.
        names: Of the classes by label; category ids count from 1.

    Yields:
        ``annotations.json`` and its text (ASCII). Annotations hold ``bbox`` (x, y, width, height
        in hundredths of pixels), ``area``, ``iscrowd`` 0 and ``score`` in [0, 1].
    """
    yield COCO_FILE, _text(images, names)


def _text(images: Iterable[LabelledImage], names: Sequence[str]) -> Iterator[str]:
    categories = ({"id": number, "name": name} for number, name in enumerate(names, start=1))
    yield '{\n"images": ['
    yield from _list(_image_entries(images))
    yield '],\n"annotations": ['
    yield from _list(_annotation_entries(images))
    yield '],\n"categories": ['
    yield from _list(categories)
    yield "]\n}\n"


def _list(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    separator = "\n"
    for entry in entries:
        # ASCII, because pycocotools reads in the encoding of the machine.
        yield separator + json.dumps(entry)
        separator = ",\n"


def _image_entries(images: Iterable[LabelledImage]) -> Iterator[dict[str, Any]]:
    for number, image in enumerate(images, start=1):
        size = {"width": image.width, "height": image.height}
        yield {"id": number, "file_name": image.file_name, **size}


def _annotation_entries(images: Iterable[LabelledImage]) -> Iterator[dict[str, Any]]:
    count = 0
    for image_id, image in enumerate(images, start=1):
        for found in image.detections.to_coco(image_id):
            count += 1
            x, y, width, height = (round(value, 2) for value in found["bbox"])
            yield {
                "id": count,
                "image_id": image_id,
                "category_id": found["category_id"] + 1,
                "bbox": [x, y, width, height],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "score": round(found["score"], 6),
            }
