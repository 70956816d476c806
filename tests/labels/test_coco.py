"""COCO files against pycocotools and owlkit's own reader."""

import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from owlkit.data.coco_json import parse_coco
from owlkit.labels import coco_files
from tests.labels.boxes import FILE_NAMES, NAMES, labelled_images


def test_a_file_loads_in_pycocotools_with_scores(tmp_path: Path) -> None:
    images = labelled_images()
    ((name, text),) = coco_files(images, NAMES)
    path = tmp_path / name
    path.write_text("".join(text), encoding="ascii")
    coco = COCO(path)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(NAMES)
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == list(FILE_NAMES)
    for image_id, image in zip(coco.getImgIds(), images, strict=True):
        entry = coco.loadImgs(image_id)[0]
        assert (entry["height"], entry["width"]) == image.detections.image_size
        items = coco.loadAnns(coco.getAnnIds(image_id))
        assert len(items) == len(image.detections)
        for row, item in enumerate(items):
            x, y, width, height = item["bbox"]
            # Written in hundredths of pixels.
            corners = [x, y, x + width, y + height]
            np.testing.assert_allclose(corners, image.detections.boxes[row], atol=0.0101)
            assert abs(item["area"] - width * height) <= 0.005001
            assert item["category_id"] == image.detections.labels[row] + 1
            assert abs(item["score"] - image.detections.scores[row]) <= 1e-6
            assert item["iscrowd"] == 0
    parsed = parse_coco(path)
    assert len(parsed.annotations.ids) == sum(len(image.detections) for image in images)


def test_no_images_are_a_file_too() -> None:
    ((_, text),) = coco_files([], ["cat"])
    content = json.loads("".join(text))
    assert content == {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
