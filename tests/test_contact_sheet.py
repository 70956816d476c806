"""Sheets of annotated pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owlkit.contact_sheet import by_doubt, draw_contact_sheet
from owlkit.detections import Detections
from owlkit.errors import ImageError
from owlkit.labels import LabelledImage


def labelled(path: Path, size: tuple[int, int], score: float | None) -> LabelledImage:
    """A box over the left half of a picture of this width and height; none without a score."""
    width, height = size
    if score is None:
        found = Detections.empty((height, width))
    else:
        found = Detections(
            boxes=np.array([[0, 0, width / 2, height]]),
            scores=np.array([score]),
            labels=np.array([1]),
            names=("cat",),
            image_size=(height, width),
        )
    return LabelledImage(path.name, found, path)


def test_pictures_of_all_shapes_are_drawn_undistorted(tmp_path: Path) -> None:
    images = []
    for number, size in enumerate([(600, 300), (40, 80), (900, 1), (280, 280)]):
        path = tmp_path / f"a very long name of a picture that has no room {number}.png"
        Image.new("RGB", size, (0, 0, 255)).save(path)
        images.append(labelled(path, size, None if number == 1 else 0.25))
    red = (255, 0, 0)
    sheet = np.asarray(draw_contact_sheet(images, palette=[red, red], columns=2))
    assert abs(sheet.shape[1] - 2 * 280) < 30
    blue = (sheet == (0, 0, 255)).all(axis=-1)
    cells = np.argwhere(blue)
    assert len(cells) > 280 * 140 / 2
    # The second picture is twice as high as wide, and has no box.
    right = blue[: len(blue) // 2, sheet.shape[1] // 2 :]
    rows, columns = np.flatnonzero(right.any(axis=1)), np.flatnonzero(right.any(axis=0))
    assert (len(rows), len(columns)) == (280, 140)
    # The box of the first covers its left half: x up to 140 of 280.
    left = (sheet == red).all(axis=-1)[: len(blue) // 2, : sheet.shape[1] // 2]
    assert abs(np.flatnonzero(left.any(axis=0)).max() - 146) <= 6


def test_a_picture_that_is_gone_leaves_its_place_empty(tmp_path: Path) -> None:
    sheet = draw_contact_sheet([labelled(tmp_path / "gone\n.png", (30, 40), 0.5)])
    assert sheet.width >= 280
    with pytest.raises(ImageError, match="with a path to draw"):
        draw_contact_sheet([LabelledImage("a", Detections.empty((1, 1)))])
    with pytest.raises(ImageError, match="one or more pictures"):
        draw_contact_sheet([])


def test_doubtful_images_come_first() -> None:
    scores = {"sure": 0.9, "none": None, "b": 0.1, "a": 0.1}
    assert by_doubt(scores.items()) == ["a", "b", "sure", "none"]
