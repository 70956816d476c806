"""VOC annotations against owlkit's converter from that format."""

from pathlib import Path

import numpy as np
import pytest

from owlkit.data.formats import voc_to_coco
from owlkit.errors import DatasetError
from owlkit.labels import LabelFolder, check_voc_names, voc_files
from tests.labels.boxes import FILE_NAMES, NAMES, labelled_images


def test_files_convert_back(tmp_path: Path) -> None:
    images = labelled_images()
    check_voc_names(FILE_NAMES, NAMES)
    LabelFolder(tmp_path, tmp_path / "written.txt").replace(voc_files(images, NAMES))
    found = voc_to_coco(tmp_path, split="all", names=NAMES)
    assert [image["file_name"] for image in found["images"]] == list(FILE_NAMES)
    for image, entry in zip(images, found["images"], strict=True):
        assert (entry["height"], entry["width"]) == image.detections.image_size
        items = [item for item in found["annotations"] if item["image_id"] == entry["id"]]
        assert [NAMES[item["category_id"] - 1] for item in items] == list(image.detections.names)
        for item, box in zip(items, image.detections.boxes, strict=True):
            x, y, width, height = item["bbox"]
            # Whole pixels, and a box is at least one wide.
            np.testing.assert_allclose([x, y, x + width, y + height], box, atol=0.71)
            assert x + width <= entry["width"]
            assert y + height <= entry["height"]
    page = (tmp_path / "Annotations" / "dog.xml").read_text(encoding="utf-8")
    assert f"<confidence>{images[0].detections.scores[0]:.6f}</confidence>" in page


@pytest.mark.parametrize("name", ["a\x01b.jpg", "line\nbreak.jpg", "caf\udce9.jpg", " a.jpg"])
def test_what_xml_cannot_hold_is_found_before(name: str) -> None:
    with pytest.raises(DatasetError, match=r"image files that an XML file .* found 1 "):
        check_voc_names(["fine.jpg", name], ["cat"])
    with pytest.raises(DatasetError, match="classes that an XML"):
        check_voc_names([], ["cat", name])
