"""YOLO labels, read back by a slow and obvious reader."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from owlkit.labels import LabelFolder, LabelledImage, yolo_files
from tests.labels.boxes import NAMES, labelled_images


def read_rows(path: Path) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in path.read_text().splitlines()]


def test_labels_give_back_the_boxes(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    images = []
    for image in labelled_images():
        path = pictures / image.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image.width, image.height)).save(path)
        images.append(LabelledImage(image.file_name, image.detections, path))
    out = tmp_path / "out"
    LabelFolder(out, out / "written.txt").replace(yolo_files(images, NAMES))
    content = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert content["names"] == dict(enumerate(NAMES))
    assert content["nc"] == len(NAMES)
    # As Ultralytics does: lines of the list are relative to it, and the last folder `images` of a
    # path becomes `labels`.
    lines = (out / content["train"]).read_text().splitlines()
    listed = [line.replace("./", f"{out}/", 1) for line in lines]
    assert len(listed) == len(set(listed)) == len(images)
    for line, image in zip(listed, images, strict=True):
        with Image.open(line) as picture:
            assert picture.size == (image.width, image.height)
        label = Path("/labels/".join(line.rsplit("/images/", 1))).with_suffix(".txt")
        rows = read_rows(label)
        scored = read_rows(out / "labels_with_confidence" / label.name)
        assert rows == [row[:5] for row in scored]
        assert len(rows) == len(image.detections)
        for row, box, score, name in zip(
            scored,
            image.detections.boxes,
            image.detections.scores,
            image.detections.names,
            strict=True,
        ):
            number, x, y, width, height, confidence = row
            assert content["names"][int(number)] == name
            corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            found = np.array(corners) * ([image.width, image.height] * 2)
            # Six decimals of a fraction of at most 1000 pixels.
            np.testing.assert_allclose(found, box, atol=1e-3)
            assert abs(confidence - score) <= 1e-6
            assert max(row[1:]) <= 1


@pytest.mark.parametrize("name", ["tab\tname", 'quote " \\ back', "\x85\u2028\ufeff", "no", "1.0"])
def test_any_name_is_valid_yaml(name: str) -> None:
    text = "".join(dict(yolo_files([], [name]))["data.yaml"])  # type: ignore[arg-type]
    assert yaml.safe_load(text)["names"] == {0: name}
