"""Pictures are found wherever they lie, each once, in the same order everywhere."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from owlkit.data.captions import CaptionedImage
from owlkit.data.class_images import read_class_images
from owlkit.data.image_sources import captioned_files, read_images
from owlkit.errors import DatasetError, ImageError


def save(path: Path, shade: int, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), shade, np.uint8))
    return path


def test_all_images_below_a_folder_are_found(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    names = ["a.b/3.JPG", "a/1.png", "a/deep/er/2.jpeg", "top.webp"]
    for shade, name in enumerate(names):
        save(folder / name, 40 * shade)
    save(folder / ".trash/4.png", 0)
    save(folder / "a/._1.png", 0)
    (folder / "a/notes.txt").write_text("no picture")
    save(elsewhere / "5.png", 200)
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(folder)
    source = read_images(folder)
    found = [str(Path(source.where(row)).relative_to(folder)) for row in range(len(source))]
    assert found == ["a/1.png", "a/deep/er/2.jpeg", "a.b/3.JPG", "linked/5.png", "top.webp"]
    assert source.read(3).shape == (8, 8, 3)
    assert (source.read(3) == 200).all()


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none: expected a folder of images, found nothing"):
        read_images(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"expected images at any depth, \.jpg.*found none"):
        read_images(tmp_path)


def test_captions_and_classes_are_sources_too(tmp_path: Path) -> None:
    for number, place in enumerate(["cat/1.png", "dog/2.png"]):
        save(tmp_path / place, 100 * number)
    one, two = tmp_path / "dog/2.png", tmp_path / "cat/1.png"
    captions = [CaptionedImage(path, ("text",), None) for path in (one, two, one)]
    assert captioned_files(captions).paths == (str(one), str(two))
    classes = read_class_images(tmp_path)
    assert len(classes) == 2
    assert (classes.read(1, at_least=4) == 100).all()


def test_large_photographs_come_smaller_where_that_is_enough(tmp_path: Path) -> None:
    path = save(tmp_path / "1.jpg", 90, size=256)
    source = read_images(tmp_path)
    assert source.read(0).shape == (256, 256, 3)
    assert source.read(0, at_least=60).shape == (64, 64, 3)
    path.unlink()
    with pytest.raises(ImageError, match=r"1\.jpg"):
        source.read(0)
