"""Answers for several pictures as files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owlkit.detections import Detections
from owlkit.queries import QuerySet
from page.desk import Answer, Asked
from page.downloads import write_download
from page.limits import Limits


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Two uploads of one name, as gradio keeps them."""
    paths = [tmp_path / folder / "cup.jpg" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        Image.new("RGB", (40, 30)).save(path)
    return Asked(tuple(map(str, paths)), QuerySet.from_text(["mug", "owl"]))


@pytest.fixture
def answer() -> Answer:
    found = [
        Detections(
            np.array([[1, 2, 21, 12]], np.float32),
            np.array([0.5], np.float32),
            np.array([label]),
            (name,),
            image_size=(30, 40),
        )
        for label, name in enumerate(("mug", "owl"))
    ]
    return Answer(tuple(found), 0.0, 0.0)


def test_two_pictures_of_one_name_stay_two(asked: Asked, answer: Answer, tmp_path: Path) -> None:
    coco = json.loads(Path(write_download("coco", asked, answer, tmp_path, Limits())).read_text())
    assert [one["file_name"] for one in coco["images"]] == ["cup.jpg", "1_cup.jpg"]
    assert [one["category_id"] for one in coco["annotations"]] == [
        one["id"] for one in coco["categories"]
    ]
    with zipfile.ZipFile(write_download("yolo", asked, answer, tmp_path, Limits())) as archive:
        labels = {name: archive.read(name).decode() for name in archive.namelist()}
    assert labels["labels/cup.txt"].startswith("0 ")
    assert labels["labels/1_cup.txt"].startswith("1 ")
    with zipfile.ZipFile(write_download("png", asked, answer, tmp_path, Limits())) as archive:
        assert archive.namelist() == ["cup.png", "1_cup.png"]


def test_every_file_has_a_folder_of_its_own(asked: Asked, answer: Answer, tmp_path: Path) -> None:
    paths = {write_download("coco", asked, answer, tmp_path, Limits()) for _ in range(2)}
    assert len({Path(path).parent for path in paths}) == 2
